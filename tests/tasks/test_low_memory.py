"""Network calls of one row: the same pictures, and no call sees more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pydiff
from pydiff.walk import Network

PROMPT = "a red circle left of a blue square"
CALL: dict[str, Any] = {"size": 64, "num_inference_steps": 2, "output_type": "np"}


@pytest.fixture(params=["torch", "onnx"])
def engine(request: pytest.FixtureRequest, pipe: pydiff.Pipeline) -> pydiff.Pipeline:
    return pipe if request.param == "torch" else pydiff.load(provider="cpu")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each network call is given."""
    seen: list[int] = []
    prepare = Network._prepare

    def told(self: Network, *given: Any) -> Any:
        for part, cond in prepare(self, *given):
            seen.append(part.stop - part.start)
            yield part, cond

    monkeypatch.setattr(Network, "_prepare", told)
    return seen


def test_calls_take_one_row_and_make_the_same_pictures(engine: pydiff.Pipeline, rows: list[int]) -> None:
    whole = engine.generate([PROMPT, "a green star"], seed=7, **CALL)
    assert rows == [4]  # two branches of two pictures
    rows.clear()
    turns = engine.generate([PROMPT, "a green star"], seed=7, low_memory=True, **CALL)
    assert rows == [1] * 4
    assert np.abs(whole.images - turns.images).max() < 1e-5
    assert turns.settings[0]["low_memory"] == [True]


def test_it_is_of_all_stages(pipe: pydiff.Pipeline, rows: list[int]) -> None:
    made = pipe.generate([PROMPT] * 2, seed=1, size=256, num_inference_steps=[1, 1], low_memory=True, output_type="np")
    assert set(rows) == {1}
    assert made.settings[0]["low_memory"] == [True, True]
    rows.clear()
    listed = pipe.generate(
        [PROMPT] * 2, seed=1, size=256, num_inference_steps=[1, 1], low_memory=[True, None], output_type="np"
    )
    assert rows == [1] * 4 + [2]
    assert np.abs(made.images - listed.images).max() < 1e-5


def test_rows_that_borrow_stay_together(engine: pydiff.Pipeline, rows: list[int]) -> None:
    call = {**CALL, "seed": 7, "low_memory": True}
    turns = engine.edit(PROMPT, "a green circle left of a blue square", **call)
    assert max(rows) == 4
    whole = engine.edit(PROMPT, "a green circle left of a blue square", **{**call, "low_memory": False})
    assert np.abs(whole.images - turns.images).max() < 1e-5


def test_anything_else_is_refused(pipe: pydiff.Pipeline) -> None:
    with pytest.raises(ValueError, match="low_memory is 1; expected True or False"):
        pipe.generate(PROMPT, low_memory=1, **CALL)
