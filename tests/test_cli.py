"""The command: what it writes, what it refuses with one line and status 2, and what Ctrl-C leaves behind (nothing)."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import pydiff
from pydiff import cli
from pydiff.images import read_settings, write_png
from tests.idle import WorkBeganError

PROMPT = "a red circle left of a blue square"
FAST = ["--size", "64", "--steps", "2"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: pydiff.Pipeline) -> Path:
    """An empty folder to stand in, and the pipeline that is open already."""
    monkeypatch.chdir(tmp_path)
    opened = pydiff.pipeline.load
    monkeypatch.setattr("pydiff.pipeline.load", lambda model, **how: pipe if model is None else opened(model, **how))
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_generate_writes_a_picture_and_says_where(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", PROMPT, *FAST, "--seed", "7", "-o", "a.png"]) == 0
    assert capsys.readouterr() == ("a.png\n", "")
    assert names(place) == ["a.png"]
    assert Image.open("a.png").size == (64, 64)
    assert read_settings(Path("a.png"))["prompt"] == PROMPT


def test_it_is_the_picture_of_the_api(place: Path, pipe: pydiff.Pipeline) -> None:
    cli.main(["generate", PROMPT, *FAST, "--seed", "7", "-o", "a.png", "--guidance", "2", "--negative", "a star"])
    made = pipe.generate(PROMPT, seed=7, size=64, num_inference_steps=2, guidance_scale=2, negative_prompt="a star")
    assert np.array_equal(Image.open("a.png"), made.images[0])
    assert read_settings(Path("a.png")) == made.settings[0]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("A Red, circle!", "a-red-circle.png"), ("", "picture.png"), ("../../a b", "a-b.png"), ("/etc", "etc.png")],
)
def test_a_name_from_the_prompt(place: Path, prompt: str, name: str) -> None:
    assert cli.main(["generate", prompt, *FAST]) == 0
    assert names(place) == [name]


def test_several_pictures_and_a_sheet(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "sub").mkdir()
    call = ["generate", "a red\nring", *FAST, "--seed", "3", "-n", "2", "-o", "sub/a.png", "--sheet", "s.png"]
    assert cli.main(call) == 0
    assert capsys.readouterr().out.split() == ["sub/a-1.png", "sub/a-2.png", "s.png"]
    assert [read_settings(place / "sub" / name)["seed"] for name in names(place / "sub")] == [3, 4]


def test_heat_is_written_beside_the_pictures(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["generate", PROMPT, *FAST, "--seed", "7", "--heat", "circle", "--heat", "blue square"]
    assert cli.main([*call, "-n", "2", "-o", "a.png"]) == 0
    assert capsys.readouterr().out.split() == ["a-1.png", "a-1-heat.png", "a-2.png", "a-2-heat.png"]
    assert Image.open("a-2-heat.png").width > 3 * 256  # the picture and two words
    assert cli.main(["generate", "--from", "a-2.png", "--heat", "red", "-o", "b.png"]) == 0
    assert Path("b-heat.png").exists()
    assert read_settings(Path("b.png")) == read_settings(Path("a-2.png"))


@pytest.mark.parametrize("size", ["64", "256"])
def test_from_repeats_a_picture(place: Path, size: str) -> None:
    first = ["generate", "a red ring", "--size", size, "--steps", "1", "--sampler", "ddim", "--seed", "7"]
    assert cli.main([*first, "-o", "a.png"]) == 0
    assert cli.main(["generate", "--from", "a.png", "--size", size, "-o", "b.png"]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_from_another_picture_with_changes(place: Path, pipe: pydiff.Pipeline) -> None:
    made = pipe.generate("a red ring", seed=7, size=256, num_inference_steps=[1, 1])
    made.save("a.png")
    assert cli.main(["generate", "--from", "a.png", "--steps", "2", "--seed", "8", "-o", "b.png"]) == 0
    before, after = read_settings(Path("a.png")), read_settings(Path("b.png"))
    assert after["num_inference_steps"] == [2, before["num_inference_steps"][1]]
    assert (after["seed"], after["prompt"]) == (8, "a red ring")
    assert cli.main(["generate", "--from", "a.png", "--size", "64", "-o", "c.png"]) == 0
    assert read_settings(Path("c.png"))["num_inference_steps"] == [1]


def test_from_a_picture_of_its_own_height(place: Path) -> None:
    call = ["generate", "a red ring", "--size", "256", "--height", "128", "--width", "192", "--steps", "1"]
    assert cli.main([*call, "--seed", "7", "-o", "a.png"]) == 0
    assert cli.main(["generate", "--from", "a.png", "-o", "b.png"]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert cli.main(["generate", "--from", "a.png", "--size", "64", "-o", "c.png"]) == 0
    assert [Image.open(name).size for name in ("a.png", "c.png")] == [(192, 128), (64, 64)]


def test_no_metadata(place: Path) -> None:
    cli.main(["generate", PROMPT, *FAST, "--no-metadata", "-o", "a.png"])
    assert not Image.open("a.png").info


def test_an_unknown_word_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = warnings.showwarning
    assert cli.main(["generate", "a dragon", *FAST, "-o", "a.png"]) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("pydiff: warning: the model never saw 'dragon'")
    assert warnings.showwarning is shown


BAD = [
    ([], "no prompt; give one in quotes"),
    (["red " * 100], "shorten it"),
    (["a", "b"], "unrecognized arguments: b"),
    (["a", "--odd"], "unrecognized arguments: --odd"),
    (["a", "--seed", "x"], "--seed: invalid int value: 'x'"),
    (["a", "--seed", "-1"], "seed is -1"),
    (["a", "--seed", "9223372036854775808"], "seed is 9223372036854775808"),
    (["a", "--steps", "0"], "num_inference_steps is 0"),
    (["a", "--steps", "1001"], "num_inference_steps is 1001"),
    (["a", "--steps", "2.5"], "--steps: invalid int value"),
    (["a", "--size", "100"], "size is 100, which no stage"),
    (["a", "--guidance", "nan"], "guidance_scale is nan"),
    (["a", "--height", "255"], "height is 255; expected a multiple of 4"),
    (["a", "--sampler", "plms"], "sampler 'plms' is unknown"),
    (["a", "--negative", "red " * 100], "shorten it"),
    (["a", "-n", "0"], "-n is 0"),
    (["a", "-o", "none/a.png"], "the folder none does not exist"),
    (["a", "-o", "a.jpg"], "is no .png"),
    (["a", "-o", "folder.png"], "is a folder"),
    (["a", "-o", "f.png", "-n", "2"], "f-2.png is a folder"),
    (["a", "-o", "a.png", "--sheet", "a.jpg"], "a.jpg is no .png"),
    (["a", "-o", "a.png", "--sheet", "none/a.png"], "the folder none does not exist"),
    (["a", "-o", "a.png", "--sheet", "a.png"], "give two names"),
    (["a", "-o", "a.png", "--heat", "dragon"], "capture names the word 'dragon', which is not in 'a'"),
    (["a", "-o", "a.png", "--heat", "a", "--sheet", "a-heat.png"], "give two names"),
    (["a", "--heat"], "--heat: expected one argument"),
    (["a", "--model", "nowhere"], "nowhere is not a folder"),
    (["a", "--model", "folder.png"], "has no model_index.json"),
    (["--from", "none.png"], "none.png does not exist"),
    (["--from", "plain.png"], "plain.png carries no pydiff settings"),
    (["--from", "cut.png"], "cut.png is no readable"),
    (["--from", "other.png"], "made by the model 'other'; give it with --model"),
    (["--from", "large.png"], "was not made by generate (its task is 'upscale')"),
    (["--from", "unseeded.png"], "made without a seed"),
    (["--from", "words.png"], "was not made by generate"),
    (["--from", "wordless.png"], "prompt is None; expected a string"),
    (["--from", "junk.png"], "num_inference_steps"),
]


@pytest.fixture
def around(place: Path) -> list[str]:
    """Files and folders that a call may fall over."""
    for folder in ("folder.png", "f-2.png"):
        (place / folder).mkdir()
    own: dict[str, Any] = {"task": "generate", "prompt": "a", "seed": 1, "model": "pydiff-embedded"}
    picture = Image.effect_noise((64, 64), 90)
    for name, told in {
        "plain.png": None,
        "other.png": {**own, "model": "other"},
        "large.png": {**own, "task": "upscale"},
        "unseeded.png": {**own, "seed": None},
        "words.png": {**own, "prompt": ["a"]},
        "wordless.png": {**own, "prompt": None},
        "junk.png": {**own, "num_inference_steps": {"a": []}},
    }.items():
        write_png(place / name, picture, told)
    (place / "cut.png").write_bytes((place / "plain.png").read_bytes()[:2000])
    return names(place)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(call)[:40] for call, _ in BAD])
def test_bad_input(
    place: Path, around: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status: object
    try:
        status = cli.main(["generate", *arguments])
    except SystemExit as stopped:
        status = stopped.code
    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert said.err.startswith("pydiff: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    assert names(place) == around


junk = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
FIELDS = [
    *("task", "prompt", "negative_prompt", "seed", "size", "model", "guidance_scale", "sampler", "eta", "percentile"),
    *("height", "width", "timesteps", "strength", "clip_skip", "original_size", "prompt_2"),
]


@pytest.mark.usefixtures("idle")
@given(st.dictionaries(st.sampled_from(FIELDS), junk, min_size=1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pictures_junk_settings_are_refused_or_run(place: Path, told: dict[str, Any]) -> None:
    own = {"task": "generate", "prompt": "a", "seed": 1, "size": 64, "model": "pydiff-embedded"}
    write_png(place / "junk.png", Image.new("RGB", (1, 1)), {**own, **told})
    with contextlib.suppress(WorkBeganError):  # sound settings begin work
        assert cli.main(["generate", "--from", "junk.png", "--size", "64", "-o", "out.png"]) == 2
    assert names(place) == ["junk.png"]


def test_an_output_folder_that_cannot_be_written_to(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cli.main(["generate", "a", *FAST]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(self: Image.Image, file: Path, *rest: Any, **more: Any) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert cli.main(["generate", "a", *FAST]) == 1
    assert capsys.readouterr().err == "pydiff: [Errno 28] No space left on device\n"
    assert names(place) == []


def test_progress_is_a_bar_per_stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    call = ["generate", "a red ring", "--size", "256", "--steps", "2", "-o", "a.png"]
    assert cli.main(call) == 0
    said = capsys.readouterr().err
    assert "stage 1/2" in said
    assert "stage 2/2   256x256" in said
    assert cli.main([*call, "--size", "64", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    plain = capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == plain
    assert "generate" in plain
    assert "doctor" in plain
    with pytest.raises(SystemExit) as stopped:
        cli.main(["generate", "--help"])
    assert stopped.value.code == 0
    options = {"--seed", "--size", "--steps", "--guidance", "--model", "--from", "--sheet", "--no-metadata", "--height"}
    assert {*options, "--heat"} <= set(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"pydiff {pydiff.__version__}\n"
    with pytest.raises(SystemExit):
        cli.main(["paint"])
    assert "invalid choice: 'paint'" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["doctor"])
    said = capsys.readouterr().out
    assert status == (1 if "broken" in said else 0)
    assert "torch" in said
