"""How well damaged pictures are restored: `python -m benchmarks.restore`.

Scenes of the embedded world, damaged as in training but with other random numbers, four tasks. Each restored picture is
compared with the whole one (PSNR, SSIM), and a geometric reader says whether it still shows what the scene's words say;
so are the damaged picture, gray where something is missing, and a plain baseline.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import Table
from benchmarks.similarity import psnr, ssim
from pydiff.embedded.palette import DAMAGES, Damage
from pydiff.embedded.reader import read
from pydiff.embedded.scoring import score
from pydiff.embedded.world import Scene, draw, place_things, sample_scene
from pydiff.weights import write_json
from pydiff.weights.files import write_whole

Picture = NDArray[np.uint8]  # (H, W, 3)
Restore = Callable[[str, Damage, int], Picture]
SEED = 20260
SIZE = 64
GRAY = 128
SHOWN = 12  # columns of the sheet: so many pictures of each task


class Case(NamedTuple):
    """One picture of a task: what it shows, whole, and what is left of it."""

    task: str
    scene: Scene
    whole: Picture
    damage: Damage
    seed: int


class Outcome(NamedTuple):
    """A case, and the pictures compared with the whole one, by name."""

    case: Case
    pictures: dict[str, Picture]


def cases(task: str, number: int) -> Iterator[Case]:
    """The first `number` cases of a task; a shorter list is the beginning of a longer one."""
    for index in range(number):
        rng = np.random.default_rng((SEED, list(DAMAGES).index(task), index))
        scene = sample_scene(rng)
        whole = draw(scene, place_things(scene, rng), SIZE)
        yield Case(task, scene, whole, DAMAGES[task](whole, rng), index)


def covered(damage: Damage, fill: Any = GRAY) -> Picture:
    """The damaged picture, with `fill` (a number, a colour) where something is missing."""
    if damage.mask is None:
        return damage.picture
    return np.where(damage.mask[..., None], np.uint8(fill), damage.picture)


def baseline(case: Case, chroma: tuple[float, float]) -> Picture:
    """What needs no network. Holes and edges: the mean colour of what is known. JPEG: halved and enlarged again
    (bicubic), which blurs its traces. Gray pictures: chroma (Cb, Cr), the mean of the world's, at every pixel."""
    damage = case.damage
    if damage.mask is not None:
        return covered(damage, np.round(damage.picture[~damage.mask].mean(axis=0)))
    if case.task == "colorize":
        planes = [np.full((SIZE, SIZE), round(value), np.uint8) for value in chroma]
        return np.asarray(Image.fromarray(np.stack([damage.picture[..., 0], *planes], -1), "YCbCr").convert("RGB"))
    small = Image.fromarray(damage.picture).resize((SIZE // 2, SIZE // 2), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def mean_chroma(number: int = 200) -> tuple[float, float]:
    """Cb and Cr of scenes other than the cases."""
    rng = np.random.default_rng(SEED)
    means = []
    for _ in range(number):
        scene = sample_scene(rng)
        picture = Image.fromarray(draw(scene, place_things(scene, rng), SIZE)).convert("YCbCr")
        means.append(np.asarray(picture, float).mean(axis=(0, 1)))
    _, cb, cr = np.mean(means, axis=0)
    return float(cb), float(cr)


def evaluate(restore: Restore, tasks: Sequence[str], number: int) -> list[Outcome]:
    """restore(task, damage, seed) -> a picture of the same size, uint8. Raises ValueError for another."""
    chroma, outcomes = mean_chroma(), []
    for task in tasks:
        for case in cases(task, number):
            made = restore(task, case.damage, case.seed)
            if made.shape != case.whole.shape or made.dtype != np.uint8:
                raise ValueError(f"restore returned {made.dtype} {made.shape}; expected uint8 {case.whole.shape}")
            pictures = {"damaged": covered(case.damage), "baseline": baseline(case, chroma), "restored": made}
            outcomes.append(Outcome(case, pictures))
    return outcomes


def scores(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, float]]]:
    """By task and by kind of picture: mean PSNR in dB, mean SSIM, and the share that the reader finds right."""
    made: dict[str, dict[str, dict[str, float]]] = {}
    for task in dict.fromkeys(outcome.case.task for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.case.task == task]
        made[task] = {kind: _scores(own, kind) for kind in own[0].pictures}
    return made


