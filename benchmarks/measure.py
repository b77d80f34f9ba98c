"""Interleaved timing, tables and results: what every benchmark shares."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

PACKAGES = ("torch", "diffusers", "transformers", "onnxruntime", "openvino", "numpy", "triton")


class Times(NamedTuple):
    """Seconds of every repetition."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.3g} ({min(self.seconds):.3g} to {max(self.seconds):.3g})"


class Figure(NamedTuple):
    """A number, and how it is printed."""

    value: float
    form: str = ".3g"

    def __str__(self) -> str:
        return format(self.value, self.form)


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    least: float = 0.0,
    pause: float = 0.0,
    warm: bool = False,
) -> dict[str, Times]:
    """Call each once to warm up, unless all are warm, then all in turn: `rounds` times over, and on until `least`
    seconds have passed, with a pause before each."""
    for call in () if warm else contenders.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    start, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - start < least:
        done += 1
        for name, call in contenders.items():
            time.sleep(pause)
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


@dataclass
class Table:
    """A titled table that prints itself as Markdown."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, *cells: Any) -> None:
        self.rows.append(cells)

    def __str__(self) -> str:
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return f"\n{self.title}\n\n" + "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def synchronised(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The call, over when the device is done with it."""
    if device != "cuda":
        return call

    def whole() -> Any:
        made = call()
        torch.cuda.synchronize()
        return made

    return whole


def machine() -> str:
    """What the figures were measured on."""
    capability = torch.backends.cpu.get_cpu_capability()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU {capability}"
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Of the packages that are compared, where they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name, as the system has it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def peak_memory() -> int:
    """MiB that this process had resident at most."""
    high_water = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(high_water.split()[1]) // 1024


def free_memory() -> int:
    """Bytes that the system could still give."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def write_json(path: Path, tables: Sequence[Table]) -> None:
    results = {
        table.title: [dict(zip(table.columns, map(_plain, row), strict=True)) for row in table.rows] for table in tables
    }
    where = {
        "machine": machine(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**where, **results}, indent=2) + "\n")


def _plain(cell: Any) -> Any:
    match cell:
        case Times():
            return {"median": cell.median, "seconds": cell.seconds}
        case Figure():
            return cell.value
    return cell
