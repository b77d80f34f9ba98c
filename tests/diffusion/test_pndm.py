"""PNDM against diffusers' scheduler, evaluation by evaluation: PLMS, and with Runge-Kutta's steps before it."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch

from pydiff.diffusion import (
    EDMSchedule,
    LogSNRSchedule,
    NoiseSchedule,
    sample,
    sampler_from_scheduler_config,
    step_table,
    unguided,
)

SHAPE = (2, 3, 4, 5)
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
SPACINGS = ("leading", "linspace", "trailing")


def network(x, t):
    """Any smooth nonlinear function."""
    return 0.8 * torch.sin(1.3 * x + math.cos(float(t) / 150)) + 0.4 * x.roll(1, -1)


def start(dtype=torch.float32):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def theirs(config, steps, begin, dtype):
    scheduler = diffusers.PNDMScheduler(**config)
    if dtype == torch.float64:  # it keeps the type of x, but its levels are float32
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    scheduler.set_timesteps(steps)
    x, states = start(dtype), []
    for t in scheduler.timesteps[begin:]:
        x = scheduler.step(network(x, t), t, x).prev_sample
        states.append(x)
    return states, scheduler.timesteps[begin:].tolist()


def compare(config, steps, *, begin=0, dtype=torch.float32, tolerance=1e-5):
    expected, timesteps = theirs(config, steps, begin, dtype)
    mine = sampler_from_scheduler_config({"_class_name": "PNDMScheduler", **config})
    table = mine.table(steps, begin=begin)
    assert [row.t for row in table.rows] == timesteps
    told = []

    def predict(x, t, branches):
        told.append(t)
        return network(x, t)[None]

    run = sample(predict, table, unguided(table.levels), x=start(dtype), prediction_type=mine.prediction_type)
    for i, (state, b) in enumerate(zip(run, expected, strict=True)):
        assert (state.x - b).abs().max().item() <= tolerance * max(1.0, b.abs().max().item()), i
    assert told == timesteps


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("steps", "skip"), [*((n, True) for n in (1, 2, 3, 4, 5, 7, 20, 100)), *((n, False) for n in (4, 5, 7, 20, 100))]
)
def test_every_state_is_that_of_diffusers(steps, skip, spacing, kind, one):
    fields = {"timestep_spacing": spacing, "prediction_type": kind, "set_alpha_to_one": one, "skip_prk_steps": skip}
    compare({**LATENT, **fields}, steps)
    compare({**LATENT, **fields}, steps, dtype=torch.float64, tolerance=1e-8)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("begin", [1, 2, 3, 6, 12, 13])
def test_beginning_late(begin, skip):
    """diffusers' order of steps counts from where the run begins, so that the second evaluation repeats the first."""
    compare({**LATENT, "skip_prk_steps": skip}, 16, begin=begin, tolerance=3e-5)
    compare({**LATENT, "skip_prk_steps": skip}, 16, begin=begin, dtype=torch.float64, tolerance=1e-8)


@pytest.mark.parametrize(("skip", "evaluations", "memory"), [(True, 11, 4), (False, 19, 12)])
def test_levels_and_memory(skip, evaluations, memory):
    table = step_table("pndm", NoiseSchedule.make(), 10, skip_prk_steps=skip)
    assert (table.levels, table.evaluations, table.memory) == (10, evaluations, memory)
    numbers = [row.level for row in table.rows]
    assert numbers == (
        [0, *range(1, 2), *range(1, 10)] if skip else [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, *range(3, 10)]
    )
    assert table.starts == tuple(range(evaluations))


def test_the_repeated_evaluation_is_not_looked_back_at():
    table = step_table("pndm", NoiseSchedule.make(), 5)
    assert [row.t for row in table.rows] == [800, 600, 600, 400, 200, 0]
    looked = [[earlier.back for earlier in row.history] for row in table.rows]
    assert looked == [[], [1], [2], [1, 3], [1, 2, 4], [1, 2, 3]]


def test_what_is_pasted_between_evaluations_is_what_is_remembered():
    """As in diffusers' inpainting, where known pixels are pasted after each step; the repeated one starts from the x
    that the first was given."""
    config = {**LATENT, "skip_prk_steps": True}
    known, mask = torch.linspace(-1, 1, math.prod(SHAPE)).view(SHAPE), (torch.arange(5) < 2).float()
    scheduler = diffusers.PNDMScheduler(**config)
    scheduler.set_timesteps(6)
    x = start()
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, t), t, x).prev_sample
        x = mask * known * (1 + i) + (1 - mask) * x
    table = sampler_from_scheduler_config({"_class_name": "PNDMScheduler", **config}).table(6)

    def paste(state):
        return mask * known * (1 + state.index) + (1 - mask) * state.x

    run = sample(lambda x, t, b: network(x, t)[None], table, unguided(6), x=start(), adjust=paste)
    *_, last = run
    torch.testing.assert_close(last.x, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("schedule", [EDMSchedule(), LogSNRSchedule(), NoiseSchedule.make(prediction_type="sample")])
def test_other_schedules_and_predictions_of_x0(schedule):
    """With a network that always knows x0 the run ends there."""
    table = step_table("pndm", schedule, 8)
    x0 = start(torch.float64)
    x = table.noised(x0, start(torch.float64).flip(0))

    def predict(x, t, branches):
        row = next(row for row in table.rows if row.t == t)
        eps = (x - row.step.alpha * x0) / row.step.sigma
        return (x0 if schedule.prediction_type == "sample" else eps)[None]

    *_, last = sample(predict, table, unguided(8), x=x, prediction_type=schedule.prediction_type)
    assert (last.denoised - x0).abs().max() < 1e-6
    assert (last.x - x0).abs().max() < 0.1


def test_custom_timesteps_lead_from_one_to_the_next():
    """Those of leading spacing, given by hand, make the same table but for the end."""
    schedule = NoiseSchedule.make()
    named = step_table("pndm", schedule, 5, begin=1)
    listed = step_table("pndm", schedule, timesteps=[800, 600, 400, 200, 0], begin=1)
    assert named == listed
    assert [row.t for row in listed.rows] == [600, 600, 400, 200, 0]


def test_bad_input_is_refused():
    schedule = NoiseSchedule.make()
    for options in ({"num_inference_steps": 3}, {"timesteps": [900, 500, 300, 200, 100]}):
        with pytest.raises(ValueError, match="skip_prk_steps=False needs evenly spaced"):
            step_table("pndm", schedule, skip_prk_steps=False, **options)
    with pytest.raises(ValueError, match="skip_prk_steps=False needs evenly spaced"):
        step_table("pndm", LogSNRSchedule(), 10, skip_prk_steps=False)
    with pytest.raises(ValueError, match=r"skip_prk_steps.*is 1; expected True or False"):
        step_table("pndm", schedule, 10, skip_prk_steps=1)
    with pytest.raises(ValueError, match="begin is 11, but the run has 11 steps"):
        step_table("pndm", schedule, 10, begin=11)
    with pytest.raises(ValueError, match="PNDMScheduler has prediction_type = 'sample'"):
        sampler_from_scheduler_config({"_class_name": "PNDMScheduler", "prediction_type": "sample"})
    table = step_table("pndm", schedule, 4)
    with pytest.raises(ValueError, match="row 0 looks back 1 evaluations, but only 0 come before it"):
        sample(lambda x, t, b: x[None], table._replace(rows=table.rows[1:]), unguided(4), x=start())
