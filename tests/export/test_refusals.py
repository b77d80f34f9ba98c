"""What is not exported, said before any work; and nothing is left of an export that fails."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pydiff.export.model as model
from pydiff.export import export
from pydiff.export.parity import Check
from tests.checkpoints import makers
from tests.export.conftest import classes


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a network was traced")

    monkeypatch.setattr(model, "trace", refuse)


@pytest.mark.usefixtures("untraced")
def test_models(tmp_path: Path) -> None:
    makers.paint_by_example(tmp_path / "example")
    with pytest.raises(ValueError, match="is a PaintByExamplePipeline, which is not exported"):
        export(tmp_path / "example", tmp_path / "out")
    with pytest.raises(ValueError, match="expected a folder, or a list of one folder per stage"):
        export([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("untraced")
def test_dtype(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype is 'bfloat16'; expected one of float32, float16, int8"):
        export(None, tmp_path / "out", dtype="bfloat16")


@pytest.mark.usefixtures("untraced")
def test_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    for there in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ValueError, match="is there and not empty; give a new folder"):
            export(None, there)
    assert (tmp_path / "mine.txt").read_text() == "kept"


@pytest.mark.usefixtures("untraced")
def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"needs about \d+ MB, but there are 0 MB free"):
        export(None, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_nothing_is_left_of_a_graph_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes(tmp_path / "weights")
    wrong = Check("model", "unet", {"batch": 1}, float("nan"), 1e-4)

    def compared(*_: Any) -> list[Check]:
        return [wrong]

    monkeypatch.setattr(model, "compare", compared)
    with pytest.raises(ValueError, match="the unet of model differs from torch's by nan; expected at most"):
        export(tmp_path / "weights", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"]
