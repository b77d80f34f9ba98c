"""What many tests need: the embedded pipeline, opened once, and a way to forbid it to work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import pydiff
from pydiff.text.prompts import PromptEncoder


@pytest.fixture(scope="session")
def pipe() -> pydiff.Pipeline:
    return pydiff.load()


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any run fails: the text encoder is where one begins."""
    monkeypatch.setattr(PromptEncoder, "encode", _forbidden)


def _forbidden(*_: object) -> Callable[..., None]:
    raise AssertionError("work was begun")
