"""Triton's attention on a GPU against every backend of torch's: interleaved medians, printed after a check.

python -m benchmarks.kernels [--tune] [--rounds N] [--json PATH]

A time is that of one call in a CUDA graph of many: what the device does, without the time Python takes to ask for it.
--tune tries block shapes instead, and prints the fastest of every shape beside the one that pydiff chooses.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.measure import Table, Times, interleaved, machine, write_json
from pydiff.ops import attention_triton
from pydiff.ops.attention import attention, attention_reference, edited_attention, edited_attention_reference

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
COLUMNS = ("attention", "shape", "pydiff", *BACKENDS, "maps", "fastest other / pydiff")
TOKENS = 77
SELF = ((2, 8, 4096, 40), (2, 8, 1024, 80), (2, 8, 256, 160), (2, 10, 4096, 64), (2, 20, 1024, 64))
TEXT = ((2, 8, 4096, 40), (2, 8, 1024, 80), (2, 8, 256, 160))
JOINT = ((2, 22, 1024, 64), (2, 22, 256, 64), (2, 22, 64, 64))
CALLS = 50  # in one graph
CHECKED = 128  # queries that are compared with float64
TOLERANCE = 2e-2  # of bfloat16 against float64, where values are about 1

Run = Callable[[], Tensor]


class Case(NamedTuple):
    """peers compute what `ours` does, or less: torch's operator captures nothing. `exact` is float64, of CHECKED
    queries, for `ours` and for the peers."""

    kind: str
    shape: tuple[int, ...]
    ours: Run
    peers: dict[str, Run]
    exact: tuple[Tensor, Tensor]


def draw(shape: tuple[int, ...], keys: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v in bfloat16, as a network has them, of (B, H, N, d)."""
    batch, heads, queries, size = shape
    q, k, v = (
        torch.randn(batch, n, heads, size, device=device, dtype=torch.bfloat16).transpose(1, 2)
        for n in (queries, keys, keys)
    )
    return q, k, v


def on_backend(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v)


def backends(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Run]:
    return {name: partial(on_backend, backend, q, k, v) for name, backend in BACKENDS.items()}


def exactly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention_reference(q[:, :, :CHECKED].double(), k.double(), v.double())


def plain_cases(shape: tuple[int, ...], keys: int, text: int, device: str) -> Iterator[Case]:
    """Attention without a capture and, where there is text, with one, beside maps that are formed to capture it."""
    q, k, v = draw(shape, keys, device)
    exact = exactly(q, k, v)
    kind = "self" if not text else "text" if text == keys else "joint"
    yield Case(kind, shape, partial(attention, q, k, v), backends(q, k, v), (exact, exact))
    for columns in (3, text) if text else ():
        probe = torch.eye(text, device=device)[:, :columns].expand(shape[0], -1, -1).contiguous()
        capture = {"probe": probe, "heat": torch.zeros(shape[0], shape[2], columns, device=device)}
        peers = backends(q, k, v) | {"maps": partial(attention_reference, q, k, v, **capture)}
        yield Case(f"{kind}, capture {columns}", shape, partial(attention, q, k, v, **capture), peers, (exact, exact))


def shared_case(shape: tuple[int, ...], device: str) -> Case:
    """Replaced self-attention: the second row has the first one's map. Torch makes it twice."""
    q, k, v = draw(shape, shape[2], device)
    rows = torch.zeros(shape[0], dtype=torch.int64, device=device)
    gathered = (q[rows], k[rows], v)
    exact = exactly(*gathered)
    ours = partial(attention, q, k, v, q_rows=rows, k_rows=rows)
    return Case("self, shared map", shape, ours, backends(*gathered), (exact, exact))


def edited_case(shape: tuple[int, ...], keys: int, text: int, device: str) -> Case:
    """The second row borrows half of its text's share from the first, moved by one word. Torch's operator edits
    nothing; only the maps, which are formed and edited, compute the same."""
    q, k, v = draw(shape, keys, device)
    source = torch.zeros(shape[0], dtype=torch.int64, device=device)
    keep = torch.full((shape[0], text), 0.5, device=device)
    transfer = torch.eye(text, device=device).roll(1, dims=1).expand(shape[0], -1, -1).contiguous() / 2
    maps = partial(edited_attention_reference, source=source, transfer=transfer, keep=keep)
    exact = maps(q[:, :, :CHECKED].double(), k.double(), v.double())
    ours = partial(edited_attention, q, k, v, source=source, transfer=transfer, keep=keep)
    kind = "text, edit" if text == keys else "joint, edit"
    return Case(kind, shape, ours, backends(q, k, v) | {"maps": partial(maps, q, k, v)}, (exact, exactly(q, k, v)))


