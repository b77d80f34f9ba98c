"""Pipeline folders in the diffusers layout, opened as the stages of a cascade."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from pydiff.cascade import PLAIN, UPSCALE, Cascade, Stage
from pydiff.folders.index import Index, read_index
from pydiff.folders.parts import How
from pydiff.folders.stages import open_stages
from pydiff.text.encoders import TextEncoder

__all__ = ["open_cascade"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def open_cascade(
    folders: Sequence[str | os.PathLike[str]],
    name: str,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    variant: str | None = None,
) -> Cascade:
    """A cascade of one folder per stage, small first. ValueError names what does not fit, before weights are read
    wherever that can be told."""
    how = _how(dtype, device, variant)
    indexes = [read_index(Path(folder)) for folder in folders]
    stages: list[Stage] = []
    text: TextEncoder | None = None
    for index in indexes:
        for stage in open_stages(index, how, text):
            stages.append(_in_place(index, stage, stages))
            text = text or stage.text
    size = indexes[0].settings.get("size")  # one that the folders given do not reach is passed over
    sides = [max(stage.size) for stage in stages]
    return Cascade(name, tuple(stages), size if size in sides else sides[-1])


def _how(dtype: torch.dtype, device: str | torch.device, variant: str | None) -> How:
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}; expected one of {', '.join(map(str, DTYPES))}")
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device!r}, which does not work here: {str(error).splitlines()[0]}") from error
    return How(dtype, where, variant)


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
    return stage
