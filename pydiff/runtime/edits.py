"""An AttentionEdit as inputs of an exported edit graph, and what that captures as heat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydiff.arrays import Array, cast, like, namespace, placed
from pydiff.nn.edit import AttentionEdit, Capture, Layers
from pydiff.runtime.manifest import AttentionLayer

UNEXPORTED = ("perturbed", "features", "map_edit")  # parts of an edit that the graph has no inputs for


class Sized(NamedTuple):
    """A layer of attention, and how many pixels it has in this call. heat: the output that its attention to the probe
    comes out of, None where it reads no text."""

    name: str
    pixels: int
    heat: str | None


def sized(layers: Sequence[AttentionLayer], pixels: Sequence[int]) -> list[Sized]:
    """The layers with their numbers of pixels."""
    places = iter(range(len(layers)))
    heats = [f"heat_{next(places)}" if layer.text else None for layer in layers]
    return [Sized(layer.name, count, heat) for layer, count, heat in zip(layers, pixels, heats, strict=True)]


def check_edit(edit: AttentionEdit) -> None:
    """Raise ValueError, by name, for what the graph has no inputs for. Tasks refuse the options that lead here."""
    asked = [part for part in UNEXPORTED if getattr(edit, part) is not None]
    asked += ["pixel_edit of content"] if edit.pixel_edit is not None and edit.pixel_edit.borrow != "map" else []
    asked += ["capture of heads"] if any(capture.heat.heads for capture in edit.captures) else []
    if asked:
        raise ValueError(f"the edit has {asked[0]}, which is not in an exported graph; leave it out")


def edit_inputs(edit: AttentionEdit, x: Array) -> dict[str, Array]:
    """The graph's tables for the rows of x (B, C, H, W), of x's kind and where x is; what the edit leaves alone is told
    as such."""
    rows, xp, where = len(x), namespace(x), {"dtype": x.dtype, "device": x.device}
    own = xp.arange(rows, dtype=xp.int64, device=x.device)
    source, transfer, keep = _tables(edit, own, x)
    pixels = edit.pixel_edit
    unborrowed = None if pixels is None else pixels.unborrowed
    return {
        "source": source,
        "transfer": transfer,
        "keep": keep,
        "probe": xp.zeros((rows, edit.tokens, 1), **where) if edit.probe is None else like(edit.probe, x),
        "pixel_source": own if pixels is None else cast(placed(pixels.source, x), xp.int64),
        "unborrowed": xp.zeros(rows, **where) if unborrowed is None else like(unborrowed, x),
        "pooled": own if edit.pooled is None else cast(placed(edit.pooled, x), xp.int64),
    }


def switches(edit: AttentionEdit, layers: Sequence[Sized]) -> dict[str, tuple[float, ...] | float]:
    """The graph's numbers that no row of a batch has its own of: which layers borrow the maps of pixels, and whether
    rows that share a softmax with pixels are scaled to sum to 1."""
    borrowing = Layers(frozenset()) if edit.pixel_edit is None else edit.pixel_edit.layers
    return {
        "pixel_layers": tuple(float(borrowing.has(layer.name, layer.pixels)) for layer in layers),
        "rescale": float(edit.source is not None and edit.pixels == "rescale"),
    }


def captured(edit: AttentionEdit, layers: Sequence[Sized]) -> list[Sized]:
    """The layers of which something is captured."""
    return [layer for layer in layers if layer.heat is not None and any(_takes(one, layer) for one in edit.captures)]


def deliver(edit: AttentionEdit, layer: Sized, attended: Array) -> None:
    """Add attention to the probe's columns, (B, N, K), to the heat that it was captured for."""
    for capture in edit.captures:
        if _takes(capture, layer):
            capture.heat.add(layer.pixels, attended[..., capture.start : capture.stop])


def _takes(capture: Capture, layer: Sized) -> bool:
    return capture.heat.takes(layer.name, layer.pixels)


def _tables(edit: AttentionEdit, own: Array, x: Array) -> tuple[Array, Array, Array]:
    """source (B,), transfer (B, T, T), keep (B, T); 0 and 1 in the rows that borrow from themselves."""
    rows, tokens, xp = len(own), edit.tokens, namespace(x)
    nothing, all_of_it = (
        make(shape, dtype=x.dtype, device=x.device)
        for make, shape in ((xp.zeros, (rows, tokens, tokens)), (xp.ones, (rows, tokens)))
    )
    if edit.source is None or edit.transfer is None or edit.keep is None:
        return own, nothing, all_of_it
    source = cast(placed(edit.source, x), xp.int64)
    alone = source == own
    transfer = xp.where(alone[:, None, None], nothing, like(edit.transfer, x))
    return source, transfer, xp.where(alone[:, None], all_of_it, like(edit.keep, x))
