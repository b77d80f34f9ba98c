"""The command `pydiff export`: what it says, and what it refuses with one line and status 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pydiff import cli
from pydiff.cli.export import summary

CHECKS: list[dict[str, Any]] = [
    {"stage": "base", "what": "unet", "sizes": {}, "error": 2e-6, "bound": 1e-4},
    {"stage": "base", "what": "run", "sizes": {}, "error": 3.14e-5, "bound": 5e-4},
    {"stage": "large", "what": "run", "sizes": {}, "error": 1e-4, "bound": None},
]
NOT_SAID = {"variant": None, "tokenizer": None, "prediction_type": None}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the exporter is called with; it writes parity.json alone."""
    made: list[Any] = []

    def export(model: Any, folder: Path, **how: Any) -> Path:
        made.append((model, folder, {name: value for name, value in how.items() if name != "tell"}))
        how["tell"]("base/unet.onnx: 17.3 MB")
        folder.mkdir()
        (folder / "parity.json").write_text(json.dumps({"checks": CHECKS}))
        return folder

    monkeypatch.setattr("pydiff.export.model.export", export)
    return made


def test_what_it_says(calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shapes"
    assert cli.main(["export", str(folder)]) == 0
    assert calls == [(None, folder, {"dtype": "float32", **NOT_SAID})]
    out, err = capsys.readouterr()
    assert err == "base/unet.onnx: 17.3 MB\n"
    assert out == f"{summary(CHECKS)}\n{folder}\n"
    assert summary(CHECKS) == (
        "3 comparisons with torch, all of the 2 with a bound within it; nearest to it is the run of base, with 3.1e-05 "
        "of 0.0005"
    )


def test_which_model(calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(tmp_path / "a"), "--model", "sd", "--dtype", "int8", "--variant", "fp16", "-q"]) == 0
    assert cli.main(["export", str(tmp_path / "b"), "--model", "one", "--model", "two", "-q"]) == 0
    assert [call[0] for call in calls] == ["sd", ["one", "two"]]
    assert calls[0][2] == NOT_SAID | {"dtype": "int8", "variant": "fp16"}
    file = ["--model", "a.safetensors", "--tokenizer", "words", "--prediction-type", "epsilon", "-q"]
    assert cli.main(["export", str(tmp_path / "c"), *file]) == 0
    assert calls[2][0] == "a.safetensors"
    assert calls[2][2] == NOT_SAID | {"dtype": "float32", "tokenizer": "words", "prediction_type": "epsilon"}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the following arguments are required: DIR"),
        (["out", "--dtype", "bfloat16"], "invalid choice: 'bfloat16'"),
        (["out", "--model", "nowhere"], "nowhere is not a folder"),
        (["out", "--model", "a.safetensors"], "a.safetensors is not a whole safetensors file"),
        (["full"], "full is there and not empty"),
    ],
)
def test_wrong_input_is_one_line(
    given: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full", "a").touch()
    Path("a.safetensors").touch()
    try:
        status = cli.main(["export", *given])
    except SystemExit as left:  # argparse's own
        status = int(left.code or 0)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("out").exists()