def _scores(outcomes: Sequence[Outcome], kind: str) -> dict[str, float]:
    pairs = [(outcome.pictures[kind], outcome.case.whole) for outcome in outcomes]
    right = [score(outcome.case.scene, read(outcome.pictures[kind]))["overall"] for outcome in outcomes]
    return {
        "psnr": statistics.fmean(psnr(*pair) for pair in pairs),
        "ssim": statistics.fmean(ssim(*pair) for pair in pairs),
        "right": statistics.fmean(right),
    }


def table(measured: dict[str, dict[str, dict[str, float]]], number: int) -> Table:
    made = Table(f"{number} pictures of each task, 64x64", ("task", "picture", "PSNR dB", "SSIM", "read right"))
    for task, kinds in measured.items():
        for kind, row in kinds.items():
            made.add(task, kind, f"{row['psnr']:.1f}", f"{row['ssim']:.3f}", f"{row['right']:.0%}")
    return made


def sheet(outcomes: Sequence[Outcome], zoom: int = 2) -> Image.Image:
    """The first pictures of every task: damaged, baseline, restored and whole, from top to bottom."""
    bands = []
    for task in dict.fromkeys(outcome.case.task for outcome in outcomes):
        shown = [outcome for outcome in outcomes if outcome.case.task == task][:SHOWN]
        columns = [np.concatenate([*outcome.pictures.values(), outcome.case.whole]) for outcome in shown]
        bands.append(np.concatenate(columns, axis=1))
    page = Image.fromarray(np.concatenate(bands))
    return page.resize((page.width * zoom, page.height * zoom), Image.Resampling.NEAREST)


def _restore(args: argparse.Namespace) -> Restore:
    """pydiff's own pipeline, with its defaults wherever nothing else is asked for."""
    import pydiff

    pipe = pydiff.load(args.model)
    options = {"num_inference_steps": args.steps, "sampler": args.sampler}

    def restore(task: str, damage: Damage, seed: int) -> Picture:
        print(f"\r{task} {seed + 1} of {args.number}", end="", file=sys.stderr, flush=True)
        return np.asarray(pipe.restore(covered(damage), task, damage.mask, seed=seed, **options).images[0])

    return restore


def main(arguments: Sequence[str] | None = None, restore: Restore | None = None) -> int:
    """Prints the table; `restore` stands in for the pipeline."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restore", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--number", type=int, default=50, metavar="N", help="pictures of each task (default 50)")
    parser.add_argument("--tasks", nargs="+", choices=list(DAMAGES), default=list(DAMAGES), help="default: all four")
    parser.add_argument("--steps", type=int, metavar="N", help="sampling steps")
    parser.add_argument("--sampler", metavar="NAME", help="in place of the model's own")
    parser.add_argument("--model", default="pydiff-palette", metavar="DIR", help="a Palette model's folder")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the scores")
    parser.add_argument("--sheet", type=Path, metavar="PATH", help="write the first pictures of every task")
    args = parser.parse_args(arguments)
    if args.number < 1:
        parser.error(f"--number is {args.number}; give 1 or more")
    outcomes = evaluate(restore or _restore(args), args.tasks, args.number)
    measured = scores(outcomes)
    print(table(measured, args.number))
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "sheet")}
        write_json(args.json, {"settings": settings, "scores": measured})
    if args.sheet:
        page = sheet(outcomes)
        write_whole(args.sheet, lambda path: page.save(path, format="PNG"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
