"""What holds for every step table, and what is refused."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from pydiff.diffusion import SAMPLERS, EDMSchedule, LogSNRSchedule, NoiseSchedule, step_table

COSINE = {"beta_schedule": "squaredcos_cap_v2"}
SCHEDULES = [NoiseSchedule.make(), NoiseSchedule.make(**COSINE), LogSNRSchedule(), EDMSchedule()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["linear", "cosine", "log-SNR", "edm"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rows_lead_from_level_to_level(sampler, schedule):
    """With D = x0 exactly, each row carries alpha x0 + sigma noise to the next row's level."""
    options = {"s_churn": 10.0} if sampler == "edm" else {}
    options |= {"spacing": "leading"} if isinstance(schedule, NoiseSchedule) else {}
    table = step_table(sampler, schedule, 10, **options)
    assert len(table.starts) == (11 if sampler == "pndm" else 10)  # which evaluates its second timestep twice
    assert table.levels == 10
    assert math.isclose(table.initial_scale, table.rows[0].step.sigma, rel_tol=0.02)
    for i, (row, following) in enumerate(pairwise(table.rows)):
        step, kept = row.step, row.step.c_x * row.step.sigma
        signal = step.c_x * step.alpha + step.c_denoised + step.c_raw + (0 if row.history else step.c_previous)
        for back, c_x, c_denoised in row.history:
            earlier = table.rows[i - back].step
            signal, kept = signal + c_x * earlier.alpha + c_denoised, kept + c_x * earlier.sigma
        assert math.isclose(signal, following.step.alpha, rel_tol=1e-9, abs_tol=1e-12)
        variance = kept**2 + step.c_noise**2
        if sampler != "ddpm":  # whose posterior is not that of a known x0 alone
            assert math.isclose(variance, following.step.sigma**2, rel_tol=1e-9)


def bad(match, *arguments, **options):
    with pytest.raises(ValueError, match=match):
        step_table(*arguments, **options)


def test_bad_input_is_refused():
    schedule = NoiseSchedule.make()
    bad("'plms' is unknown; expected one of ddpm, ddim, pndm, euler", "plms", schedule, 10)
    for name in (["ddim"], None, 3):
        bad("is unknown; expected one of ddpm, ddim", name, schedule, 10)
    for steps in (0, -1, 2.5, True, "9"):
        bad("num_inference_steps", "ddim", schedule, steps)
    bad("1001.*1000", "ddim", schedule, 1001)
    bad("give either", "ddim", schedule)
    bad("give either", "ddim", schedule, 3, timesteps=[3, 2, 1])
    bad("descend", "ddpm", schedule, timesteps=[1, 2, 3])
    bad("descend", "ddpm", schedule, timesteps=[3, 3, 1])
    bad(r"expected \[0, 1000\)", "ddpm", schedule, timesteps=[1000, 3])
    bad(r"expected \[0, 1000\)", "ddpm", schedule, timesteps=[3, -1])
    for timesteps in ([], [3.5], [None], ["3"], [math.nan], 7, {}):
        bad("integers", "ddpm", schedule, timesteps=timesteps)
    bad("fast27", "ddpm", schedule, timesteps="fast28")
    bad("spacing 'even'", "ddpm", schedule, 10, spacing="even")
    bad("steps_offset", "ddpm", schedule, 10, steps_offset=-1)
    bad("do not fit", "ddpm", schedule, 1000, steps_offset=1)
    bad("do not fit", "dpmpp_2m", schedule, 1000)


def test_bad_options_are_refused():
    schedule = NoiseSchedule.make()
    bad("no option 'eta'", "euler", schedule, 10, eta=0.5)
    bad("NaN", "ddim", schedule, 10, eta=math.nan)
    bad("eta", "ddim", schedule, 10, eta=1.5)
    bad("eta.*'much'; expected a number", "ddim", schedule, 10, eta="much")
    bad("sigmas.*None; expected a name", "euler", schedule, 10, sigmas=None)
    bad("set_alpha_to_one.*'no'; expected True or False", "ddim", schedule, 10, set_alpha_to_one="no")
    bad("sigma_min.*'low'; expected a number", "edm", schedule, 10, sigma_min="low")
    for begin in (-1, 1.0, True, "2", None):
        bad("begin is .*; expected an integer of at least 0", "ddim", schedule, 10, begin=begin)
    for sampler in ("ddpm", "ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "heun", "edm"):
        bad("begin is 10, but the run has 10 steps", sampler, schedule, 10, begin=10)
    bad("variance_type", "ddpm", schedule, 10, variance_type="fixed")
    bad("solver_order", "dpmpp_2m", schedule, 10, solver_order=3)
    bad("solver_type", "dpmpp_2m", schedule, 10, solver_type="bh2")
    bad("sigmas", "euler", schedule, 10, sigmas="beta")
    bad("final_sigma", "euler", schedule, 10, final_sigma="one")
    bad("both choose", "euler", schedule, timesteps=[9, 1], sigmas="karras")
    bad("sigma_min", "euler", schedule, 10, sigmas="karras", sigma_min=1000.0)
    bad("sigma_min", "edm", schedule, 10, sigma_min=0.0)
    bad("s_churn", "edm", schedule, 10, s_churn=-1.0)
    bad("own levels", "euler", LogSNRSchedule(), 10, sigmas="karras")
    bad("continuous", "ddpm", LogSNRSchedule(), timesteps=[3, 1])


def test_custom_timesteps_by_name():
    table = step_table("ddpm", NoiseSchedule.make(**COSINE), timesteps="super27", variance_type="learned_range")
    assert [row.t for row in table.rows[:3]] == [999, 991, 982]
    assert [row.draws for row in table.rows] == [True] * 26 + [False]
