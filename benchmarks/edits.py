"""Whether edits do what they say and nothing else: `python -m benchmarks.edits`.

Pairs of captions that differ in one thing, drawn from the embedded model's world; source and target are made once by an
edit and once, from the same seed, without one. A geometric reader says what changed: what is to stay as it was does
where its mask overlaps the source's by OVERLAP (intersection over union, of masks of 128 pixels a side). Pairs whose
source picture is not what its prompt says are passed over: nothing can be asked of their edit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import pydiff
from benchmarks.measure import Table, write_json
from pydiff.embedded.captions import caption
from pydiff.embedded.judge import Change, Verdict, judge
from pydiff.embedded.reader import see
from pydiff.embedded.world import BACKGROUNDS, OBJECT_COLOURS, SHAPES, Group, Scene, is_unseen
from pydiff.images import contact_sheet

SEED = 47_000
KINDS = ("colour", "shape", "background")
OPTIONS: dict[str, dict[str, Any]] = {
    "colour": {},
    "shape": {},
    "background": {"cross_replace": 1.0, "self_replace": 1.0},
}
RELATIONS = ("left of", "right of", "above", "below")
WEIGHTS = (-2.0, -1.0, 0.0, 1.0, 2.0)


class Pair(NamedTuple):
    """A source and a target prompt, what they change, and a seed."""

    source: str
    target: str
    change: Change
    seed: int


def pairs(kind: str) -> Iterator[Pair]:
    """Pairs without end, always the same."""
    return (_pair(kind, number) for number in count())


def _pair(kind: str, number: int) -> Pair:
    rng = np.random.default_rng((SEED, KINDS.index(kind), number))
    while True:
        before = _scene(rng, named=kind != "background")
        after, changed = _changed(kind, before, rng)
        if not is_unseen(before) and not is_unseen(after):
            break
    words = int(rng.integers(1 << 30))
    source, target = (caption(scene, np.random.default_rng(words)) for scene in (before, after))
    if kind == "background":
        target = f"{source} on a {after.background} background"
    return Pair(source, target, Change(before, after, changed), number)


def _scene(rng: np.random.Generator, named: bool) -> Scene:
    """One object, or two that stand to each other as the caption says."""
    background = str(rng.choice(BACKGROUNDS)) if named else "white"
    number = int(rng.integers(1, 3))
    colours = rng.choice([c for c in OBJECT_COLOURS if c != background], number, replace=False)
    groups = tuple(Group(1, str(c), str(s)) for c, s in zip(colours, rng.choice(SHAPES, number), strict=True))
    relation = str(rng.choice(RELATIONS)) if number == 2 else None
    return Scene(groups, relation, None, background, named)


def _changed(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[Scene, int | None]:
    """The scene with one thing changed."""
    which = int(rng.integers(len(scene.groups)))
    used = {group.colour for group in scene.groups}
    if kind == "background":
        others = [c for c in BACKGROUNDS if c not in used and c != scene.background]
        return scene._replace(background=str(rng.choice(others))), None
    if kind == "colour":
        others = [c for c in OBJECT_COLOURS if c not in used and c != scene.background]
        changed = scene.groups[which]._replace(colour=str(rng.choice(others)))
    else:
        others = [s for s in SHAPES if s != scene.groups[which].shape]
        changed = scene.groups[which]._replace(shape=str(rng.choice(others)))
    return scene._replace(groups=(*scene.groups[:which], changed, *scene.groups[which + 1 :])), which


class Run(NamedTuple):
    """The verdicts of a kind with and without attention control, and how many pairs were passed over."""

    edited: list[Verdict]
    plain: list[Verdict]
    passed_over: int
    pictures: list[list[Image.Image]]


def run(pipe: pydiff.Pipeline, kind: str, number: int, options: Mapping[str, Any]) -> Run:
    """Edit pairs until `number` of them could be judged."""
    made = Run([], [], 0, [])
    for pair in pairs(kind):
        images = pipe.edit(pair.source, pair.target, seed=pair.seed, size=64, **options).images
        source, edited = map(np.asarray, images)
        verdict = judge(pair.change, source, edited)
        if verdict is None:
            made = made._replace(passed_over=made.passed_over + 1)
            continue
        plain = pipe.generate(pair.target, seed=pair.seed, size=64).images[0]
        other = judge(pair.change, source, np.asarray(plain))
        assert other is not None
        made.edited.append(verdict)
        made.plain.append(other)
        made.pictures.append([*images, plain])
        print(f"\r{kind}: {len(made.edited)} of {number}", end="", file=sys.stderr, flush=True)
        if len(made.edited) == number:
            break
    print(file=sys.stderr)
    return made


def table(runs: Mapping[str, Run]) -> Table:
    columns = ("what is changed", "edits", "done", "all else kept", "overlap of the rest", "of the object")
    result = Table("edits of the embedded model at 64x64, and the same seed without attention control", columns)
    for kind, one in runs.items():
        for name, verdicts in ((kind, one.edited), (f"{kind}, no control", one.plain)):
            done, kept = (f"{np.mean([getattr(v, field) for v in verdicts]):.0%}" for field in ("done", "kept"))
            changed = [v.changed for v in verdicts if v.changed is not None]
            result.add(name, len(verdicts), done, kept, _spread([v.others for v in verdicts]), _spread(changed))
    return result


def _spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.3f} (10th percentile {np.quantile(values, 0.1):.3f})" if values else "-"


def sweep(pipe: pydiff.Pipeline, number: int) -> Table:
    """How large "a large ..." is, by the weight of "large"."""
    columns = ("weight of large", *map(str, WEIGHTS), "never smaller by more than 1 %")
    result = Table('mean radius of "a large ..." as a share of the side', columns)
    rng, radii = np.random.default_rng(SEED), list[list[float]]()
    while len(radii) < number:
        colour, shape = str(rng.choice(OBJECT_COLOURS)), str(rng.choice(SHAPES))
        prompt, weights = f"a large {colour} {shape}", {"large": list(WEIGHTS)}
        images = pipe.edit(prompt, reweight=weights, seed=len(radii), size=64).images[1:]
        seen = [see(np.asarray(image))[1] for image in images]
        radii.append([max((one.found.radius for one in objects), default=0.0) for objects in seen])
    grows = [all(b > 0.99 * a for a, b in pairwise(line)) for line in radii]
    result.add(f"{number} prompts", *(f"{mean:.4f}" for mean in np.mean(radii, axis=0)), f"{np.mean(grows):.0%}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edits", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--number", type=int, default=100, help="edits of each kind (default 100)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what to change")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--sheet", type=Path, help="also write source, edit and plain picture of the first 12 of a kind"
    )
    arguments = parser.parse_args()
    if arguments.number < 1:
        parser.error(f"--number is {arguments.number}; give 1 or more")
    pipe = pydiff.load()
    runs = {kind: run(pipe, kind, arguments.number, OPTIONS[kind]) for kind in arguments.kinds}
    tables = [table(runs), sweep(pipe, max(1, arguments.number // 5))]
    print("\n".join(map(str, tables)))
    print("passed over: " + ", ".join(f"{one.passed_over} of {kind}" for kind, one in runs.items()))
    if arguments.json:
        write_json(arguments.json, tables)
    if arguments.sheet:
        rows = [[image for line in one.pictures[:12] for image in line] for one in runs.values()]
        contact_sheet(rows, [f"{kind}: source, edit, no control" for kind in runs], 96).save(arguments.sheet)


if __name__ == "__main__":
    main()
