"""Operators against the same arithmetic composed from torch operators: interleaved medians, printed after a check.

python -m benchmarks.operators [--threads N] [--rounds N] [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pydiff.ops import (
    Step,
    Threshold,
    attention,
    edited_attention,
    edited_attention_reference,
    group_norm_silu,
    guided_step,
    native,
)

STEP = Step(alpha=0.8, sigma=0.6, c_x=0.4, c_denoised=0.5, c_noise=0.1)
SCALE, PERCENTILE, MAX_VALUE = 7.0, 0.95, 1.5
SIZES = (64, 256, 1024)
TOKENS = 77
ATTENTION = (  # batch, heads, queries, keys of text, keys of pixels, head size
    *((2, 8, 4096, 0, 4096, 40), (2, 8, 1024, 0, 1024, 80), (2, 8, 256, 0, 256, 160)),
    *((2, 8, 4096, TOKENS, 0, 40), (2, 8, 1024, TOKENS, 0, 80), (2, 8, 256, TOKENS, 256, 64)),
    *((2, 4, 256, 0, 256, 32), (2, 4, 64, 0, 64, 32), (2, 4, 256, TOKENS, 0, 32), (2, 4, 64, TOKENS, 0, 32)),
)
NORMS = ((1, 128, 64, 64), (2, 320, 32, 32), (1, 64, 256, 256))


class Case(NamedTuple):
    name: str
    ours: Callable[[], Tensor]
    torch: Callable[[], Tensor]
    tolerance: float = 1e-4


class Time(NamedTuple):
    name: str
    ours_us: float
    torch_us: float
    ratio: float


def fused_step(x: Tensor, predictions: Tensor, noise: Tensor, dynamic: bool) -> Tensor:
    threshold = Threshold("dynamic", PERCENTILE, MAX_VALUE) if dynamic else Threshold()
    return guided_step(x, predictions, (SCALE, 1 - SCALE), STEP, threshold=threshold, noise=noise)[0]


def composed_step(x: Tensor, predictions: Tensor, noise: Tensor, dynamic: bool) -> Tensor:
    """Guidance, x0, thresholding and the step as a pipeline writes them."""
    text, null = predictions.unbind()
    eps = null + SCALE * (text - null)
    denoised = (x - STEP.sigma * eps) / STEP.alpha
    if dynamic:
        s = torch.quantile(denoised.abs().flatten(1), PERCENTILE, dim=1).clamp(1, MAX_VALUE).view(-1, 1, 1, 1)
        denoised = torch.clamp(denoised, -s, s) / s
    return denoised.mul(STEP.c_denoised) + STEP.c_x * x + STEP.c_noise * noise


def composed_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, groups, weight, bias))


def step_cases() -> Iterator[Case]:
    for size in SIZES:
        clean, noise, eps = torch.randn(3, 1, 3, size, size)
        x = STEP.alpha * clean.clamp(-1, 1) + STEP.sigma * eps
        predictions = torch.stack([eps, eps + 0.1 * torch.randn_like(eps)])
        for dynamic in (False, True):
            given = (x, predictions, noise, dynamic)
            name = f"guided_step {size}x{size}{' dynamic' if dynamic else ''}"
            yield Case(name, partial(fused_step, *given), partial(composed_step, *given))


def norm_cases() -> Iterator[Case]:
    for shape in NORMS:
        for layout in (torch.contiguous_format, torch.channels_last):
            weight, bias = torch.randn(2, shape[1])
            given = (torch.randn(shape).to(memory_format=layout), 32, weight, bias)
            name = f"group_norm_silu {shape} {str(layout).removeprefix('torch.')}"
            yield Case(name, partial(group_norm_silu, *given), partial(composed_norm, *given))


def attention_cases() -> Iterator[Case]:
    """Attention against torch's, which captures nothing, and edits against maps that are formed and edited."""
    for batch, heads, queries, text, pixels, size in ATTENTION:
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
            shapes = (queries, text + pixels, text + pixels)
            q, k, v = (torch.randn(batch, n, heads, size, dtype=dtype).transpose(1, 2) for n in shapes)
            kind = "self" if not text else "joint" if pixels else "text"
            shape = (batch, heads, queries, text + pixels, size)
            name = f"attention {kind} {shape} {str(dtype).removeprefix('torch.')}"
            peer = partial(F.scaled_dot_product_attention, q, k, v)
            yield Case(name, partial(attention, q, k, v), peer, tolerance)
            if text:
                for columns in (3, text):
                    probe = torch.eye(text)[:, :columns].expand(batch, -1, -1).contiguous()
                    ours = partial(attention, q, k, v, probe=probe, heat=torch.zeros(batch, queries, columns))
                    yield Case(f"{name} capture {columns}", ours, peer, tolerance)
                yield edit_case(f"{name} edit", q, k, v, text, tolerance)


def edit_case(name: str, q: Tensor, k: Tensor, v: Tensor, text: int, tolerance: float) -> Case:
    """All rows borrow half of their share from the first, its words moved by one."""
    rows = len(q)
    source, keep = torch.zeros(rows, dtype=torch.int64), torch.full((rows, text), 0.5)
    transfer = torch.eye(text).roll(1, dims=1).expand(rows, -1, -1) / 2
    ours = partial(edited_attention, q, k, v, source=source, transfer=transfer, keep=keep)
    maps = partial(edited_attention_reference, q, k, v, source=source, transfer=transfer, keep=keep)
    return Case(name, ours, maps, tolerance)


def measure(case: Case, rounds: int) -> Time:
    """Medians of interleaved calls. Raises ArithmeticError, before any time is taken, when the results differ."""
    mine, theirs = case.ours(), case.torch()
    error = float((mine - theirs).abs().max())
    if not error <= case.tolerance:
        raise ArithmeticError(f"{case.name}: results differ by {error:.1e}; no time is printed")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, taken in zip((case.ours, case.torch), times, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    ours, torch_ = (1e6 * statistics.median(taken) for taken in times)
    return Time(case.name, ours, torch_, torch_ / ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the times there")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    core = native.core()
    machine = f"native core: {native.why_missing() if core is None else core.simd()}, {given.threads} threads"
    print(f"{machine}\n{'':64}{'pydiff us':>12}{'torch us':>12}{'ratio':>8}")
    results = []
    for case in chain(step_cases(), norm_cases(), attention_cases()):
        results.append(measure(case, given.rounds))
        print(f"{results[-1].name:64}{results[-1].ours_us:12.0f}{results[-1].torch_us:12.0f}{results[-1].ratio:8.1f}")
    if given.json:
        text = json.dumps({"machine": machine, "results": [result._asdict() for result in results]}, indent=2)
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
