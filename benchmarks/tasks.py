"""Whole runs of the embedded cascade beside diffusers' IF pipelines on the same folders: `python -m benchmarks.tasks`;
what an edit costs (`python -m benchmarks.tasks edit`) and what filling a hole does (`python -m benchmarks.tasks
inpaint`).

Same prompts, seeds and steps, interleaved in one process: float32 on both sides, whose pictures are compared before a
time is printed, and pydiff's bfloat16, whose distance from them is. What of a run is not calls of its networks is
measured too. Peak memory and times from the command line are of processes of their own.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

import pydiff
from benchmarks import editing, inpainting
from benchmarks.measure import Figure, Table, Times, interleaved, machine, write_json
from benchmarks.measure import peak_memory as resident_peak
from benchmarks.workloads import WEIGHTS
from pydiff.cascade import Cascade
from pydiff.networks import Denoiser
from pydiff.pipeline import EMBEDDED
from pydiff.tasks.generate import generate
from pydiff.tasks.request import Call
from pydiff.tasks.run import states

PROMPT = "a red circle left of a blue square on a white background"
SEED = 7
TOLERANCE = 5e-4
Maker = Callable[[int], torch.Tensor]


def make_pydiff(dtype: torch.dtype = torch.float32) -> Maker:
    return partial(_made, pydiff.load(dtype=dtype).cascade)


def _made(cascade: Cascade, size: int) -> torch.Tensor:
    *_, last = states(generate(cascade, Call(PROMPT, seed=SEED), size=size))
    return torch.as_tensor(last.x)


def make_diffusers() -> Maker:
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    warnings.simplefilter("ignore")
    pipe = pydiff.load()
    base = IFPipeline.from_pretrained(WEIGHTS / EMBEDDED[0])
    larger = [IFSuperResolutionPipeline.from_pretrained(WEIGHTS / name) for name in EMBEDDED[1:]]
    for pipeline in (base, *larger):
        pipeline.set_progress_bar_config(disable=True)

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
BFLOAT16 = "pydiff bfloat16"


def compare(sizes: list[int], rounds: int) -> Table:
    makers = {name: build() for name, build in MAKERS.items()} | {BFLOAT16: make_pydiff(torch.bfloat16)}
    columns = ("size", "pydiff s", "diffusers s", "ratio", "difference", f"{BFLOAT16} s", "its ratio", "its difference")
    table = Table("embedded cascade, one picture, float32", columns)
    for size in sizes:
        pictures = {name: make(size).float() for name, make in makers.items()}
        off = {name: (pictures[name] - pictures["diffusers"]).abs().max().item() for name in makers}
        if not off["pydiff"] < TOLERANCE:
            raise SystemExit(f"at {size} the pictures differ by {off['pydiff']:.1e}; no time is printed on a red check")
        times = interleaved({name: partial(make, size) for name, make in makers.items()}, rounds)
        ratios = {name: Figure(times["diffusers"].median / timed.median, ".2f") for name, timed in times.items()}
        cells = (times["pydiff"], times["diffusers"], ratios["pydiff"], f"{off['pydiff']:.0e}")
        table.add(size, *cells, times[BFLOAT16], ratios[BFLOAT16], f"{off[BFLOAT16]:.0e}")
    return table


class Timed:
    """A network, and the seconds that its calls have taken."""

    def __init__(self, unet: Denoiser) -> None:
        self.unet, self.seconds = unet, 0.0

    def __call__(self, *given: Any) -> Any:
        began = time.perf_counter()
        made = self.unet(*given)
        self.seconds += time.perf_counter() - began
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unet, name)


def outside(sizes: list[int], rounds: int) -> Table:
    """What of a run is not calls of its networks, in the same run: the text, guidance, steps, thresholding."""
    table = Table("outside of the network's calls", ("size", "type", "run s", "outside s", "share of the run"))
    for size in sizes:
        for dtype in (torch.float32, torch.bfloat16):
            cascade = pydiff.load(dtype=dtype).cascade
            timed = [Timed(stage.unet) for stage in cascade.stages]
            stages = [
                dataclasses.replace(stage, unet=cast(Denoiser, unet))
                for stage, unet in zip(cascade.stages, timed, strict=True)
            ]
            make = partial(_made, dataclasses.replace(cascade, stages=tuple(stages)), size)
            whole, rest = list[float](), list[float]()
            make()
            for _ in range(rounds):
                before, began = sum(unet.seconds for unet in timed), time.perf_counter()
                make()
                whole.append(time.perf_counter() - began)
                rest.append(whole[-1] - (sum(unet.seconds for unet in timed) - before))
            share = median(part / run for part, run in zip(rest, whole, strict=True))
            name = str(dtype).removeprefix("torch.")
            table.add(size, name, Times(tuple(whole)), Times(tuple(rest)), Figure(share, ".1%"))
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
        rounds = arguments.rounds
        tables = [compare(sizes, rounds), outside(sizes, rounds), memory(sizes), cold_start(rounds)]
    print("\n".join(map(str, tables)))
    print(f"in {time.perf_counter() - began:.0f} s")
    if arguments.json:
        write_json(arguments.json, tables)


if __name__ == "__main__":
    main()
