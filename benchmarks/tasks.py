"""Whole runs of the embedded cascade beside diffusers' IF pipelines on the same folders: `python -m benchmarks.tasks`;
what an edit costs (`python -m benchmarks.tasks edit`) and what filling a hole does (`python -m benchmarks.tasks
inpaint`).

Same prompts, seeds and steps, float32, interleaved in one process; the pictures are compared before a time is printed.
Peak memory and times from the command line are of processes of their own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import pydiff
from benchmarks import editing, inpainting
from benchmarks.measure import Table, interleaved, machine, write_json
from benchmarks.measure import peak_memory as resident_peak
from benchmarks.workloads import WEIGHTS
from pydiff.pipeline import EMBEDDED
from pydiff.tasks.generate import generate
from pydiff.tasks.request import Call
from pydiff.tasks.run import states

PROMPT = "a red circle left of a blue square on a white background"
SEED = 7
TOLERANCE = 5e-4
Maker = Callable[[int], torch.Tensor]


def make_pydiff() -> Maker:
    pipe = pydiff.load()

    def make(size: int) -> torch.Tensor:
        *_, last = states(generate(pipe.cascade, Call(PROMPT, seed=SEED), size=size))
        return last.x

    return make


def make_diffusers(compiled: bool = False) -> Maker:
    """compiled: its networks by torch.compile."""
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    warnings.simplefilter("ignore")
    pipe = pydiff.load()
    base = IFPipeline.from_pretrained(WEIGHTS / EMBEDDED[0])
    larger = [IFSuperResolutionPipeline.from_pretrained(WEIGHTS / name) for name in EMBEDDED[1:]]
    for pipeline in (base, *larger):
        pipeline.set_progress_bar_config(disable=True)
        if compiled:
            pipeline.unet.compile()

    def options(index: int) -> dict[str, Any]:
        values = pipe.cascade.stages[index].defaults._asdict()
        return {name: value for name, value in values.items() if value is not None}

    def make(size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(SEED)
        common = {"generator": generator, "output_type": "pt"}
        embeds, null = base.encode_prompt(PROMPT, clean_caption=False)
        x = base(prompt_embeds=embeds, negative_prompt_embeds=null, **options(0), **common).images
        for index in range(1, pipe.sizes.index(size) + 1):
            x = larger[index - 1](image=x, prompt_embeds=embeds, **options(index), **common).images
        return torch.as_tensor(x)

    return make


MAKERS: dict[str, Callable[[], Maker]] = {"pydiff": make_pydiff, "diffusers": make_diffusers}


def compare(sizes: list[int], rounds: int) -> Table:
    makers = {name: build() for name, build in MAKERS.items()}
    table = Table("embedded cascade, one picture, float32", ("size", "pydiff s", "diffusers s", "ratio", "difference"))
    for size in sizes:
        pictures = {name: make(size) for name, make in makers.items()}
        difference = (pictures["pydiff"] - pictures["diffusers"]).abs().max().item()
        if not difference < TOLERANCE:
            raise SystemExit(f"at {size} the pictures differ by {difference:.1e}; no time is printed on a red check")
        times = interleaved({name: partial(make, size) for name, make in makers.items()}, rounds)
        ratio = times["diffusers"].median / times["pydiff"].median
        table.add(size, times["pydiff"], times["diffusers"], f"{ratio:.2f}", f"{difference:.0e}")
    return table


def memory(sizes: list[int]) -> Table:
    """MiB at most resident, of a process that makes one picture and of one that only imports torch."""
    table = Table("peak memory, MiB", ("size", "pydiff", "diffusers"))
    for size in sizes:
        cells = [run_child("--child", name, "--sizes", str(size)) for name in MAKERS]
        table.add(size, *cells)
    return table


def run_child(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.tasks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def child(name: str, size: int) -> None:
    MAKERS[name]()(size)
    print(resident_peak())


def cold_start(rounds: int) -> Table:
    """Seconds from the command typed to the file written, and of the imports."""
    table = Table("a process of its own", ("what", "seconds"))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pydiff.cli", "generate", PROMPT, "-q", "--seed", "7", "-o", f"{folder}/a.png"]
        contenders = {
            "import torch": [sys.executable, "-c", "import torch"],
            "import pydiff": [sys.executable, "-c", "import torch, pydiff"],
            "pydiff generate --size 64": [*command, "--size", "64"],
            "pydiff generate --size 256": [*command, "--size", "256"],
        }
        runs = {name: partial(subprocess.run, c, check=True, capture_output=True) for name, c in contenders.items()}
        for name, timed in interleaved(runs, rounds).items():
            table.add(name, timed)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.add_argument(
        "task", nargs="?", choices=("generate", "edit", "inpaint"), default="generate", help="what to run"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="generate: pictures to make")
    parser.add_argument("--models", nargs="+", default=editing.MODELS, choices=editing.MODELS, help="edit: of what")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        if arguments.task == "edit":
            editing.child(*arguments.child)
        else:
            child(arguments.child[0], arguments.sizes[0])
        return
    began = time.perf_counter()
    print(machine())
    if arguments.task == "edit":
        tables = editing.tables(arguments.models, arguments.rounds)
    elif arguments.task == "inpaint":
        tables = inpainting.tables(arguments.rounds)
    else:
        sizes = arguments.sizes
        tables = [compare(sizes, arguments.rounds), memory(sizes), cold_start(arguments.rounds)]
    print("\n".join(map(str, tables)))
    print(f"in {time.perf_counter() - began:.0f} s")
    if arguments.json:
        write_json(arguments.json, tables)


if __name__ == "__main__":
    main()