def cases(device: str) -> Iterator[Case]:
    for shape in SELF:
        yield from plain_cases(shape, shape[2], 0, device)
        yield shared_case(shape, device)
    for shape, pixels in [*((shape, 0) for shape in TEXT), *((shape, shape[2]) for shape in JOINT)]:
        yield from plain_cases(shape, TOKENS + pixels, TOKENS, device)
        yield edited_case(shape, TOKENS + pixels, TOKENS, device)


def check(case: Case) -> dict[str, Run]:
    """All that can run the case, pydiff first. Raises ArithmeticError when a result is not the float64 one."""
    runs = {"pydiff": case.ours}
    for name, run in ({"pydiff": case.ours} | case.peers).items():
        try:
            out = run()[:, :, :CHECKED].double()
        except RuntimeError:  # a backend that does not take this shape
            continue
        exact = case.exact[0 if name in ("pydiff", "maps") else 1]
        error = float((out - exact).abs().max())
        if not error <= TOLERANCE:
            raise ArithmeticError(f"{name}, {case.kind} {case.shape}: off by {error:.1e}; no time is printed")
        runs[name] = run
    return runs


def graphed(run: Run) -> Callable[[], None]:
    """CALLS calls as one graph, waited for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            run()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay


def timed(runs: Mapping[str, Run], rounds: int) -> dict[str, Times]:
    """Seconds of one call each."""
    times = interleaved({name: graphed(run) for name, run in runs.items()}, rounds)
    return {name: Times(tuple(seconds / CALLS for seconds in time.seconds)) for name, time in times.items()}


def measure(rounds: int) -> Table:
    table = Table("Microseconds of one call, bfloat16", COLUMNS)
    for case in cases("cuda"):
        times = {name: 1e6 * time.median for name, time in timed(check(case), rounds).items()}
        fastest = min(time for name, time in times.items() if name != "pydiff") / times["pydiff"]
        shown = (f"{times[name]:.1f}" if name in times else "-" for name in ("pydiff", *BACKENDS, "maps"))
        table.add(case.kind, case.shape, *shown, f"{fastest:.2f}")
        print(" | ".join(map(str, table.rows[-1])), flush=True)
    return table


def candidates(kernels: ModuleType, text: bool) -> Iterator[tuple[int, ...]]:
    """Block shapes worth a try: queries, keys, warps, stages."""
    if text:
        yield from (kernels.Blocks(*it) for it in itertools.product((16, 32, 64, 128), (0,), (2, 4, 8), (1, 2)))
    else:
        yield from (kernels.Blocks(*it) for it in itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3, 4)))


def contenders(kernels: ModuleType, shape: tuple[int, ...], text: bool, device: str) -> dict[str, Run]:
    """Attention with every candidate that compiles for this device, and with the choice of the kernels' own table."""
    q, k, v = draw(shape, TOKENS if text else shape[2], device)
    name = "text_blocks" if text else "blocks"
    chosen = partial(kernels.attention, q, k, v)
    if text:
        heat = torch.zeros(shape[0], shape[2], 3, device=device)
        chosen = partial(chosen, probe=torch.ones(shape[0], TOKENS, 3, device=device), heat=heat)
    runs: dict[str, Run] = {"chosen": chosen}
    expected = chosen()
    for blocks in candidates(kernels, text):
        run = partial(chosen, **{name: blocks})
        try:
            out = run()
        except Exception as error:  # too much shared memory, or tiles that the compiler refuses: whatever it says
            print(f"{shape} {tuple(blocks)}: {type(error).__name__}", file=sys.stderr)
            continue
        torch.testing.assert_close(out, expected, rtol=TOLERANCE, atol=TOLERANCE)
        runs[str(tuple(blocks))] = run
    return runs


def tune(kernels: ModuleType, rounds: int) -> Table:
    table = Table("Fastest blocks (queries, keys, warps, stages)", ("shape", "keys", "best", "us", "chosen us"))
    for shape, text in [*((shape, False) for shape in SELF), *((shape, True) for shape in TEXT)]:
        times = timed(contenders(kernels, shape, text, "cuda"), rounds)
        best = min(times, key=lambda name: times[name].median)
        shown = (f"{1e6 * times[name].median:.1f}" for name in (best, "chosen"))
        table.add(shape, TOKENS if text else shape[2], best, *shown)
        print(" | ".join(map(str, table.rows[-1])), flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--tune", action="store_true", help="try block shapes")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the times there")
    given = parser.parse_args()
    why = attention_triton.why_missing() if torch.cuda.is_available() else "torch sees no CUDA device"
    kernels = attention_triton.load()[0]
    if why is not None or kernels is None:
        print(f"benchmarks.kernels needs a GPU that Triton serves: {why}", file=sys.stderr)
        raise SystemExit(2)
    torch.manual_seed(0)
    print(machine(), flush=True)
    table = tune(kernels, given.rounds) if given.tune else measure(given.rounds)
    print(table)
    if given.json:
        write_json(given.json, [table])


if __name__ == "__main__":
    with torch.inference_mode():
        main()
