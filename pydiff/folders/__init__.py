"""Pipeline folders in the diffusers layout, opened as the stages of a cascade."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydiff.cascade import PLAIN, UPSCALE, Cascade, Stage
from pydiff.folders.index import Index, read_index
from pydiff.folders.networks import Networks
from pydiff.folders.single import read_single
from pydiff.folders.stages import open_stages
from pydiff.text.encoders import TextEncoder
from pydiff.weights.files import is_single_file
from pydiff.weights.hub import hub_folder, is_hub_id
from pydiff.weights.waiting import weights_last

if TYPE_CHECKING:
    import torch

__all__ = ["Networks", "open_cascade", "open_indexes", "read_index"]


def open_cascade(
    models: Sequence[str | os.PathLike[str]],
    name: str,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    variant: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    prediction_type: str | None = None,
) -> Cascade:
    """A cascade of one folder, file or hub id per stage, small first, whose networks torch runs. dtype: None for
    float32. ValueError names what does not fit, before weights are read; but for NaN and infinities in them."""
    from pydiff.folders.torch_networks import torch_networks

    networks = torch_networks(dtype, device, variant)
    words = None if tokenizer is None else Path(tokenizer)
    return open_indexes([_read(model, variant, words, prediction_type) for model in models], networks, name)


def open_indexes(indexes: Sequence[Index], networks: Networks, name: str) -> Cascade:
    """A cascade of what folders say of themselves, small first, and an engine's networks. ValueError as
    `open_cascade`."""
    stages: list[Stage] = []
    text: TextEncoder | None = None
    with weights_last():
        for index in indexes:
            for stage in open_stages(index, networks.of(index), text):
                stages.append(_in_place(index, stage, stages))
                text = text or stage.text
    size = indexes[0].settings.get("size")  # one that the folders given do not reach is passed over
    sides = [max(stage.size) for stage in stages]
    return Cascade(name, tuple(stages), size if size in sides else sides[-1])


def _read(
    model: str | os.PathLike[str], variant: str | None, tokenizer: Path | None, prediction_type: str | None
) -> Index:
    if is_single_file(model):
        return read_single(Path(model), prediction_type, tokenizer)
    for name, value in (("tokenizer", tokenizer), ("prediction_type", prediction_type)):
        if value is not None:
            raise ValueError(f"{name} is for single files, but {model} is none; its folder says that itself")
    return read_index(hub_folder(model, variant) if is_hub_id(model) else Path(model))


def _in_place(index: Index, stage: Stage, before: Sequence[Stage]) -> Stage:
    """A stage after others: one that enlarges, at the size that it makes of theirs."""
    if not before:
        return stage
    if stage.kind != UPSCALE:
        kind = "a base stage" if stage.kind == PLAIN else f"a {index.pipeline}"
        raise ValueError(f"{index.folder} is {kind}; only the first of a cascade's folders can be one")
    height, width = before[-1].size
    if "scale" in stage.traits:
        scale = stage.traits["scale"]
        return dataclasses.replace(stage, size=(height * scale, width * scale))
    if max(stage.size) <= max(height, width):
        raise ValueError(
            f"{index.folder} makes {max(stage.size)} pixels after a stage of {max(height, width)}; "
            "give small stages first"
        )
    if height * stage.size[1] != width * stage.size[0]:
        made, small = (" x ".join(map(str, size)) for size in (stage.size, (height, width)))
        raise ValueError(
            f"{index.folder} makes {made} pixels after a stage of {small}; expected the same shape, larger"
        )
    return stage
