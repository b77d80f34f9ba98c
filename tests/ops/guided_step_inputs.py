"""Inputs of the guided step, and what its error may be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pydiff.ops import Paste, Step, Threshold, guided_step, guided_step_reference, native

DYNAMIC = Threshold("dynamic", 0.9, 1.5)
STEP = Step(alpha=0.6, sigma=0.8, c_x=0.3, c_denoised=0.5, c_raw=-0.2, c_previous=0.4, c_noise=0.7)

needs_core = pytest.mark.skipif(native.core() is None, reason=str(native.why_missing()))


def inputs(shape: tuple[int, ...], branches: int = 2, variance: bool = False, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    batch, channels, *size = shape
    weights = torch.randn(branches, generator=generator).tolist()
    return {
        "x": draw(*shape),
        "predictions": draw(branches, batch, channels * (2 if variance else 1), *size),
        "weights": [1 - sum(weights[1:]), *weights[1:]],
        "previous": draw(*shape),
        "noise": draw(*shape),
    }


def converted(value: Any, dtype: torch.dtype) -> Any:
    """The tensors of an argument, of a Paste, or of several arguments by name, as `dtype`."""
    if isinstance(value, Tensor):
        return value.to(dtype)
    if isinstance(value, Paste):
        return Paste(*(converted(field, dtype) for field in value))
    return {key: converted(own, dtype) for key, own in value.items()} if isinstance(value, dict) else value


def check(given: dict[str, Any], step: Step, **options: Any) -> None:
    """The native error may be twice torch's own, both against float64."""
    mine = guided_step(**given, step=step, **options)
    plain = guided_step_reference(**given, step=step, **options)
    exact = guided_step_reference(**converted(given | options, torch.float64), step=step)
    for ours, theirs, truth in zip(mine, plain, exact, strict=True):
        assert ours.dtype == torch.float32
        assert not ours.isnan().any()
        tiny = 4e-7 * truth.abs().max()
        assert (ours - truth).abs().max() <= 2 * (theirs - truth).abs().max() + tiny
