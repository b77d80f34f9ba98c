"""One guided network call of pydiff and of other engines: `python -m benchmarks.networks`.

The embedded base network, Stable Diffusion 1.5's and IF-I-M's configurations, two networks of 100 M parameters, and
Stable Diffusion's decoder; random weights of trained scale but for the embedded one. Peers, in the same run: diffusers
(float32, bfloat16, and that in channels_last), torch.compile with freezing, ONNX Runtime, OpenVINO. Every answer is
compared with diffusers' in float32 before its time is taken. A network has a process of its own; where memory does
not hold all contenders at once, peers take turns in bouts, and a ratio is of times of one bout. Beside every time
stands its share of what torch's fastest large matrix product or convolution did in between.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import peaks
from benchmarks.measure import (
    Figure,
    Table,
    Times,
    free_memory,
    interleaved,
    machine,
    peak_memory,
    synchronised,
    write_json,
)
from benchmarks.peers import ON_GPU, PEERS, Peer, peers, written
from benchmarks.workloads import WORKLOADS, Flops, Workload, flops

COLUMNS = (
    "engine", "type", "s", "of pydiff float32", "of pydiff bfloat16", "GFLOP/s", "of peak",
    "largest error", "mean error", "ready after s", "remark",
)  # fmt: skip
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}  # of the largest error and of the mean one, beside float32's answer
LEAST = 5.0  # seconds of a bout
PAUSE = 0.02  # seconds between calls, in which the last one's waiting threads fall asleep
ROOM = 0.7  # share of free memory that a bout's peers may take
OURS = "pydiff"
Call = Callable[[], Tensor]


class Errors(NamedTuple):
    """Beside the largest and the mean absolute value of what is right."""

    largest: float
    mean: float

    @classmethod
    def of(cls, made: Tensor, right: Tensor) -> Errors:
        difference = (made.float() - right).abs()
        return cls(float(difference.max() / right.abs().max()), float(difference.mean() / right.abs().mean()))

    def within(self, tolerance: float) -> bool:
        return self.largest < tolerance and self.mean < tolerance


@dataclass
class Entry:
    """A contender and what was measured of it. Empty times: refused, or not there, as the remark says."""

    title: str
    dtype: str
    remark: str = "not reached"
    errors: Errors | None = None
    ready: float | None = None
    seconds: list[float] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def cells(self) -> tuple[Any, ...]:
        errors = ("", "") if self.errors is None else (Figure(value, ".1e") for value in self.errors)
        timed = Times(tuple(self.seconds)) if self.seconds else ""
        ratios = (Figure(self.ratios[dtype], ".2f") if dtype in self.ratios else "" for dtype in TOLERANCES)
        rate = Figure(median(self.rates), ".0f") if self.rates else ""
        share = Figure(median(self.shares), ".0%") if self.shares else ""
        ready = "" if self.ready is None else Figure(self.ready, ".1f")
        return self.title, self.dtype, timed, *ratios, rate, share, *errors, ready, self.remark


class Contest:
    """The contenders of one network, pydiff's in every bout."""

    def __init__(self, workload: Workload, wanted: Mapping[str, Peer], device: str, home: Path) -> None:
        self.workload, self.device, self.home = workload, device, home
        self.flops: Flops = flops(workload)
        self.right = workload.module(*workload.inputs).float()
        began = time.perf_counter()
        if any(peer.reads_graph for peer in wanted.values()):
            written(workload, home)
        self.exporting = time.perf_counter() - began
        self.probes = peaks.fastest(device)
        self.peak_rates: dict[str, list[float]] = {name: [] for name in self.probes}
        self.ours: dict[str, Call] = {}
        self.entries: dict[str, Entry] = {}
        for name, call in workload.ours().items():
            title, dtype = name.rsplit(", ", 1)
            entry = self.entries[name] = Entry(title, dtype)
            if self._right(entry, call()):
                self.ours[name] = synchronised(call, device)
        self.peers = wanted
        self.entries |= {name: Entry(peer.title, peaks.named(peer.dtype)) for name, peer in wanted.items()}

    def bouts(self) -> Iterator[list[str]]:
        """Peers that memory holds together."""
        bout, taken = list[str](), 0.0
        for name, peer in self.peers.items():
            size = 4 * peer.weights * self.workload.parameters
            if bout and taken + size > ROOM * free_memory():
                yield bout
                bout, taken = [], 0.0
            bout.append(name)
            taken += size
        yield bout

    def fight(self, names: Sequence[str], rounds: int) -> None:
        calls = {name: call for name in names if (call := self._built(name)) is not None}
        probes = {f"peak {name}": probe.call for name, probe in self.probes.items()}
        times = interleaved({**self.ours, **calls, **probes}, rounds, LEAST, PAUSE, warm=True)
        rates = {name: probe.work / times[f"peak {name}"].median for name, probe in self.probes.items()}
        for name, rate in rates.items():
            self.peak_rates[name].append(rate)
        own = {dtype: [times[n].median for n in self.ours if self.entries[n].dtype == dtype] for dtype in TOLERANCES}
        fastest = {dtype: min(found) for dtype, found in own.items() if found}
        for name in (*self.ours, *calls):
            entry, timed = self.entries[name], times[name]
            work = self.flops.whole - (self.flops.text if name in self.ours else 0)
            entry.seconds += timed.seconds
            entry.rates.append(work / timed.median / 1e9)
            entry.shares.append(work / timed.median / rates[entry.dtype])
            if name in calls:
                entry.ratios = {dtype: timed.median / best for dtype, best in fastest.items()}

    def _built(self, name: str) -> Call | None:
        """A peer's call once its answer is right; None, and the reason as its remark, where there is none."""
        entry, began = self.entries[name], time.perf_counter()
        try:
            call = synchronised(self.peers[name].build(self.workload, self.home), self.device)
            made = call()
        except Exception as error:  # whatever a library does that does not run here
            entry.remark = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            return None
        entry.ready = time.perf_counter() - began
        return call if self._right(entry, made) else None

    def _right(self, entry: Entry, made: Tensor) -> bool:
        entry.errors = Errors.of(made.to(self.right.device), self.right)
        right = entry.errors.within(TOLERANCES[entry.dtype])
        entry.remark = "" if right else "refused: no time is taken on a red check"
        return right

    def tables(self) -> list[Table]:
        title, per_call = self.workload.title, Table(f"{self.workload.title}: the call", ("what", "number"))
        per_call.add("parameters", self.workload.parameters)
        per_call.add("GFLOP", Figure(self.flops.whole / 1e9, ".1f"))
        per_call.add("GFLOP of the text alone", Figure(self.flops.text / 1e9, ".2f"))
        per_call.add("seconds to write the graph", Figure(self.exporting, ".1f"))
        per_call.add("most memory of all contenders, MiB", peak_memory())
        table = Table(title, COLUMNS)
        for entry in self.entries.values():
            table.add(*entry.cells())
        rates = {name: median(found) for name, found in self.peak_rates.items() if found}
        if not rates:
            return [per_call, table]
        return [per_call, peaks.table(f"{title}: the machine meanwhile", self.probes, rates), table]


