"""Folders made once, copied for each test; and a guard that no weights are read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pydiff.weights import network
from tests.checkpoints import broken


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family, never to be changed."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            broken.FAMILIES[family](made[family])
        return made[family]

    return folder


@pytest.fixture
def fresh(whole: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a family's folder, to be damaged."""
    return lambda family: Path(shutil.copytree(whole(family), tmp_path / "pipeline"))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights are read: headers are."""

    def refuse(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(network, "read_safetensors", refuse)
