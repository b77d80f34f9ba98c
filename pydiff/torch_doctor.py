"""What `pydiff doctor` finds where torch is there: CUDA, and whether each operator computes what it should."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from pydiff.findings import THRESHOLDS, TOLERANCE, Finding, build, checked
from pydiff.ops import Paste, Step, attention_triton, guided_step, guided_step_reference, native
from pydiff.ops.attention import edited_attention, edited_attention_reference
from pydiff.ops.group_norm_silu import group_norm_silu, group_norm_silu_reference

BFLOAT16_TOLERANCE = 3e-2


def cuda() -> Iterator[Finding]:
    """The device, and what serves it."""
    if not torch.cuda.is_available():
        yield Finding("missing", "cuda", "torch sees no CUDA device; pydiff runs on the CPU")
        return
    core, device = native.core(), torch.cuda.get_device_name()
    if core is not None and core.cuda:
        yield Finding("ok", "cuda", f"{device}, native kernels serve guided_step")
    else:
        why = build().get("cuda", "no native core")
        yield Finding("missing", "cuda", f"{device}, torch serves guided_step, for there are no native kernels: {why}")
    reason = attention_triton.why_missing()
    if reason is None:
        version = importlib.metadata.version("triton")
        yield Finding("ok", "triton", f"{version} serves attention in 16 bits on CUDA devices")
    else:
        yield Finding("missing", "triton", f"torch serves attention on CUDA devices: {reason}")


def operators() -> Iterator[Finding]:
    """A check of every operator on every device."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        for name, (check, tolerance) in CHECKS.items():
            yield checked(f"{name} on {device}", partial(check, device), tolerance)


def _guided_step(device: str) -> float:
    x, previous, noise, x0 = _random(4, 2, 3, 65, 67, device=device)
    mask = (x0[:, :1] + 0.5).clamp(0, 1)
    predictions = _random(2, 2, 6, 65, 67, device=device)
    step = Step(0.6, 0.8, 0.3, 0.5, c_raw=-0.2, c_previous=0.4, c_noise=1.0, log_variance=(-5.0, -1.0))
    worst = 0.0
    for threshold in THRESHOLDS:
        results = [
            run(
                x.to(dtype),
                predictions.to(dtype),
                (3.0, -2.0),
                step,
                threshold=threshold,
                previous=previous.to(dtype),
                noise=noise.to(dtype),
                paste=Paste(x0.to(dtype), mask.to(dtype), 0.8, 0.6, noise.to(dtype)),
                rescale=0.5,
            )
            for run, dtype in ((guided_step, torch.float32), (guided_step_reference, torch.float64))
        ]
        worst = max(worst, *(_error(mine, exact) for mine, exact in zip(*results, strict=True)))
    return worst


def _group_norm_silu(device: str) -> float:
    x, weight, bias = _random(2, 12, 17, 19, device=device), *_random(2, 12, device=device)
    scale, shift = _random(2, 2, 12, device=device)
    given = (weight, bias, scale, shift)
    wide = [tensor.double() for tensor in given]
    worst = 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        own = x.to(memory_format=layout)
        mine = group_norm_silu(own, 4, weight, bias, scale=scale, shift=shift)
        exact = group_norm_silu_reference(own.double(), 4, wide[0], wide[1], scale=wide[2], shift=wide[3])
        worst = max(worst, _error(mine, exact))
    return worst


def _attention(device: str, own: torch.dtype = torch.float32) -> float:
    """One row plain, one edited, text before pixels: the output and what is captured."""
    q, k, v = (_random(2, 3, n, 40, device=device).to(own) for n in (70, 200, 200))
    transfer, keep, probe = _random(2, 77, 77, device=device).softmax(-1), *_random(2, 2, 77, 3, device=device).abs()
    found = []
    for run, dtype in ((edited_attention, own), (edited_attention_reference, torch.float64)):
        wide = torch.promote_types(dtype, torch.float32)
        heat = torch.zeros(2, 70, 3, dtype=wide, device=device)
        out = run(
            *(x.to(dtype) for x in (q, k, v)),
            source=torch.zeros(2, dtype=torch.int64, device=device),
            transfer=transfer.to(wide),
            keep=keep[..., 0].to(wide),
            probe=probe.to(wide),
            heat=heat,
        )
        found.append((out, heat))
    return max(_error(mine, exact) for mine, exact in zip(*found, strict=True))


CHECKS: dict[str, tuple[Callable[[str], float], float]] = {  # and how far each may be from float64
    "guided_step": (_guided_step, TOLERANCE),
    "group_norm_silu": (_group_norm_silu, TOLERANCE),
    "attention": (_attention, TOLERANCE),
    "attention in bfloat16": (partial(_attention, own=torch.bfloat16), BFLOAT16_TOLERANCE),
}


def _random(*shape: int, device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def _error(mine: Tensor, exact: Tensor) -> float:
    """The largest error over the largest value; infinite for NaN."""
    error = float((mine - exact).abs().max() / exact.abs().max())
    return error if error == error else float("inf")
