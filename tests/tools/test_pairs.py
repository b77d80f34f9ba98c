"""Training pairs: always the same bytes, made once, the best kept, and nothing half done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pydiff
from pydiff.embedded import instructions
from pydiff.embedded.world import Scene, draw, place_things
from pydiff.tools import pairs
from pydiff.tools.clip_scores import load_clip, similarities
from tests.tools.clip_folder import clip_folder

LINES = list(instructions.lines(5))


class Painter:
    """In a pipeline's place: draws the scenes of LINES, or noise of captions that it does not know."""

    def __init__(self, cascade: Any = None, refuses: str = "") -> None:
        self.cascade, self.refuses = cascade, refuses
        self.calls = list[tuple[str, dict[str, Any]]]()
        changes = [(line["source"], edit["target"], edit["change"]) for line in LINES for edit in line["edits"]]
        self.scenes: dict[str, Scene] = {source: change["before"] for source, _, change in changes}
        self.scenes |= {target: change["after"] for _, target, change in changes}

    def edit(self, source: str, targets: Sequence[str], **how: Any) -> Any:
        if source == self.refuses:
            raise ValueError("the caption is too long")
        self.calls.append((source, how))
        if source not in self.scenes:
            rng = np.random.default_rng(how["seed"])
            images = [Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)) for _ in (0, *targets)]
            return SimpleNamespace(images=images)
        things = place_things(self.scenes[source], np.random.default_rng(how["seed"]))
        images = []
        for scene in (self.scenes[caption] for caption in (source, *targets)):
            groups = zip(things, scene.groups, strict=True)
            changed = tuple(thing._replace(colour=group.colour, shape=group.shape) for thing, group in groups)
            images.append(Image.fromarray(draw(scene, changed, 96)))
        return SimpleNamespace(images=images)


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]] = LINES) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch, pipe: pydiff.Pipeline) -> Painter:
    made = Painter(pipe.cascade)
    monkeypatch.setattr(pairs, "load", lambda *_, **__: made)
    return made


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "captions.jsonl")


def run(captions: Path, home: Path, *more: Any) -> int:
    return pairs.main(["--captions", str(captions), "-o", str(home), *map(str, more)])


def contents(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.iterdir()}


def test_the_same_bytes_again(captions: Path, tmp_path: Path, painter: Painter, capsys: Any) -> None:
    homes = [tmp_path / "a", tmp_path / "b" / "c", tmp_path / "other"]
    for home, seed in zip(homes, (0, 0, 1), strict=True):
        assert run(captions, home, "--seed", seed, "--borrow", 0.3, 0.9) == 0
    first, second, other = map(contents, homes)
    assert first == second
    assert all(first[name] != other[name] for name in first if name in other)
    found = pairs.read_pairs(homes[0])
    edits = [(line["source"], edit) for line in LINES for edit in line["edits"]]
    assert len(found) >= len(edits) - 1  # the reader knows nearly all that is drawn
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == {"pairs": len(found), "failed": 0}
    assert {path for path in first if path.endswith(".png")} == {one[k] for one in found for k in ("source", "target")}
    for one in found:
        (edit,) = [edit for source, edit in edits if one["captions"] == [source, edit["target"]]]
        assert {name: one[name] for name in ("instruction", "back", "kind")} == {
            name: edit[name] for name in ("instruction", "back", "kind")
        }
        assert instructions.change_of(one["change"]) == instructions.change_of(edit["change"])
        assert 0.3 <= one["borrow"] <= 0.9
        assert one["scores"]["score"] >= 0.9


