"""Numbers of every kind are taken, everything else is refused by name."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pydiff.tasks.checks import integer, is_list, number, otherwise, per_prompt
from tests.tasks.junk import junk


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_integers(value: Any) -> None:
    assert (type(integer("n", value, 0, 3)), integer("n", value, 3)) == (int, 3)


@pytest.mark.parametrize("value", [True, 3.0, "3", None, np.float64(3), torch.tensor(3), np.array(3), [3], 2, 8])
def test_no_integers_and_integers_out_of_range(value: Any) -> None:
    with pytest.raises(ValueError, match=r"n is .*; expected an integer from 3 to 7"):
        integer("n", value, 3, 7)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), Fraction(1, 2)])
def test_numbers(value: Any) -> None:
    assert (type(number("n", value)), number("n", value, 0, 0.5)) == (float, 0.5)


@pytest.mark.parametrize("value", [True, "0.5", None, math.nan, math.inf, 10**400, 1j, torch.tensor(0.5), [0.5]])
def test_what_is_no_finite_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"n is .*; expected a finite number"):
        number("n", value)


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"n is 1\.5; expected a number from 0 to 1"):
        number("n", 1.5, 0, 1)


@given(junk, st.none() | st.integers(-5, 5))
def test_junk_raises_nothing_but_value_errors(value: Any, high: int | None) -> None:
    for check in (lambda: integer("n", value, 0, high), lambda: number("n", value, 0, 1), lambda: per_prompt(value)):
        try:
            assert math.isfinite(check())
        except ValueError as error:
            assert "is " in str(error)  # noqa: PT017
    assert is_list(value) == isinstance(value, (list, tuple, range))
    assert otherwise(value, 3) is (3 if value is None else value)
