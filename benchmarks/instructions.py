"""Whether instructions are carried out, and nothing else changed: `python -m benchmarks.instructions`.

Instructions about pictures that the embedded model made, to change the colour, the shape or both of one object; scenes
and words are drawn with other random numbers than in training. A geometric reader says whether the change is there and
whether all else is as it was (`pydiff.embedded.judge`). Pictures that do not show what their prompt says are passed
over: nothing can be asked of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import pydiff
from benchmarks.measure import Table, write_json
from pydiff.embedded.captions import caption
from pydiff.embedded.instructions import KINDS, instruction, sample_change, sample_source
from pydiff.embedded.judge import Change, Verdict, judge
from pydiff.images import contact_sheet

SEED = 83_000
SIZE = 64


class Case(NamedTuple):
    """What a picture is made of, what is to change, and how that is said."""

    kind: str
    prompt: str
    change: Change
    words: str
    seed: int


def cases() -> Iterator[Case]:
    """Cases without end, always the same, the kinds in turn."""
    for number in count():
        rng = np.random.default_rng((SEED, number))
        kind = KINDS[number % len(KINDS)]
        change = sample_change(sample_source(rng), kind, rng)
        yield Case(kind, caption(change.before, rng), change, instruction(change, rng), number)


class Outcome(NamedTuple):
    case: Case
    verdict: Verdict
    pictures: list[Image.Image]

    @property
    def right(self) -> bool:
        return self.verdict.done and self.verdict.kept


def run(number: int, options: Mapping[str, Any]) -> tuple[list[Outcome], int]:
    """Outcomes of `number` instructions, and how many pictures were passed over."""
    maker, follower = pydiff.load(), pydiff.load("pydiff-instruct")
    made, passed_over = list[Outcome](), 0
    for case in cases():
        before = maker.generate(case.prompt, seed=case.seed, size=SIZE).images[0]
        if judge(case.change, np.asarray(before), np.asarray(before)) is None:
            passed_over += 1
            continue
        after = follower.instruct(before, case.words, seed=case.seed, size=SIZE, **options).images[0]
        verdict = judge(case.change, np.asarray(before), np.asarray(after))
        assert verdict is not None
        made.append(Outcome(case, verdict, [before, after]))
        print(f"\r{len(made)} of {number}", end="", file=sys.stderr, flush=True)
        if len(made) == number:
            break
    print(file=sys.stderr)
    return made, passed_over


def table(outcomes: list[Outcome]) -> Table:
    columns = ("what is changed", "instructions", "done", "all else kept", "both", "overlap of the rest")
    result = Table("instructions to the embedded model at 64x64", columns)
    for name in (*KINDS, "all"):
        some = [one for one in outcomes if name in ("all", one.case.kind)]
        if some:
            shares = [[one.verdict.done, one.verdict.kept, one.right] for one in some]
            overlap = np.median([one.verdict.others for one in some])
            result.add(name, len(some), *(f"{share:.0%}" for share in np.mean(shares, axis=0)), f"{overlap:.3f}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=100, help="instructions (default 100)")
    parser.add_argument("--steps", type=int, help="num_inference_steps (default: the model's)")
    parser.add_argument("--guidance-scale", type=float, help="of the words (default: the model's)")
    parser.add_argument("--image-guidance-scale", type=float, help="of the picture (default: the model's)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--sheet", type=Path, help="also write pictures before and after")
    arguments = parser.parse_args()
    if arguments.number < 1:
        parser.error(f"--number is {arguments.number}; give 1 or more")
    chosen = {
        "num_inference_steps": arguments.steps,
        "guidance_scale": arguments.guidance_scale,
        "image_guidance_scale": arguments.image_guidance_scale,
    }
    outcomes, passed_over = run(arguments.number, {name: value for name, value in chosen.items() if value is not None})
    made = table(outcomes)
    print(made)
    print(f"passed over: {passed_over}")
    if arguments.json:
        write_json(arguments.json, [made])
    if arguments.sheet:
        shown = outcomes[:48]
        rows = [[picture for one in shown[i : i + 6] for picture in one.pictures] for i in range(0, len(shown), 6)]
        words = ["; ".join(one.case.words for one in shown[i : i + 6]) for i in range(0, len(shown), 6)]
        contact_sheet(rows, words, 96).save(arguments.sheet)


if __name__ == "__main__":
    main()
