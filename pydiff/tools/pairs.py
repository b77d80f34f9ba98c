"""Pairs of pictures and the instruction that leads from one to the other, to train InstructPix2Pix on.

The recipe of Brooks et al. 2023, section 3.1.2: both pictures of a caption pair are made by Prompt-to-Prompt, several
times with other seeds and other shares of the run in which attention is borrowed, and what does not show the captions,
or shows too much else, is left out: by CLIP's similarities, or for the embedded model by its reader.

    python -m pydiff.embedded.instructions --number 100 -o captions.jsonl
    python -m pydiff.tools.pairs --captions captions.jsonl -o pairs
    python -m pydiff.tools.pairs --captions gpt.jsonl --model DIR --judge CLIP-DIR --samples 20 --borrow 0.1 0.9 -o out

captions: lines of JSON, {"source": ..., "edits": [{"target": ..., "instruction": ...}, ...]}, or as the paper's files
have them {"input": ..., "edit": ..., "output": ...}. Every line that is done leaves pictures and, last, a file
NNNNNN.json that lists its pairs; started again, the program goes on with the lines that have none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from pydiff.images import write_png
from pydiff.pipeline import Pipeline, load
from pydiff.tasks.edit import edit as plan_edit
from pydiff.tasks.request import make_call
from pydiff.tools.batch import Shard, run_tool, tool_parser, work_off
from pydiff.tools.clip_scores import Clip, Least, load_clip, similarities
from pydiff.weights import read_json, write_json
from pydiff.weights.files import parse_json

READER = "reader"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Line(NamedTuple):
    """Line `index` of a file of captions: a source caption and its edits, each a target caption and an instruction."""

    index: int  # type: ignore[assignment]  # a field here, not tuple.index
    source: str
    edits: tuple[Mapping[str, Any], ...]

    @property
    def captions(self) -> list[str]:
        return [self.source, *(edit["target"] for edit in self.edits)]


Scores = dict[str, float]  # by name; "score" is what the best are chosen by
Verdict = Callable[[Sequence[Image.Image]], list[Scores | None]]
"""Of the pictures of a source and of every target: the scores of each pair worth keeping, None of another."""
Judge = Callable[[Line], Verdict]
"""Raises ValueError for a line that it cannot judge, before its pictures are made."""


class Recipe(NamedTuple):
    """samples: how often each line is made. keep: the best so many of them are kept per edit. borrow: the range of the
    share of the run in which attention is borrowed (cross_replace), drawn anew for each sample; None leaves it to the
    model. options: others of `Pipeline.edit`."""

    samples: int = 1
    keep: int = 1
    borrow: tuple[float, float] | None = None
    seed: int = 0
    options: Mapping[str, Any] = {}

    def drawn(self, line: Line, sample: int) -> dict[str, Any]:
        """The arguments of `Pipeline.edit` for a line's sample, always the same."""
        rng = np.random.default_rng((self.seed, line.index, sample))
        how = {**self.options, "seed": int(rng.integers(1 << 48))}
        return how if self.borrow is None else {**how, "cross_replace": float(rng.uniform(*self.borrow))}


class Kept(NamedTuple):
    """A pair worth keeping: its scores, the arguments it was made with, and the pictures of source and target."""

    scores: Scores
    how: Mapping[str, Any]
    pictures: tuple[Image.Image, Image.Image]


