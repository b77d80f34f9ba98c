"""A torch model behind NumPy arrays: what host code sees of an exported one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

import pydiff
from pydiff.arrays import on_host
from pydiff.cascade import Stage
from pydiff.nn.cond import Cond
from pydiff.nn.edit import AttentionEdit, Capture, Heat
from pydiff.text.encoders import Encoded


def as_torch(part: Any) -> Any:
    """Arrays in tuples and mappings as tensors; all other values as they are."""
    if isinstance(part, torch.Tensor):
        raise AssertionError("the host gave a tensor to a network without torch")
    if isinstance(part, np.ndarray):
        return torch.from_numpy(part.copy())
    if isinstance(part, dict):
        return {name: as_torch(value) for name, value in part.items()}
    if isinstance(part, tuple):
        parts = [as_torch(value) for value in part]
        return part._make(parts) if hasattr(part, "_make") else tuple(parts)
    return part


class Told:
    """A conditioning that was prepared, and an edit that a run replaces."""

    def __init__(self, made: Any, edit: AttentionEdit | None = None) -> None:
        self.made, self.edit = made, edit

    def _replace(self, edit: AttentionEdit) -> Told:
        return Told(self.made, edit)


class Behind:
    """A module: floats are float32, arguments and results NumPy's."""

    like = np.empty(0, np.float32)

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


class Denoiser(Behind):
    def prepare(self, cond: Cond) -> Told:
        with torch.inference_mode():
            return Told(self.module.prepare(as_torch(cond)))

    def __call__(self, x: Any, t: Any, told: Told, /) -> Any:
        edit = told.edit
        heats = [] if edit is None else [Heat(one.heat.layers, one.heat.sizes) for one in edit.captures]
        made = told.made
        if edit is not None:
            captures = tuple(Capture(to, one.start, one.stop) for to, one in zip(heats, edit.captures, strict=True))
            made = made._replace(edit=as_torch(edit._replace(captures=captures)))
        with torch.inference_mode():
            result = self.module(as_torch(x), as_torch(np.asarray(t)), made).numpy()
        for to, one in zip(heats, () if edit is None else edit.captures, strict=True):
            for pixels, sums in to.sums.items():
                one.heat.add(pixels, sums.numpy())  # type: ignore[arg-type]
                one.heat.counts[pixels] += to.counts[pixels] - 1
        return result


class Codec(Behind):
    def encode(self, image: Any, noise: Any = None, **how: Any) -> Any:
        with torch.inference_mode():
            return self.module.encode(as_torch(image), as_torch(noise), **how).numpy()

    def decode(self, z: Any, **how: Any) -> Any:
        with torch.inference_mode():
            return self.module.decode(as_torch(z), **how).numpy()


class Text(Behind):
    def encode(self, *given: Any, **options: Any) -> Encoded:
        return _plain(self.module.encode(*given, **options))

    def encode_pair(self, *given: Any, **options: Any) -> tuple[Encoded, ...]:
        return tuple(map(_plain, self.module.encode_pair(*given, **options)))


def _plain(encoded: Encoded) -> Encoded:
    return Encoded(*(None if part is None else on_host(part) for part in encoded))  # type: ignore[arg-type]


def numpy_pipeline(pipe: pydiff.Pipeline) -> pydiff.Pipeline:
    """The same model without torch in what the host sees of it."""
    texts: dict[int, Text] = {}  # the same encoder stays the same

    def behind(stage: Stage) -> Stage:
        parts: dict[str, Any] = {"unet": Denoiser(stage.unet)}
        parts["codec"] = None if stage.codec is None else Codec(stage.codec)
        parts["text"] = None if stage.text is None else texts.setdefault(id(stage.text), Text(stage.text))
        return dataclasses.replace(stage, **parts)

    cascade = pipe.cascade
    return pydiff.Pipeline(dataclasses.replace(cascade, stages=tuple(map(behind, cascade.stages))))
