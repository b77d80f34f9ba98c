from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import scenes
from pydiff.embedded.scoring import CATEGORIES
from pydiff.embedded.world import SHAPES, Scene, Thing, draw, is_unseen, place_things

ASKED = scenes.prompts(60)
Wrong = Callable[[Scene, list[Thing]], tuple[Scene, list[Thing]]]


def painter(wrong: Wrong = lambda scene, things: (scene, things), size: int = 64) -> scenes.Generate:
    """A generator that draws each prompt's own scene, after `wrong` has spoilt it."""
    known = {p.text: p.scene for p in ASKED}

    def generate(texts: list[str], seeds: list[int]) -> np.ndarray:
        images = []
        for text, seed in zip(texts, seeds, strict=True):
            scene, things = wrong(known[text], list(place_things(known[text], np.random.default_rng(seed))))
            images.append(draw(scene, tuple(things), size).astype(np.float32) / 255)
        return np.stack(images)

    return generate


def failing(wrong: Wrong) -> set[str]:
    rows = scenes.table(scenes.evaluate(painter(wrong), ASKED))
    return {row.category for row in rows if row.right < row.total}


def test_prompts_are_deterministic_mixed_and_unlike_each_other() -> None:
    asked = scenes.prompts(200)
    assert asked[: len(ASKED)] == ASKED
    assert len({p.text for p in asked}) == 200
    kinds = Counter(p.kind for p in asked)
    assert {kind: kinds[kind] / 200 for kind in kinds} == pytest.approx(scenes.SHARES, abs=0.006)
    assert all(is_unseen(p.scene) == (p.kind == scenes.UNSEEN) for p in asked)


@pytest.mark.parametrize("size", [64, 256])
def test_a_perfect_generator_scores_everything(size: int) -> None:
    asked = ASKED if size == 64 else ASKED[:32]
    rows = scenes.table(scenes.evaluate(painter(size=size), asked))
    assert [row.category for row in rows] == [*CATEGORIES, scenes.UNSEEN]
    assert all(row.right == row.total > 0 for row in rows)


EVERY = {"overall", scenes.UNSEEN}


def _absent(things: list[Thing]) -> str:
    return next(shape for shape in SHAPES if shape not in {thing.shape for thing in things})


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda s, t: (s._replace(background="white" if s.background == "gray" else "gray"), t), {"background"}),
        (lambda s, t: (s, [x._replace(colour="white" if s.background != "white" else "gray") for x in t]), {"colours"}),
        (lambda s, t: (s, [x._replace(shape=_absent(t)) for x in t]), {"shapes"}),
        (lambda s, t: (s, [x._replace(x=1 - x.x, y=1 - x.y) for x in t]), {"positional"}),
        (lambda s, t: (s, [x._replace(radius=0.14) for x in t]), {"size"}),
        (lambda s, t: (s, t[1:]), {"counting", "colours", "shapes", "positional", "size"}),
    ],
    ids=["background", "colours", "shapes", "positional", "size", "counting"],
)
def test_a_wrong_drawing_fails_its_category(wrong: Wrong, expected: set[str]) -> None:
    assert failing(wrong) == expected | EVERY


def test_pictures_may_be_bytes_and_batches_are_short() -> None:
    sizes = []

    def generate(texts: list[str], seeds: list[int]) -> np.ndarray:
        sizes.append(len(texts))
        return np.round(painter()(texts, seeds) * 255).astype(np.uint8)

    assert all(o.verdict["overall"] for o in scenes.evaluate(generate, ASKED[:19]))
    assert sizes == [8, 8, 3]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 64, 64, 3)), r"\(3, 64, 64, 3\); return \(2, S, S, 3\)"),
        (np.zeros((2, 3, 64, 64)), r"\(2, 3, 64, 64\)"),
        (np.full((2, 64, 64, 3), np.nan), "NaN"),
    ],
)
def test_a_generator_that_returns_no_pictures_is_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes.evaluate(lambda texts, seeds: images, ASKED[:2])


def test_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {"--json": tmp_path / "new" / "scenes.json", "--sheet": tmp_path / "new" / "scenes.png"}
    options = [str(part) for pair in paths.items() for part in pair]
    spoilt = painter(lambda s, t: (s, t[1:] if s == ASKED[0].scene else t))
    assert scenes.main(["--prompts", "16", *options], spoilt) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("| category")
    written = json.loads(paths["--json"].read_text(encoding="utf-8"))
    assert len(written["pictures"]) == 16
    assert written["settings"]["prompts"] == 16
    assert f"| {written['table']['overall']['total']:>3} |" in printed
    columns, _, side, text = scenes.SHEET
    with Image.open(paths["--sheet"]) as page:
        assert page.size == (columns * side, 2 * (side + text))
        assert page.getpixel((2, 2)) == (255, 0, 0)
        assert page.getpixel((side + 2, 2)) != (255, 0, 0)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"scenes.json", "scenes.png"}


def test_no_prompts_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scenes.main(["--prompts", "0"], painter())
    assert "--prompts is 0" in capsys.readouterr().err
