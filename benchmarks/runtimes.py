"""What runs the embedded cascade at which cost: `python -m benchmarks.runtimes`.

pydiff on torch and on ONNX Runtime, and diffusers, in float32: per run, per process, and what is installed for it.
Pictures are compared with pydiff's on torch before a time is printed. Single calls of networks, by these and by other
runtimes, are those of `python -m benchmarks.networks`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pydiff
from benchmarks.measure import Table, Times, interleaved, machine, write_json
from benchmarks.tasks import PROMPT, SEED, Maker, make_diffusers

RUN_TOLERANCE = 2 / 255
EAGER, OPENVINO = "diffusers eager", "OpenVINO"
TORCH, ONNX = "pydiff torch", "pydiff ONNX Runtime"
PACKAGES = {
    TORCH: ("torch", "numpy", "array-api-compat", "pillow", "safetensors", "tokenizers", "tqdm"),
    ONNX: ("onnxruntime", "numpy", "array-api-compat", "pillow", "safetensors", "tokenizers", "tqdm"),
    EAGER: ("diffusers", "transformers", "torch", "accelerate", "sentencepiece"),
    OPENVINO: ("openvino",),
}
# Starts a command and says what it took. A small process does, for a child's memory is at least its parent's.
WAITS = """
import os, subprocess, sys, time
began = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(bool(status))
"""
Call = Callable[[], Any]


def run_table(sizes: list[int], rounds: int) -> Table:
    """Whole runs of the embedded cascade."""
    table = Table("embedded cascade, one picture, float32", ("picture", "runtime", "s", "ratio"))
    ours, exported, theirs = pydiff.load(), pydiff.load(provider="cpu"), make_diffusers()
    for size in sizes:
        contenders: dict[str, Call] = {
            TORCH: partial(_picture, ours, size),
            ONNX: partial(_picture, exported, size),
            EAGER: partial(_peer, theirs, size),
        }
        with quiet():
            check({name: call() for name, call in contenders.items()}, RUN_TOLERANCE)
            add(table, (f"{size}x{size}",), interleaved(contenders, rounds))
    return table


def _picture(pipe: pydiff.Pipeline, size: int) -> Any:
    return pipe.generate(PROMPT, seed=SEED, size=size, output_type="np").images[0]


def _peer(make: Maker, size: int) -> Any:
    return (make(size)[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()


def check(made: Mapping[str, Any], tolerance: float) -> None:
    """Stop where somebody's numbers are not pydiff's."""
    right = made[TORCH]
    for name, numbers in made.items():
        difference = float(np.abs(numbers - right).max() / np.abs(right).max())
        if not difference < tolerance:
            raise SystemExit(f"{name} differs by {difference:.1e}; no time is printed on a red check")


def add(table: Table, what: tuple[str, ...], times: Mapping[str, Times]) -> None:
    """One row per runtime; the ratio is how often it fits into pydiff's time on ONNX Runtime, above 1 where slower."""
    for name, timed in times.items():
        table.add(*what, name, timed, f"{timed.median / times[ONNX].median:.2f}")


def process_table(sizes: list[int], rounds: int) -> Table:
    """From process start to the written picture: wall and processor seconds (medians), and the most memory resident."""
    table = Table("a process of its own", ("picture", "runtime", "s", "CPU s", "MiB"))
    for size in sizes:
        with tempfile.TemporaryDirectory() as home:
            name = ["--seed", str(SEED), "--size", str(size), "-q", "-o", f"{home}/a.png"]
            generate = [sys.executable, "-m", "pydiff.cli", "generate", PROMPT, *name]
            commands = {
                TORCH: [*generate, "--device", "cpu"],  # asks for torch
                ONNX: [*generate, "--provider", "cpu"],
                EAGER: [sys.executable, "-m", "benchmarks.runtimes", "--child", str(size)],
            }
            measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
            for _ in range(rounds + 1):  # the first one warms the disk's cache
                for runtime, command in commands.items():
                    measured[runtime].append(process(command))
            for runtime, figures in measured.items():
                wall, processor, memory = np.median(figures[1:], axis=0)
                table.add(f"{size}x{size}", runtime, f"{wall:.2f}", f"{processor:.2f}", f"{memory:.0f}")
    return table


def process(command: list[str]) -> tuple[float, float, float]:
    """Seconds, processor seconds and MiB of a command."""
    done = subprocess.run([sys.executable, "-c", WAITS, *command], stdout=subprocess.PIPE, text=True, check=True)
    seconds, processor, memory = map(float, done.stdout.split())
    return seconds, processor, memory


def size_table() -> Table:
    table = Table("installed, MB", ("runtime", "packages", "MB"))
    for runtime, names in PACKAGES.items():
        found = set[str]()
        for name in names:
            found |= needed(name)
        table.add(runtime, len(found), f"{sum(map(installed, found)) / 1e6:.0f}")
    return table


def needed(name: str, seen: Set[str] = frozenset()) -> set[str]:
    """A package and all that it requires, of what is installed."""
    try:
        requires = distribution(name).requires or []
    except PackageNotFoundError:
        return set()
    found = {str(canonicalize_name(name))}
    for line in requires:
        requirement = Requirement(line)
        other = str(canonicalize_name(requirement.name))
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and other not in seen | found:
            found |= needed(other, seen | found)
    return found


def installed(name: str) -> int:
    """Bytes of a package's files."""
    paths = (Path(str(file.locate())) for file in distribution(name).files or ())
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def measured(arguments: argparse.Namespace) -> Iterator[Table]:
    """Tables as they are made."""
    yield size_table()
    yield process_table(arguments.sizes, arguments.rounds)
    yield run_table(arguments.sizes, arguments.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="pictures of the embedded cascade")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        make_diffusers()(arguments.child)
        return
    began = time.perf_counter()
    print(machine())
    tables = list[Table]()
    for table in measured(arguments):
        print(table, flush=True)
        tables.append(table)
    print(f"in {time.perf_counter() - began:.0f} s")
    if arguments.json:
        write_json(arguments.json, tables)


if __name__ == "__main__":
    main()