def read_lines(path: Path) -> list[Line]:
    """The captions in a file. Raises ValueError for a file without any, with the number of a line that holds none."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected captions, a JSON object per line")
    made = []
    with path.open("rb") as file:
        for index, text in enumerate(file):
            name = f"line {index + 1} of {path}"
            made.append(_line(index, parse_json(text, name), name))
    if not made:
        raise ValueError(f"{path} is empty; expected captions, a JSON object per line")
    return made


def _line(index: int, said: Mapping[str, Any], name: str) -> Line:
    if {"input", "edit", "output"} <= set(said):
        said = {"source": said["input"], "edits": [{"target": said["output"], "instruction": said["edit"]}]}
    source, edits = said.get("source"), said.get("edits")
    if not (isinstance(source, str) and isinstance(edits, list) and edits and all(map(_is_edit, edits))):
        raise ValueError(f'{name} holds no captions; expected "source" and "edits" with "target" and "instruction"')
    return Line(index, source, tuple(edits))


def _is_edit(said: Any) -> bool:
    return isinstance(said, dict) and all(isinstance(said.get(name), str) for name in ("target", "instruction"))


def make_pairs(pipe: Pipeline, line: Line, recipe: Recipe, judge: Judge, home: Path) -> list[dict[str, Any]]:
    """Make a line's pictures, keep the pairs that pass, write them and their list; returns the list."""
    verdict, kept = judge(line), [list[Kept]() for _ in line.edits]
    for sample in range(recipe.samples):
        how = recipe.drawn(line, sample)
        pictures = pipe.edit(line.source, line.captions[1:], **how).images
        for best, target, scores in zip(kept, pictures[1:], verdict(pictures), strict=True):
            if scores is not None:
                best.append(Kept(scores, how, (pictures[0], target)))
                best.sort(key=lambda one: -one.scores["score"])
                del best[recipe.keep :]
    pairs: list[dict[str, Any]] = []
    for edit, best in zip(line.edits, kept, strict=True):
        for one in best:
            names = [f"{line.index:06d}-{len(pairs)}-{part}.png" for part in ("source", "target")]
            for name, picture in zip(names, one.pictures, strict=True):
                write_png(home / name, picture, None)
            said = {"source": names[0], "target": names[1], "captions": [line.source, edit["target"]]}
            others = {key: value for key, value in edit.items() if key != "target"}
            how = {"seed": one.how["seed"], "borrow": one.how.get("cross_replace"), "scores": one.scores}
            pairs.append({**said, **others, **how})
    write_json(record_of(line, home), {"pairs": pairs, "made": recipe.samples * len(line.edits)})
    return pairs


def record_of(line: Line, home: Path) -> Path:
    return home / f"{line.index:06d}.json"


def read_pairs(home: Path) -> list[dict[str, Any]]:
    """All pairs in a folder, in the order of their captions."""
    return [pair for path in sorted(home.glob("[0-9]*.json")) for pair in read_json(path)["pairs"]]


def by_reader(line: Line) -> Verdict:
    """What the embedded world's reader finds: the change that the line says, and nothing else."""
    from pydiff.embedded.instructions import change_of
    from pydiff.embedded.judge import judge

    if not all("change" in edit for edit in line.edits):
        raise ValueError("it says no scenes for the reader; give --judge with a folder of CLIP's")
    changes = [change_of(edit["change"]) for edit in line.edits]

    def verdict(pictures: Sequence[Image.Image]) -> list[Scores | None]:
        source, *targets = map(np.asarray, pictures)
        found = [judge(change, source, target) for change, target in zip(changes, targets, strict=True)]
        return [{"score": one.others} if one and one.done and one.kept else None for one in found]

    return verdict