def child(model: str, names: Sequence[str], rounds: int, path: Path) -> bool:
    """Measure one network; what is known is written after every bout. Whether all of pydiff's answers were right."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as home, torch.no_grad():
        workload = WORKLOADS[model](device)
        wanted = {name: peer for name, peer in peers(workload).items() if not names or name in names}
        contest = Contest(workload, wanted, device, Path(home))
        write_json(path, contest.tables())
        for bout in contest.bouts():
            print(f"{model}: {', '.join(bout)}", file=sys.stderr, flush=True)
            contest.fight(bout, rounds)
            write_json(path, contest.tables())
            torch.compiler.reset()
            gc.collect()
        print("\n".join(map(str, contest.tables())), flush=True)
    return len(contest.ours) == sum(name.startswith(OURS) for name in contest.entries)


def measured(models: Sequence[str], options: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """What children wrote, and whether all ended well."""
    results, well = dict[str, Any](), True
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tables.json"
            command = [sys.executable, "-m", "benchmarks.networks", "--child", model, "--json", str(path), *options]
            status = subprocess.run(command).returncode
            if status:
                well = False
                print(f"{model}: ended with status {status}", file=sys.stderr, flush=True)
            if path.exists():
                results |= json.loads(path.read_text())
    return results, well


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=(__doc__ or "").splitlines()[0])
    known = PEERS | ON_GPU
    parser.add_argument("--models", nargs="+", default=list(WORKLOADS), choices=WORKLOADS, help="which networks")
    parser.add_argument("--peers", nargs="+", default=[], choices=known, help="whom to compare with (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions, at least")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--child", choices=WORKLOADS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        raise SystemExit(0 if child(given.child, given.peers, given.rounds, given.json) else 1)
    began = time.perf_counter()
    print(machine(), flush=True)
    options = ["--rounds", str(given.rounds), *(["--peers", *given.peers] if given.peers else [])]
    results, well = measured(given.models, options)
    print(f"in {time.perf_counter() - began:.0f} s")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    raise SystemExit(0 if well else 1)


if __name__ == "__main__":
    main()
