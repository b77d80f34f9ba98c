"""How often pictures show what their prompts say: `python -m benchmarks.scenes`.

Prompts in plain English, category by category, in the manner of DrawBench; a geometric reader takes the place of the
human raters, so the same pictures always get the same marks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pydiff.embedded.captions import caption
from pydiff.embedded.reader import Reading, read
from pydiff.embedded.scoring import CATEGORIES, score
from pydiff.embedded.world import Scene, sample_scene

SEED = 20250
BATCH = 8
UNSEEN = "unseen combinations"
SHARES = {"place": 0.13, "single": 0.09, "pair": 0.24, "count": 0.15, "row": 0.10, "mixed": 0.09, UNSEEN: 0.20}
SHEET = (8, 5, 192, 64)  # columns, rows, pixels of a picture's side and of the caption under it

Generate = Callable[[list[str], list[int]], NDArray[Any]]


class Prompt(NamedTuple):
    """What the model is told, and the scene that the words were made from."""

    text: str
    scene: Scene
    kind: str  # a key of SHARES
    seed: int


class Outcome(NamedTuple):
    """One prompt's picture, (S, S, 3) uint8, what was read in it and which categories it gets right."""

    prompt: Prompt
    image: NDArray[np.uint8]
    reading: Reading
    verdict: dict[str, bool]


class Row(NamedTuple):
    """A line of the table: `right` of the `total` prompts that have something to say about the category."""

    category: str
    right: int
    total: int


def prompts(number: int) -> list[Prompt]:
    """The first `number` prompts; a shorter list is the beginning of a longer one, with the same mixture of kinds."""
    made, have, texts = list[Prompt](), dict.fromkeys(SHARES, 0), set[str]()
    for i in range(number):
        kind = max(SHARES, key=lambda name: SHARES[name] * (i + 1) - have[name])
        have[kind] += 1
        rng = np.random.default_rng((SEED, i))
        while True:
            scene = sample_scene(rng, unseen=kind == UNSEEN)
            text = caption(scene, rng)
            if text not in texts and kind in (UNSEEN, _kind(scene)):
                break
        texts.add(text)
        made.append(Prompt(text, scene, kind, i))
    return made


def _kind(scene: Scene) -> str:
    if scene.relation == "row":
        return "row"
    several = any(group.count > 1 for group in scene.groups)
    if scene.relation is not None:
        return "mixed" if several else "pair"
    return "count" if several else "single" if scene.place is None else "place"


def evaluate(generate: Generate, asked: Sequence[Prompt]) -> list[Outcome]:
    """Generates every prompt's picture and scores it.

    generate(texts, seeds): a (B, S, S, 3) array, float in [0, 1] or uint8, for up to BATCH texts.
    Raises ValueError when it returns anything else.
    """
    outcomes = []
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        images = _pictures(generate([p.text for p in batch], [p.seed for p in batch]), len(batch))
        for prompt, image in zip(batch, images, strict=True):
            reading = read(image)
            outcomes.append(Outcome(prompt, image, reading, score(prompt.scene, reading)))
    return outcomes


def _pictures(images: NDArray[Any], expected: int) -> NDArray[np.uint8]:
    images = np.asarray(images)
    if images.ndim != 4 or len(images) != expected or images.shape[-1] != 3:
        raise ValueError(f"generate returned {images.shape}; return ({expected}, S, S, 3), one picture for each text")
    if images.dtype != np.uint8 and not np.isfinite(images).all():
        raise ValueError("generate returned pictures with NaN or infinite values; return floats in [0, 1]")
    if images.dtype != np.uint8:
        images = np.round(np.clip(images, 0, 1) * 255)
    return images.astype(np.uint8, copy=False)


