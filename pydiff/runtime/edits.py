"""An AttentionEdit as inputs of an exported edit graph, and what that captures as heat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def edit_inputs(edit: AttentionEdit, rows: int, layers: Sequence[Sized]) -> dict[str, NDArray[Any]]:
    """The graph's inputs for so many rows; what the edit leaves alone is told as such."""
    own = np.arange(rows, dtype=np.int64)
    source, transfer, keep = _tables(edit, own)
    pixels = edit.pixel_edit
    borrowing = Layers(frozenset()) if pixels is None else pixels.layers
    probe = np.zeros((rows, edit.tokens, 1)) if edit.probe is None else edit.probe
    unborrowed = np.zeros(rows) if pixels is None or pixels.unborrowed is None else pixels.unborrowed
    rescaled = edit.source is not None and edit.pixels == "rescale"
    made: Mapping[str, Any] = {
        "source": source,
        "transfer": transfer,
        "keep": keep,
        "probe": probe,
        "pixel_source": own if pixels is None else pixels.source,
        "pixel_layers": np.array([borrowing.has(layer.name, layer.pixels) for layer in layers]),
        "unborrowed": unborrowed,
        "rescale": np.array(rescaled),
        "pooled": own if edit.pooled is None else edit.pooled,
    }
    whole = ("source", "pixel_source", "pooled")
    return {name: np.asarray(value, np.int64 if name in whole else np.float32) for name, value in made.items()}


def captured(edit: AttentionEdit, layers: Sequence[Sized]) -> list[Sized]:
    """The layers of which something is captured."""
    return [layer for layer in layers if layer.heat is not None and any(_takes(one, layer) for one in edit.captures)]


def deliver(edit: AttentionEdit, layer: Sized, attended: NDArray[np.float32]) -> None:
    """Add attention to the probe's columns, (B, N, K), to the heat that it was captured for."""
    for capture in edit.captures:
        if _takes(capture, layer):
            capture.heat.add(layer.pixels, attended[..., capture.start : capture.stop])  # type: ignore[arg-type]


def _takes(capture: Capture, layer: Sized) -> bool:
    return capture.heat.takes(layer.name, layer.pixels)


def _tables(edit: AttentionEdit, own: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """source (B,), transfer (B, T, T), keep (B, T); 0 and 1 in the rows that borrow from themselves."""
    rows, tokens = len(own), edit.tokens
    if edit.source is None or edit.transfer is None or edit.keep is None:
        return own, np.zeros((rows, tokens, tokens)), np.ones((rows, tokens))
    source, transfer, keep = (np.asarray(part) for part in (edit.source, edit.transfer, edit.keep))
    alone = source == own
    return source, np.where(alone[:, None, None], 0, transfer), np.where(alone[:, None], 1, keep)
