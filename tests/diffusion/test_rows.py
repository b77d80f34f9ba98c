"""Step tables: starting late, and rising."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pydiff.diffusion import Noise, NoiseSchedule, from_strength, rising_row, sample, step_table, unguided
from pydiff.diffusion.loop import renoise

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULE = NoiseSchedule.make(**LATENT)


def network(x, t):
    return 0.8 * torch.sin(1.3 * x + math.cos(float(t) / 150))


@pytest.mark.parametrize(
    ("sampler", "cls"),
    [
        ("ddim", diffusers.DDIMScheduler),
        ("euler", diffusers.EulerDiscreteScheduler),
        ("heun", diffusers.HeunDiscreteScheduler),
        ("dpmpp_2m", diffusers.DPMSolverMultistepScheduler),
        ("dpmpp_2m_sde", diffusers.DPMSolverMultistepScheduler),
    ],
)
@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("steps", [10, 20])
def test_image_to_image_as_in_diffusers(sampler, cls, strength, steps):
    fields = {"clip_sample": False} if cls is diffusers.DDIMScheduler else {}
    fields |= {"algorithm_type": "sde-dpmsolver++"} if sampler == "dpmpp_2m_sde" else {}
    scheduler = cls(**LATENT, **fields)
    scheduler.set_timesteps(steps)
    start = (steps - min(int(steps * strength), steps)) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    timesteps = scheduler.timesteps[start:]
    generators = [torch.Generator().manual_seed(i) for i in (3, 4)]
    picture = torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(2, 3, 4, 5)
    noise = diffusers.utils.torch_utils.randn_tensor(picture.shape, generators)
    x = scheduler.add_noise(picture, noise, timesteps[:1].repeat(2))
    noisy = {"generator": generators} if sampler == "dpmpp_2m_sde" else {}
    for t in timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, **noisy).prev_sample

    table = from_strength(step_table(sampler, SCHEDULE, steps), strength)
    mine, first = Noise([3, 4]), table.rows[0].step
    start_x = first.alpha * picture + first.sigma * mine(picture.shape[1:])
    run = sample(lambda x, t, b: network(x, t)[None], table, unguided(steps), x=start_x, noise=mine)
    *_, last = run
    torch.testing.assert_close(last.x, x, atol=1e-4, rtol=1e-4)


@given(st.integers(1, 60), st.floats(0.01, 1), st.sampled_from(["ddpm", "heun", "dpmpp_2m", "edm"]))
def test_strength_keeps_its_share(steps, strength, sampler):
    options = {"s_churn": 5.0} if sampler == "edm" else {}
    table = step_table(sampler, SCHEDULE, steps, **options)
    if int(steps * strength) == 0:
        with pytest.raises(ValueError, match="leaves none"):
            from_strength(table, strength)
        return
    late = from_strength(table, strength)
    assert len(late.starts) == int(steps * strength)
    assert late.levels == table.levels
    assert late.starts[0] == 0
    assert late.rows[-1].t == table.rows[-1].t
    assert late.rows[0].level == steps - len(late.starts)


@pytest.mark.parametrize("strength", [0, -0.5, 1.1, math.nan])
def test_bad_strength_is_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        from_strength(step_table("ddim", SCHEDULE, 10), strength)


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
