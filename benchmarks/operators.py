"""Operators against the same arithmetic composed from torch operators: interleaved medians, printed after a check,
with pydiff's share of what the machine does in a large product of the same type or in a large copy.

python -m benchmarks.operators [--threads N] [--rounds N] [--json PATH]
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import peaks
from benchmarks.measure import Table, machine, write_json
from pydiff.ops import Step, Threshold, guided_step, native
from pydiff.ops.attention import attention, attention_reference, edited_attention, edited_attention_reference
from pydiff.ops.group_norm_silu import group_norm_silu

STEP = Step(alpha=0.8, sigma=0.6, c_x=0.4, c_denoised=0.5, c_noise=0.1)
SCALE, PERCENTILE, MAX_VALUE = 7.0, 0.95, 1.5
SIZES = (64, 256, 1024)
ATTENTION = (  # family, batch, heads, queries, keys of text, keys of pixels, head size
    *(("SD 1.5", 2, 8, n, 0, n, d) for n, d in ((4096, 40), (1024, 80), (256, 160), (64, 160))),
    *(("SD 1.5", 2, 8, n, 77, 0, d) for n, d in ((4096, 40), (1024, 80), (256, 160), (64, 160))),
    *(("SD 2", 2, heads, n, 0, n, 64) for n, heads in ((1024, 10), (256, 20))),
    *(("SD 2", 2, heads, n, 77, 0, 64) for n, heads in ((4096, 5), (1024, 10))),
    *(("IF", 2, heads, n, 77, n, 64) for n, heads in ((1024, 8), (256, 12), (64, 16))),
    *(("embedded", 2, heads, n, 32, n, 32) for n, heads in ((256, 2), (64, 4))),
)
WORDS = 3  # captured
PLAIN = ("torch us", "plain us", "torch / plain", "of peak", "capture us", "torch / capture", "capture / plain")
MAPS = ("maps us", "edit us", "maps / edit", "maps / capture", "edit / plain", "maps MiB", "edit MiB")
MIB = 2**20
NORMS = ((1, 128, 64, 64), (2, 320, 32, 32), (1, 64, 256, 256))


class Case(NamedTuple):
    """moved: bytes that the operator must read and write."""

    name: str
    ours: Callable[[], Tensor]
    torch: Callable[[], Tensor]
    moved: int
    tolerance: float = 1e-4


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
            moved = 6 * x.nbytes  # x, two predictions and noise; x and the estimate
            yield Case(name, partial(fused_step, *given), partial(composed_step, *given), moved)


def norm_cases() -> Iterator[Case]:
    for shape in NORMS:
        for layout in (torch.contiguous_format, torch.channels_last):
            weight, bias = torch.randn(2, shape[1])
            given = (torch.randn(shape).to(memory_format=layout), 32, weight, bias)
            name = f"group_norm_silu {shape} {str(layout).removeprefix('torch.')}"
            moved = 2 * given[0].nbytes
            yield Case(name, partial(group_norm_silu, *given), partial(composed_norm, *given), moved)


def attend(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Every way to one attention: torch's, which captures nothing, ours, and those that form maps."""
    batch, heads, queries, text, pixels, size = shape
    keys = text + pixels
    q, k, v = (torch.randn(batch, n, heads, size, dtype=dtype).transpose(1, 2) for n in (queries, keys, keys))
    calls: dict[str, Callable[[], Tensor]] = {
        "torch": partial(F.scaled_dot_product_attention, q, k, v),
        "torch, dense": partial(F.scaled_dot_product_attention, q.contiguous(), k.contiguous(), v.contiguous()),
        "plain": partial(attention, q, k, v),
    }
    if text:
        eye = torch.eye(text)
        probe = {"probe": eye[:, :WORDS].expand(batch, -1, -1).contiguous(), "heat": torch.zeros(batch, queries, WORDS)}
        transfer = (eye.roll(1, dims=1) / 2).expand(batch, -1, -1).contiguous()  # words moved by one, half of each
        source = torch.zeros(batch, dtype=torch.int64)
        tables: dict[str, Any] = {"source": source, "transfer": transfer, "keep": torch.full((batch, text), 0.5)}
        calls["capture"] = partial(attention, q, k, v, **probe)
        calls["capture, maps"] = partial(attention_reference, q, k, v, **probe)
        calls["edit"] = partial(edited_attention, q, k, v, **tables)
        calls["edit, maps"] = partial(edited_attention_reference, q, k, v, **tables)
    return calls


