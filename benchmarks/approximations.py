"""What each approximation gains and costs on the embedded model: `python -m benchmarks.approximations`.

The prompts of `benchmarks.scenes` at 64x64, the same seeds with and without: how far the pictures are from the exact
ones, how many of the scenes are still right, and the time of one picture, interleaved with the exact run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pydiff
from benchmarks import scenes
from benchmarks.measure import Table, interleaved, machine, write_json

EXACT = "none"
INT8 = "int8"  # a way to load
SIZE = 64
APPROXIMATIONS: dict[str, dict[str, Any]] = {
    EXACT: {},
    "guidance_interval=(0, 0.95)": {"guidance_interval": (0.0, 0.95)},
    "guidance_interval=(0.3, 1)": {"guidance_interval": (0.3, 1.0)},
    "guidance_interval=(0.2, 0.95)": {"guidance_interval": (0.2, 0.95)},
    "cache_steps=2": {"cache_steps": 2},
    "cache_steps=3": {"cache_steps": 3},
    "merge_tokens=0.25": {"merge_tokens": 0.25},
    "merge_tokens=0.5": {"merge_tokens": 0.5},
    "cache_steps=2, guidance_interval=(0.3, 1)": {"cache_steps": 2, "guidance_interval": (0.3, 1.0)},
    "load(int8=True)": {INT8: True},
    "load(int8=True), cache_steps=2": {INT8: True, "cache_steps": 2},
}
COLUMNS = ("approximation", "s", "exact s", "gain", "PSNR dB", "right", "n", "unseen right", "unseen n")


def pictures(pipe: pydiff.Pipeline, how: dict[str, Any], asked: Sequence[scenes.Prompt]) -> list[scenes.Outcome]:
    """What the prompts make, and how it reads."""

    def generate(texts: list[str], seeds: list[int]) -> NDArray[Any]:
        images: NDArray[Any] = pipe.generate(texts, seed=seeds, size=SIZE, output_type="np", **how).images
        return images

    return scenes.evaluate(generate, asked)


def psnr(outcomes: Sequence[scenes.Outcome], exact: Sequence[scenes.Outcome]) -> float:
    """The median over pictures, in decibels, of 8 bits; infinite where all are the same."""
    errors = [
        float(np.mean((made.image.astype(np.float64) - true.image) ** 2))
        for made, true in zip(outcomes, exact, strict=True)
    ]
    error = median(errors)
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def table(pipe: pydiff.Pipeline, asked: Sequence[scenes.Prompt], rounds: int) -> Table:
    made = Table(f"approximations, embedded base at {SIZE}x{SIZE}, float32, torch", COLUMNS)
    exact, rounded = pictures(pipe, {}, asked), pydiff.load(int8=True)
    first: dict[str, Any] = {"prompt": asked[0].text, "seed": asked[0].seed, "size": SIZE}
    for name, given in APPROXIMATIONS.items():
        how = {option: value for option, value in given.items() if option != INT8}
        way = rounded if INT8 in given else pipe
        outcomes = exact if name == EXACT else pictures(way, how, asked)
        calls = {"exact": partial(pipe.generate, **first), "made": partial(way.generate, **first, **how)}
        times = interleaved(calls, rounds)
        gains = [before / after for before, after in zip(times["exact"].seconds, times["made"].seconds, strict=True)]
        rows = {row.category: row for row in scenes.table(outcomes)}
        overall, unseen = rows["overall"], rows[scenes.UNSEEN]
        far = "" if name == EXACT else round(psnr(outcomes, exact), 1)
        counts = overall.right, overall.total, unseen.right, unseen.total
        made.add(name, times["made"], times["exact"], round(median(gains), 3), far, *counts)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.approximations", description=__doc__)
    parser.add_argument("--prompts", type=int, default=100, metavar="N", help="how many scenes (100)")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved repetitions (9)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    print(machine())
    made = table(pydiff.load(), scenes.prompts(given.prompts), given.rounds)
    print(made)
    if given.json:
        write_json(given.json, [made])


if __name__ == "__main__":
    main()