def by_clip(clip: Clip, least: Least) -> Judge:
    """By CLIP's similarities; the score is that of the directions."""

    def of_line(line: Line) -> Verdict:
        captions = clip.embed_captions(line.captions)

        def verdict(pictures: Sequence[Image.Image]) -> list[Scores | None]:
            found = similarities(clip.embed_pictures(pictures), captions)
            return [
                {"score": one.direction, "image": one.image, "source": one.source, "target": one.target}
                if least.met(one)
                else None
                for one in found
            ]

        return verdict

    return of_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 some lines failed, 2 bad input, 130 interrupted."""
    given = _parser().parse_args(arguments)
    return run_tool("pairs", partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    recipe, shard, least = _recipe(given), Shard.parse(given.shard), _least(given)
    lines = read_lines(given.captions)
    _check_folder(given.output)
    if given.judge == READER:
        _check_scenes(lines, given.captions)
    pipe = load(given.model, dtype=DTYPES[given.dtype], device=given.device)
    _check_recipe(pipe, recipe)
    judge = by_reader if given.judge == READER else by_clip(load_clip(Path(given.judge), given.device), least)
    given.output.mkdir(parents=True, exist_ok=True)

    def work(line: Line) -> None:
        make_pairs(pipe, line, recipe, judge, given.output)

    failed = work_off(
        lines,
        name=lambda line: f"line {line.index + 1}",
        done=lambda line: record_of(line, given.output).is_file(),
        work=work,
        shard=shard,
    )
    print(json.dumps({"pairs": len(read_pairs(given.output)), "failed": failed}))
    return 1 if failed else 0


def _recipe(given: argparse.Namespace) -> Recipe:
    for name, lowest in {"samples": 1, "keep": 1, "steps": 1, "size": 1, "seed": 0}.items():
        value = getattr(given, name)
        if value is not None and value < lowest:
            raise ValueError(f"--{name} is {value}; expected {lowest} or more")
    if given.borrow is not None and not 0 <= given.borrow[0] <= given.borrow[1] <= 1:
        raise ValueError(f"--borrow is {given.borrow[0]} {given.borrow[1]}; expected 0 <= LOW <= HIGH <= 1")
    options = {"size": given.size, "num_inference_steps": given.steps, "guidance_scale": given.guidance_scale}
    chosen = {name: value for name, value in options.items() if value is not None}
    return Recipe(given.samples, given.keep, given.borrow and tuple(given.borrow), given.seed, chosen)


def _least(given: argparse.Namespace) -> Least:
    said = {name: value for name in Least._fields if (value := getattr(given, f"least_{name}")) is not None}
    for name, value in said.items():
        if given.judge == READER:
            raise ValueError(f"--least-{name} is of CLIP; give --judge with a folder of CLIP's")
        if not -1 <= value <= 1:
            raise ValueError(f"--least-{name} is {value}; expected a cosine, -1 to 1")
    return Least(**said)


def _check_folder(home: Path) -> None:
    """Raise ValueError where home cannot be made, or written into."""
    nearest = next(path for path in (home, *home.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"the output {home} cannot be a folder: {nearest} is a file; choose another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"the output {home} cannot be written: {nearest} does not let you; choose another")


def _check_scenes(lines: Sequence[Line], path: Path) -> None:
    for line in lines:
        try:
            by_reader(line)
        except ValueError as error:
            raise ValueError(f"line {line.index + 1} of {path} cannot be judged: {error}") from error


def _check_recipe(pipe: Pipeline, recipe: Recipe) -> None:
    """Raise ValueError where pipe cannot edit so, whatever the captions."""
    options = dict(recipe.options)
    size = options.pop("size", None)
    plan_edit(pipe.cascade, "", "", make_call(None, options), size=size)


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser("pairs", (__doc__ or "").splitlines()[0])
    parser.add_argument("--captions", type=Path, required=True, help="a file of captions, a JSON object per line")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder to write into, or to go on in")
    parser.add_argument("--model", help="a folder to make pictures with (default: the embedded model)")
    parser.add_argument("--judge", default=READER, help="a folder with a CLIP model (default: the embedded reader)")
    for name, what in (("image", "both pictures"), ("caption", "a picture and its caption"), ("direction", "changes")):
        text = f"CLIP's least cosine of {what} (default {Least._field_defaults[name]})"
        parser.add_argument(f"--least-{name}", type=float, metavar="COSINE", help=text)
    parser.add_argument("--samples", type=int, default=1, help="how often each line is made (default 1)")
    parser.add_argument("--keep", type=int, default=1, help="pairs to keep of each edit, the best (default 1)")
    parser.add_argument("--borrow", type=float, nargs=2, metavar=("LOW", "HIGH"), help="range of cross_replace")
    parser.add_argument("--size", type=int, help="of the pictures (default: the model's)")
    parser.add_argument("--steps", type=int, help="num_inference_steps")
    parser.add_argument("--guidance-scale", type=float, dest="guidance_scale")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="do part I of N of the lines (default 0/1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
