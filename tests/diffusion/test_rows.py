"""Rows that rise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pydiff.diffusion import NoiseSchedule, rising_row
from pydiff.diffusion.loop import renoise

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULE = NoiseSchedule.make(**LATENT)


@given(st.integers(0, 990), st.integers(1, 9), st.integers(1, 9))
def test_one_rise_has_the_law_of_two(t, first, second):
    """(scale, variance) of rising once equal those of rising in two jumps; a rise reaches its level exactly."""
    levels = [SCHEDULE.level(min(t + k, 999)) for k in (0, first, first + second)]
    if levels[0] == levels[1] or levels[1] == levels[2]:
        return
    once = rising_row(levels[0], levels[2]).step
    one, two = rising_row(levels[0], levels[1]).step, rising_row(levels[1], levels[2]).step
    assert math.isclose(once.c_x, one.c_x * two.c_x)
    assert math.isclose(once.c_noise**2, (two.c_x * one.c_noise) ** 2 + two.c_noise**2, rel_tol=1e-9)
    assert math.isclose((once.c_x * once.sigma) ** 2 + once.c_noise**2, levels[2].sigma ** 2)
    assert math.isclose(once.c_x * once.alpha, levels[2].alpha)


def test_rising_rows_evaluate_nothing_and_cannot_fall():
    row = rising_row(SCHEDULE.level(10), SCHEDULE.level(20), number=3)
    assert (row.evaluate, row.draws, row.level) == (False, True, 3)
    x, noise = torch.randn(2, 1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(renoise(x, row, noise), row.step.c_x * x + row.step.c_noise * noise)
    with pytest.raises(ValueError, match="noisier"):
        rising_row(SCHEDULE.level(20), SCHEDULE.level(10))
