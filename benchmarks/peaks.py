"""What the machine can do: large matrix products, large convolutions, a large copy; what other times are shares of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.measure import Figure, Table, interleaved, synchronised

PRODUCTS = ((2048, 2048, 2048), (4096, 1024, 1024))  # rows, columns, inner size
CONVOLUTIONS = ((2, 640, 32), (2, 256, 64))  # batch, channels, side; 3x3
COPIED = 1 << 28  # bytes
CHOOSING, ROUNDS = 3, 5  # repetitions to find the fastest, and to measure it
LARGER = 4  # on a GPU, every size is so many times larger
TYPES = (torch.float32, torch.bfloat16)


class Probe(NamedTuple):
    """A call, and its floating-point operations or bytes."""

    name: str
    call: Callable[[], object]
    work: float


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def probes(dtype: torch.dtype, device: str) -> Iterator[Probe]:
    """Products and convolutions, with weights as they are and, on a CPU, packed for oneDNN before."""
    larger = LARGER if device == "cuda" else 1
    for rows, columns, inner in PRODUCTS:
        a = torch.randn(larger * rows, inner, dtype=dtype, device=device)
        w = torch.randn(larger * columns, inner, dtype=dtype, device=device)
        work, what = 2.0 * a.shape[0] * w.shape[0] * inner, f"product {a.shape[0]}x{w.shape[0]}x{inner}"
        yield Probe(what, partial(F.linear, a, w), work)
        if device == "cpu":
            yield Probe(f"{what}, packed", _packed_product(a, w), work)
    for batch, channels, side in CONVOLUTIONS:
        x = torch.randn(larger * batch, channels, side, side, dtype=dtype, device=device)
        x = x.contiguous(memory_format=torch.channels_last)
        w = torch.randn(channels, channels, 3, 3, dtype=dtype, device=device)
        w = w.contiguous(memory_format=torch.channels_last)
        work, what = 18.0 * x.shape[0] * (channels * side) ** 2, f"convolution {tuple(x.shape)}"
        yield Probe(what, partial(F.conv2d, x, w, padding=1), work)
        if device == "cpu":
            yield Probe(f"{what}, packed", _packed_convolution(x, w), work)


def _packed_product(a: torch.Tensor, w: torch.Tensor) -> Callable[[], object]:
    operators: Any = torch.ops.mkldnn
    packed = operators._reorder_linear_weight(w, a.shape[0])
    return partial(operators._linear_pointwise, a, packed, None, "none", [], "")


def _packed_convolution(x: torch.Tensor, w: torch.Tensor) -> Callable[[], object]:
    operators: Any = torch.ops.mkldnn
    how = ((1, 1), (1, 1), (1, 1), 1)  # padding, stride, dilation, groups
    packed = operators._reorder_convolution_weight(w, *how, list(x.shape))
    return partial(operators._convolution_pointwise, x, packed, None, *how, "none", [], "")


def copy_probe(device: str) -> Probe:
    source = torch.zeros(COPIED // 4, device=device)
    return Probe("copy", partial(torch.empty_like(source).copy_, source), 2.0 * COPIED)


def fastest(device: str) -> dict[str, Probe]:
    """The probe of the highest rate of each type, and the copy, for use beside other calls: by type, and "copy"."""
    found: dict[str, Probe] = {"copy": copy_probe(device)}
    for dtype in TYPES:
        tried = list(probes(dtype, device))
        times = interleaved({probe.name: synchronised(probe.call, device) for probe in tried}, CHOOSING)
        found[named(dtype)] = max(tried, key=lambda probe: probe.work / times[probe.name].median)
    return {name: probe._replace(call=synchronised(probe.call, device)) for name, probe in found.items()}


def rates(best: Mapping[str, Probe]) -> dict[str, float]:
    """Of each, per second."""
    times = interleaved({name: probe.call for name, probe in best.items()}, ROUNDS)
    return {name: probe.work / times[name].median for name, probe in best.items()}


def table(title: str, best: Mapping[str, Probe], rates: Mapping[str, float]) -> Table:
    """rates: per second, by the names of `best`."""
    made = Table(title, ("what", "type", "rate", "unit"))
    for name, probe in best.items():
        unit = "GB/s" if name == "copy" else "GFLOP/s"
        made.add(probe.name, "" if name == "copy" else name, Figure(rates[name] / 1e9), unit)
    return made
