"""What many tests need: the embedded pipeline, opened once, and a way to forbid it to work."""

from __future__ import annotations

from typing import NoReturn

import pytest

import pydiff
from pydiff.text.encoders import TextEncoder
from tests.idle import WorkBeganError


@pytest.fixture(scope="session")
def pipe() -> pydiff.Pipeline:
    return pydiff.load()


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any run fails: one begins in the text encoder or, where no words are read, in the first stage."""
    for name in ("encode", "encode_pair"):
        monkeypatch.setattr(TextEncoder, name, _forbidden)
    monkeypatch.setattr("pydiff.tasks.run.run", _forbidden)


def _forbidden(*_: object, **__: object) -> NoReturn:
    raise WorkBeganError("work was begun")
