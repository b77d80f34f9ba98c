"""Runs that end at a noise level: exactly there, with the law that the level has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pydiff.diffusion import SAMPLERS, EDMSchedule, LogSNRSchedule, NoiseSchedule, StepTable, step_table
from pydiff.diffusion.levels import Level, Schedule
from pydiff.diffusion.rows import level_at

STD = 0.5  # of Gaussian data around 0
COSINE = NoiseSchedule.make("squaredcos_cap_v2")
SCHEDULES: dict[str, Schedule] = {
    "linear": NoiseSchedule.make(),
    "v": NoiseSchedule.make("scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction"),
    "logsnr": LogSNRSchedule(),
    "edm": EDMSchedule(),
}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in SAMPLERS if name != "pndm"},
    "ddim, eta": ("ddim", {"eta": 0.7, "spacing": "linspace"}),
    "dpmpp_2m, karras": ("dpmpp_2m", {"sigmas": "karras"}),
    "edm, churn": ("edm", {"s_churn": 4.0}),
}
Known = Callable[[float, float, np.ndarray], np.ndarray]  # (alpha, sigma, x) -> D


def walked(table: StepTable, first: np.ndarray, denoised: Known) -> np.ndarray:
    """What the rows make of x, a vector of shares: of x0, of x's first noise, and of every draw."""
    x, before, draws = first, np.zeros_like(first), iter(range(2, len(first)))
    for row in table.rows:
        step, estimate = row.step, denoised(row.step.alpha, row.step.sigma, x)
        x = step.c_x * x + (step.c_denoised + step.c_raw) * estimate + step.c_previous * before
        if row.draws:
            x[next(draws)] += step.c_noise
        before = estimate if row.evaluate else before
    return x


def begun(table: StepTable, shares: float) -> np.ndarray:
    """x of the first row: alpha of x0, with its noise."""
    step = table.rows[0].step
    return np.array([shares * step.alpha, step.sigma] + [0.0] * sum(row.draws for row in table.rows))


def level_of(schedule: Schedule, s: int) -> Level:
    return level_at(schedule, COSINE.level(s).ratio)


@pytest.mark.parametrize("s", [20, 300])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_that_knows_the_picture_ends_exactly_at_the_level(name: str, way: str, s: int) -> None:
    schedule, (sampler, options) = SCHEDULES[name], WAYS[way]
    if not isinstance(schedule, NoiseSchedule):
        options = {key: value for key, value in options.items() if key not in ("sigmas", "spacing")}
    end = level_of(schedule, s)
    table = step_table(sampler, schedule, 12, end=end.ratio, **options)
    x = walked(table, begun(table, 1.0), lambda *_: np.eye(len(begun(table, 1.0)))[0])
    np.testing.assert_allclose((x[0], np.linalg.norm(x[1:])), (end.alpha, end.sigma), rtol=1e-9)
    whole = step_table(sampler, schedule, 12, **options)
    assert table.levels <= whole.levels + 1
    assert all(row.step.sigma >= end.sigma * (1 - 1e-9) for row in table.rows)
    if isinstance(schedule, NoiseSchedule):  # variance preserving, as the schedule that noises
        assert end.alpha == pytest.approx(COSINE.level(s).alpha, rel=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_truncated_and_noised_anew_are_equal_in_law(way: str) -> None:
    """Of exact networks of N(0, STD^2), whose x is N(0, alpha^2 STD^2 + sigma^2) at every level."""
    sampler, options = WAYS[way]
    schedule, end = SCHEDULES["linear"], COSINE.level(250)

    def exact(alpha: float, sigma: float, x: np.ndarray) -> np.ndarray:
        return alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * x

    cut, whole = (step_table(sampler, schedule, 500, end=ratio, **options) for ratio in (end.ratio, 0.0))
    z = walked(cut, begun(cut, STD), exact)
    x0 = walked(whole, begun(whole, STD), exact)
    law = end.alpha**2 * STD**2 + end.sigma**2
    assert z @ z == pytest.approx(law, rel=0.02)  # the samplers' own error in 500 steps
    assert end.alpha**2 * (x0 @ x0) + end.sigma**2 == pytest.approx(law, rel=0.02)
    assert cut.evaluations < whole.evaluations


def test_the_steps_below_are_saved() -> None:
    schedule = SCHEDULES["linear"]
    assert isinstance(schedule, NoiseSchedule)
    whole = step_table("ddim", schedule, 10)
    sigmas = [row.step.sigma / row.step.alpha for row in whole.rows]
    for left in (1, 4, 10):
        between = sigmas[left - 1] * 0.9 if left == 10 else math.sqrt(sigmas[left - 1] * sigmas[left])
        cut = step_table("ddim", schedule, 10, end=between)
        assert [row.step for row in cut.rows[:-1]] == [row.step for row in whole.rows[: left - 1]]
        assert len(cut.rows) == left
    at_a_row = step_table("ddim", schedule, 10, end=sigmas[4])  # where a step ends anyway
    assert len(at_a_row.rows) == 4
    for name in ("c_x", "c_denoised", "c_raw"):
        ours, theirs = (getattr(table.rows[3].step, name) for table in (at_a_row, whole))
        assert ours == pytest.approx(theirs, rel=1e-9)
    begun_late = step_table("ddim", schedule, 10, begin=2, end=sigmas[4])
    assert begun_late.rows == at_a_row.rows[2:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end": -1.0}, "end is -1.0; expected sigma / alpha, at least 0"),
        ({"end": math.nan}, "end is nan"),
        ({"end": "low"}, "end is 'low'; expected a number"),
        ({"end": 1e6}, r"end at sigma / alpha = 1e\+06, above which none of its steps is left"),
        ({"end": 1.0, "begin": 9}, "above which none of its steps is left to begin at"),
        ({"end": 1.0, "sampler": "pndm"}, "pndm's weights are those of evenly spaced timesteps"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_table(**{"sampler": "ddim", "schedule": SCHEDULES["linear"], "num_inference_steps": 10, **options})