def test_a_record_that_is_gone_is_made_again(captions: Path, tmp_path: Path, painter: Painter) -> None:
    home = tmp_path / "out"
    assert run(captions, home) == 0
    before, times = contents(home), {path.name: path.stat().st_mtime_ns for path in home.iterdir()}
    (home / "000002.json").unlink()
    painter.calls.clear()
    assert run(captions, home) == 0
    assert [source for source, _ in painter.calls] == [LINES[2]["source"]]
    assert contents(home) == before
    touched = {path.name[:6] for path in home.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert touched == {"000002"}


def test_a_kill_between_pictures_and_record(
    captions: Path, tmp_path: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole, home = tmp_path / "whole", tmp_path / "out"
    assert run(captions, whole) == 0
    with monkeypatch.context() as patched:
        patched.setattr(pairs, "write_json", partial(killed, at="000001.json"))
        assert run(captions, home) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert (home / "000001-0-source.png").is_file()
    assert {one["source"][:6] for one in pairs.read_pairs(home)} == {"000000"}
    assert run(captions, home) == 0
    assert contents(home) == contents(whole)


def killed(path: Path, value: Any, at: str) -> None:
    if path.name == at:
        raise KeyboardInterrupt
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def test_shards_partition_the_lines(captions: Path, tmp_path: Path, painter: Painter) -> None:
    whole, home = tmp_path / "whole", tmp_path / "out"
    assert run(captions, whole) == 0
    painter.calls.clear()
    for index in (2, 0, 1):
        assert run(captions, home, "--shard", f"{index}/3") == 0
    assert [source for source, _ in painter.calls] == [LINES[index]["source"] for index in (2, 0, 3, 1, 4)]
    assert contents(home) == contents(whole)


def test_a_line_that_fails_is_told(captions: Path, tmp_path: Path, painter: Painter, capsys: Any) -> None:
    painter.refuses, home = LINES[1]["source"], tmp_path / "out"
    assert run(captions, home) == 1
    said = capsys.readouterr()
    assert said.err == "line 2: the caption is too long\n"
    assert json.loads(said.out)["failed"] == 1
    assert sorted(path.name for path in home.glob("*.json")) == [f"00000{index}.json" for index in (0, 2, 3, 4)]


def test_the_best_are_kept(tmp_path: Path) -> None:
    line = pairs.Line(7, "a cat", tuple({"target": f"a {name}", "instruction": name} for name in ("dog", "fox")))
    seen = list[list[float]]()

    def brightness(pictures: Sequence[Image.Image]) -> list[dict[str, float] | None]:
        seen.append([float(np.mean(np.asarray(picture))) for picture in pictures[1:]])
        return [{"score": mean} if mean > 127.5 else None for mean in seen[-1]]

    painter = Painter()
    recipe = pairs.Recipe(samples=9, keep=3, borrow=(0.1, 0.9), seed=4, options={"size": 20})
    made = pairs.make_pairs(painter, line, recipe, lambda _: brightness, tmp_path)  # type: ignore[arg-type]
    assert (
        len({how["seed"] for _, how in painter.calls}) == len({how["cross_replace"] for _, how in painter.calls}) == 9
    )
    assert all(how["size"] == 20 and 0.1 <= how["cross_replace"] <= 0.9 for _, how in painter.calls)
    for target in (0, 1):
        best = sorted((means[target] for means in seen if means[target] > 127.5), reverse=True)[:3]
        mine = [one for one in made if one["captions"][1] == line.captions[1 + target]]
        assert [one["scores"]["score"] for one in mine] == best
        for one in mine:
            assert np.mean(np.asarray(Image.open(tmp_path / one["target"]))) == one["scores"]["score"]
            ((_, how),) = [call for call in painter.calls if call[1]["seed"] == one["seed"]]
            assert one["borrow"] == how["cross_replace"]
    assert pairs.read_pairs(tmp_path) == made
    assert json.loads((tmp_path / "000007.json").read_text())["made"] == 18


def test_clip_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: pydiff.Pipeline) -> None:
    """The whole way, on lines as the paper's files have them: the embedded model, few steps, a random CLIP."""
    clip_folder(tmp_path / "clip")
    monkeypatch.setattr(pairs, "load", lambda *_, **__: pipe)
    captions = write_lines(
        tmp_path / "gpt.jsonl", [{"input": "a red circle", "edit": "make it blue", "output": "a blue circle", "url": 1}]
    )
    how = ("--judge", tmp_path / "clip", "--size", 64, "--steps", 2, "--samples", 3, "--keep", 2)
    every = [part for name in ("image", "caption", "direction") for part in (f"--least-{name}", -1)]
    assert run(captions, tmp_path / "all", *how, *every) == 0
    found = pairs.read_pairs(tmp_path / "all")
    assert [(one["instruction"], one["captions"]) for one in found] == [
        ("make it blue", ["a red circle", "a blue circle"])
    ] * 2
    clip = load_clip(tmp_path / "clip")
    words = clip.embed_captions(["a red circle", "a blue circle"])
    for one in found:
        shown = clip.embed_pictures([Image.open(tmp_path / "all" / one[name]) for name in ("source", "target")])
        (expected,) = similarities(shown, words)
        scores = {"score": expected.direction, **expected._asdict()}
        assert one["scores"] == pytest.approx({name: scores[name] for name in one["scores"]}, abs=1e-5)
        assert set(one["scores"]) == {"score", "image", "source", "target"}
    first, second = (one["scores"]["score"] for one in found)
    assert first >= second
    assert run(captions, tmp_path / "none", *how, *every, "--least-direction", 1) == 0
    assert pairs.read_pairs(tmp_path / "none") == []
    assert list(contents(tmp_path / "none")) == ["000000.json"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, pipe: pydiff.Pipeline) -> Iterator[None]:
    real = pairs.load
    monkeypatch.setattr(pairs, "load", lambda model, **how: pipe if model is None else real(model, **how))
    return None


GOOD = json.dumps(LINES[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a file; expected captions"),
        ("", "is empty; expected captions"),
        (f"{GOOD}\n\n", "line 2 of .* is not readable as JSON"),
        (f"{GOOD}\nno\n", "line 2 of .* is not readable as JSON"),
        (f"{GOOD}\n[]\n", "line 2 of .* holds a JSON list"),
        ('{"source": "a", "edits": []}', "line 1 of .* holds no captions"),
        ('{"source": 1, "edits": [{"target": "a", "instruction": "b"}]}', "line 1 of .* holds no captions"),
        ('{"source": "a", "edits": [{"target": "b"}]}', "line 1 of .* holds no captions"),
        ('{"input": "a", "edit": "b", "output": null}', "line 1 of .* holds no captions"),
        ('{"input": "a", "edit": "b", "output": "c"}', "line 1 of .* says no scenes for the reader; give --judge"),
        (f"{GOOD}\n" + GOOD.replace('"circle"', '"cat"').replace('"cross"', '"cat"'), "line 2 of .*no single object"),
    ],
)
@pytest.mark.usefixtures("idle", "opened")
def test_captions_that_are_none(text: str | None, message: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "captions.jsonl"
    if text is not None:
        path.write_text(text)
    refused(run(path, tmp_path / "out"), message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--samples", 0), "--samples is 0; expected 1 or more"),
        (("--keep", -1), "--keep is -1; expected 1 or more"),
        (("--steps", 0), "--steps is 0; expected 1 or more"),
        (("--size", 65), "size is 65"),
        (("--seed", -1), "--seed is -1; expected 0 or more"),
        (("--guidance-scale", "nan"), "guidance_scale"),
        (("--borrow", 0.9, 0.1), "--borrow is 0.9 0.1; expected 0 <= LOW <= HIGH <= 1"),
        (("--borrow", -0.1, 0.1), "--borrow is -0.1 0.1"),
        (("--borrow", "nan", 1), "--borrow is nan 1.0"),
        (("--shard", "3/3"), "shard is '3/3'"),
        (("--model", "none"), "none is not a folder; expected one in the diffusers layout"),
        (("--model", "pydiff-palette"), "pydiff-palette makes no pictures of prompts"),
        (("--judge", "none/there"), "none/there is not a folder"),
        (("--least-image", 0.5), "--least-image is of CLIP; give --judge"),
        (("--judge", "clip", "--least-caption", 2), "--least-caption is 2.0; expected a cosine"),
        (("--output", "captions.jsonl"), "captions.jsonl cannot be a folder"),
        (("--output", "captions.jsonl/out"), "out cannot be a folder: .*captions.jsonl is a file"),
    ],
)
@pytest.mark.usefixtures("idle", "opened")
def test_bad_options(
    more: tuple[Any, ...], message: str, captions: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run(captions, tmp_path / "out", *more), message, tmp_path, capsys)


def refused(status: int, message: str, folder: Path, capsys: Any) -> None:
    assert status == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("pairs: ")
    assert re.search(message, said), said
    assert {path.name for path in folder.iterdir()} <= {"captions.jsonl"}