def agree(name: str, mine: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Raises ArithmeticError, before any time is taken, when the results differ."""
    error = float((mine - theirs).abs().max())
    if not error <= tolerance:
        raise ArithmeticError(f"{name}: results differ by {error:.1e}; no time is printed")


def timed(calls: dict[str, Callable[[], Tensor]], rounds: int, seconds: float = 1.0) -> dict[str, float]:
    """Medians of interleaved calls, microseconds: of 5 rounds at least, of `rounds` if they fit into the seconds."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for done in range(rounds):
        if done >= 5 and time.perf_counter() - began > seconds:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(values) for name, values in taken.items()}


def peak(call: Callable[[], Tensor]) -> str:
    """MiB that a call takes at its height; - where the system does not say."""
    status = Path("/proc/self/status")
    try:
        ctypes.CDLL(None).malloc_trim(0)
        before = _kibibytes(status, "VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back
        call()
        return f"{1024 * (_kibibytes(status, 'VmHWM') - before) / MIB:.0f}"
    except (OSError, AttributeError):
        return "-"


def _kibibytes(status: Path, field: str) -> int:
    return int(status.read_text().split(f"{field}:")[1].split()[0])


def attention_tables(rounds: int, rates: Mapping[str, float]) -> list[Table]:
    """Attention and its captures against torch's that captures nothing, and against maps that are formed."""
    plain = Table("attention: batch, heads, queries, keys, head size", ("shape", "type", *PLAIN))
    maps = Table("edits and captures against maps that are formed", ("shape", "type", *MAPS))
    for family, *shape in ATTENTION:
        batch, heads, queries, text, pixels, size = shape
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
            kind = "self" if not text else "joint" if pixels else "text"
            name = f"{family} {kind} {batch}, {heads}, {queries}, {text + pixels}, {size}"
            calls, label = attend(tuple(shape), dtype), str(dtype).removeprefix("torch.")
            first = {key: call() for key, call in calls.items()}
            agree(name, first["plain"], first["torch"], tolerance)
            if text:
                agree(f"{name} capture", first["capture"], first["torch"], tolerance)
                agree(f"{name} edit", first["edit"], first["edit, maps"], tolerance)
            del first
            us = timed(calls, rounds)
            peer, ours, capture = min(us["torch"], us["torch, dense"]), us["plain"], us.get("capture")
            captured = ("", "", "") if capture is None else _cells(capture, peer / capture, capture / ours)
            share = 4e6 * batch * heads * queries * (text + pixels) * size / ours / rates[label]
            plain.add(name, label, *_cells(peer, ours, peer / ours), f"{share:.0%}", *captured)
            if capture is not None:
                formed, edit = us["edit, maps"], us["edit"]
                ratios = _cells(formed / edit, us["capture, maps"] / capture, edit / ours)
                memory = peak(calls["edit, maps"]), peak(calls["edit"])
                maps.add(name, label, *_cells(formed, edit), *ratios, *memory)
    return [plain, maps]


def _cells(*numbers: float) -> tuple[str, ...]:
    """Times of at least 20 us whole, ratios with two digits."""
    return tuple(f"{number:.0f}" if number >= 20 else f"{number:.2f}" for number in numbers)


def operator_table(rounds: int, rates: Mapping[str, float]) -> Table:
    columns = ("operator", "pydiff us", "torch us", "ratio", "of a copy's bytes per second")
    table = Table("guided step, and GroupNorm with SiLU", columns)
    for case in (*step_cases(), *norm_cases()):
        agree(case.name, case.ours(), case.torch(), case.tolerance)
        us = timed({"ours": case.ours, "torch": case.torch}, rounds)
        share = f"{1e6 * case.moved / us['ours'] / rates['copy']:.0%}"  # above 1 in the caches
        table.add(case.name, *_cells(us["ours"], us["torch"], us["torch"] / us["ours"]), share)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the times there")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    core = native.core()
    print(f"{machine()}; native core: {native.why_missing() if core is None else core.simd()}")
    best = peaks.fastest("cpu")
    rates = peaks.rates(best)
    machine_table = peaks.table("the machine", best, rates)
    tables = [machine_table, operator_table(given.rounds, rates), *attention_tables(given.rounds, rates)]
    for table in tables:
        print(table)
    if given.json:
        write_json(given.json, tables)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
