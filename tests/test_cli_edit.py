"""`pydiff edit`: what it writes, and what it refuses with one line and status 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pydiff
from pydiff import cli
from pydiff.images import read_settings

RED, GREEN, STAR = "a red circle", "a green circle", "a red star"
FAST = ["--size", "64", "--steps", "2", "--seed", "7"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: pydiff.Pipeline) -> Path:
    """An empty folder to stand in, and the pipeline that is open already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pydiff.pipeline.load", lambda model, **how: pipe)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_an_edit_is_that_of_the_api(place: Path, pipe: pydiff.Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["edit", RED, GREEN, *FAST, "-o", "a.png", "--sheet", "s.png", "--cross-replace", "0.5"]) == 0
    assert capsys.readouterr() == ("a.png\ns.png\n", "")
    made = pipe.edit(RED, GREEN, size=64, num_inference_steps=2, seed=7, cross_replace=0.5)
    assert np.array_equal(Image.open("a.png"), made.images[1])
    assert read_settings(Path("a.png")) == made.settings[1]
    assert Image.open("s.png").width > 2 * 256


def test_several_targets_and_their_heat(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["edit", RED, GREEN, STAR, *FAST, "--heat", "red", "--blend", "circle", "--blend", "star"]) == 0
    first = "a-green-circle"
    written = [f"{first}-1.png", f"{first}-1-heat.png", f"{first}-2.png", f"{first}-2-heat.png"]
    assert capsys.readouterr().out.split() == written
    assert names(place) == sorted(written)


@pytest.mark.parametrize(
    "options",
    [
        [RED, GREEN, "--blend", "red circle", "--exclude", "a"],
        [RED, GREEN, "--method", "masactrl"],
        ["a large red circle", "--reweight", "large=-1", "--reweight", "red=2"],
    ],
)
def test_from_repeats_an_edit(place: Path, options: list[str]) -> None:
    assert cli.main(["edit", *options, *FAST, "-o", "a.png"]) == 0
    assert cli.main(["edit", "--from", "a.png", "-o", "b.png"]) == 0
    assert np.abs(np.asarray(Image.open("a.png"), int) - np.asarray(Image.open("b.png"), int)).max() <= 1
    told, again = (read_settings(Path(name)) for name in ("a.png", "b.png"))
    assert told == again


BAD = [
    ([], "no prompts; give SOURCE and TARGET in quotes"),
    ([RED], "give reweight, or a target"),
    ([RED, GREEN, "--reweight", "red"], "'red' is no WORD=W, such as fluffy=2"),
    ([RED, GREEN, "--reweight", "green=much"], "'much' in 'green=much' is no number"),
    ([RED, GREEN, "--reweight", "dog=2"], "reweight names the word 'dog'"),
    ([RED, GREEN, "--blend", "dog"], "the word 'dog', which is not in"),
    ([RED, GREEN, "--exclude", "red"], "excluded words are given without local_blend"),
    ([RED, GREEN, "--cross-replace", "2"], "cross_replace is 2.0"),
    ([RED, GREEN, "--method", "magic"], "method is 'magic'"),
    ([RED, GREEN, "--method", "masactrl", "--blend", "red"], "local_blend is an option of the method"),
    ([RED, GREEN, "-o", "a.jpg"], "the output a.jpg is no .png"),
    ([RED, GREEN, "--sheet", "a-green-circle.png"], "give two names"),
    (["--from", "none.png"], "none.png does not exist"),
    ([RED, GREEN, "--heat", "dog"], "capture names the word 'dog'"),
]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:40])
def test_refused(place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    try:
        status = cli.main(["edit", *arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    said = capsys.readouterr()
    assert status == 2
    assert message in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert names(place) == []


def test_pictures_of_other_tasks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", RED, *FAST, "-o", "a.png"]) == 0
    assert cli.main(["edit", "--from", "a.png"]) == 2
    assert cli.main(["edit", RED, GREEN, *FAST, "-o", "b.png"]) == 0
    assert cli.main(["generate", "--from", "b.png"]) == 2
    said = capsys.readouterr().err
    assert "a.png was not made by edit (its task is 'generate')" in said
    assert "b.png was not made by generate (its task is 'edit')" in said