def table(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each category over the prompts that resemble training's, then one for the combinations that do not."""
    seen = [o.verdict for o in outcomes if o.prompt.kind != UNSEEN]
    unseen = [o.verdict for o in outcomes if o.prompt.kind == UNSEEN]
    rows = [Row(c, sum(v.get(c, False) for v in seen), sum(c in v for v in seen)) for c in CATEGORIES]
    return [*rows, Row(UNSEEN, sum(v["overall"] for v in unseen), len(unseen))]


def markdown(rows: Sequence[Row]) -> str:
    """The table, as README files carry it."""
    lines = ["| category            | right   |   n |", "|:--------------------|--------:|----:|"]
    for row in rows:
        share = f"{row.right / row.total:.1%}" if row.total else "-"
        lines.append(f"| {row.category:<19} | {share:>7} | {row.total:>3} |")
    return "\n".join(lines)


def sheet(outcomes: Sequence[Outcome]) -> Image.Image:
    """The first pictures over their prompts; a failure has a red frame and the names of the categories it fails."""
    columns, rows, side, text = SHEET
    shown = outcomes[: columns * rows]
    page = Image.new("RGB", (columns * side, -(-len(shown) // columns) * (side + text)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=11)
    for i, outcome in enumerate(shown):
        x, y = i % columns * side, i // columns * (side + text)
        image = Image.fromarray(outcome.image).resize((side - 8, side - 8), Image.Resampling.BILINEAR)
        page.paste(image, (x + 4, y + 4))
        failed = [category for category, right in outcome.verdict.items() if not right]
        pen.rectangle((x + 1, y + 1, x + side - 2, y + side - 2), outline="red" if failed else "lightgray", width=3)
        lines = textwrap.wrap(outcome.prompt.text, 32)
        pen.text((x + 4, y + side), "\n".join(lines), fill="black", font=font, spacing=1)
        if failed:
            reason = ", ".join(failed[:-1]) or "wrong combination"  # the last one is "overall"
            pen.text((x + 4, y + side + 14 * len(lines)), reason, fill="red", font=font)
    return page


def report(outcomes: Sequence[Outcome], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, as JSON can hold it."""
    rows = {row.category: {"right": row.right, "total": row.total} for row in table(outcomes)}
    pictures = [
        {
            "prompt": o.prompt.text,
            "kind": o.prompt.kind,
            "seed": o.prompt.seed,
            "verdict": o.verdict,
            "background": o.reading.background,
            "objects": [found._asdict() for found in o.reading.objects],
        }
        for o in outcomes
    ]
    return {"settings": settings, "table": rows, "pictures": pictures}


def _write(path: Path, save: Callable[[Path], object]) -> None:
    """Under a temporary name first, so that nothing half-written is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        save(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _generate(args: argparse.Namespace) -> Generate:
    """pydiff's own pipeline, with its defaults wherever nothing else is asked for."""
    import pydiff

    pipe = pydiff.load(args.model)
    options: dict[str, Any] = {"size": args.size, "output_type": "np"}
    for name, values in (("num_inference_steps", args.steps), ("guidance_scale", args.guidance)):
        if values:
            options[name] = values[0] if len(values) == 1 else values
    done = 0

    def generate(texts: list[str], seeds: list[int]) -> NDArray[Any]:
        nonlocal done
        images: NDArray[Any] = pipe.generate(texts, seed=seeds, **options).images
        done += len(texts)
        print(f"\r{done} of {args.prompts}", end="\n" if done == args.prompts else "", file=sys.stderr, flush=True)
        return images

    return generate


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200, metavar="N", help="how many prompts (default 200)")
    parser.add_argument("--size", type=int, default=256, choices=(64, 256, 1024), help="pixels a side (default 256)")
    parser.add_argument("--steps", type=int, nargs="+", metavar="N", help="sampling steps, one number or one per stage")
    parser.add_argument("--guidance", type=float, nargs="+", metavar="W", help="guidance scale, one or one per stage")
    parser.add_argument("--model", nargs="+", metavar="DIR", help="a pipeline's folder, or one per stage")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the table and every picture's reading")
    parser.add_argument("--sheet", type=Path, metavar="PATH", help="write the first 40 pictures, failures in red")
    return parser


def main(arguments: Sequence[str] | None = None, generate: Generate | None = None) -> int:
    """Prints the table; `generate` stands in for the pipeline."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.prompts < 1:
        parser.error(f"--prompts is {args.prompts}; give 1 or more")
    outcomes = evaluate(generate or _generate(args), prompts(args.prompts))
    print(markdown(table(outcomes)))
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "sheet")}
        text = json.dumps(report(outcomes, settings), indent=1)
        _write(args.json, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    if args.sheet:
        page = sheet(outcomes)
        _write(args.sheet, lambda path: page.save(path, format="PNG"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
