"""Karlo's scheduler, called as diffusers' UnCLIPPipeline calls it: ddpm, with timesteps from the last to the first."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from pydiff.diffusion import (
    Noise,
    NoiseSchedule,
    classifier_free,
    sample,
    sampler_from_scheduler_config,
    step_table,
    unguided,
)
from pydiff.ops import Threshold

SHAPE = (2, 3, 4, 5)
PRIOR = {"prediction_type": "sample", "variance_type": "fixed_small_log", "clip_sample_range": 5.0}
DECODER = {"prediction_type": "epsilon", "variance_type": "learned_range"}
SUPER_RES = {"prediction_type": "epsilon", "variance_type": "fixed_small_log"}


def config(fields):
    return sampler_from_scheduler_config({"_class_name": "UnCLIPScheduler", **fields})


def network(x, t, channels, word=0.0):
    """Any smooth nonlinear function. In float64 its estimates of x0 go beyond 5, which amplifies rounding."""
    gain = 4 if x.dtype == torch.float64 else 0.4
    out = gain * torch.sin(1.3 * x + math.cos(float(t) / 150) + word) + gain / 2 * x.roll(1, -1)
    return out if channels == 3 else torch.cat([out, torch.tanh(x.roll(1, -2) + float(t) / 1000 + word)], 1)


def seeded(count=SHAPE[0]):
    return [torch.Generator().manual_seed(7 + i) for i in range(count)]


def theirs(fields, steps, scale, dtype, shape=SHAPE):
    scheduler = diffusers.UnCLIPScheduler(**fields)
    if dtype == torch.float64:  # it keeps the type of x, but its levels are float32
        scheduler.alphas_cumprod, scheduler.one = scheduler.alphas_cumprod.double(), scheduler.one.double()
        scheduler.alphas, scheduler.betas = scheduler.alphas.double(), scheduler.betas.double()
    scheduler.set_timesteps(steps)
    generators, timesteps = seeded(shape[0]), scheduler.timesteps
    channels = 6 if scheduler.config.variance_type == "learned_range" else 3
    x = randn_tensor(shape, generators, dtype=dtype) * scheduler.init_noise_sigma
    for i, t in enumerate(timesteps):
        text, null = network(x, t, channels), network(x, t, channels, word=0.3)
        out = torch.cat([null[:, :3] + scale * (text[:, :3] - null[:, :3]), text[:, 3:]], 1)
        following = None if i + 1 == len(timesteps) else timesteps[i + 1]
        x = scheduler.step(out, t, x, prev_timestep=following, generator=generators).prev_sample
    return x, timesteps.tolist(), [torch.randn(1, generator=g) for g in generators]


def ours(fields, steps, scale, dtype, shape=SHAPE):
    mine, noise = config(fields), Noise(seeded(shape[0]))
    table = mine.table(steps)
    channels = 6 if mine.options["variance_type"] == "learned_range" else 3

    def predict(x, t, branches):
        return torch.stack([network(x, t, channels, word=0.3 * branch) for branch in branches])

    guidance = unguided(table.levels) if scale == 1 else classifier_free(scale, table.levels)
    x = table.initial_scale * noise(shape[1:], like=torch.empty(0, dtype=dtype))
    run = sample(
        predict, table, guidance, x=x, noise=noise, prediction_type=mine.prediction_type, threshold=mine.threshold
    )
    *_, last = run
    return last.x, [row.t for row in table.rows], [torch.randn(1, generator=g) for g in noise.generators]


@pytest.mark.parametrize(("fields", "scale"), [(PRIOR, 4.0), (DECODER, 8.0), (SUPER_RES, 1.0)])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [2, 7, 25, 60])
def test_unclip(steps, clip, fields, scale):
    """At the first level alpha is 5e-5, and in float32 diffusers' own 1 - alpha_t / alpha_prev keeps three digits."""
    for dtype, tolerance in ((torch.float32, 2e-4), (torch.float64, 1e-8)):
        expected, timesteps, stands = theirs({**fields, "clip_sample": clip}, steps, scale, dtype)
        x, told, mine_stand = ours({**fields, "clip_sample": clip}, steps, scale, dtype)
        assert told == timesteps
        assert (x - expected).abs().max().item() <= tolerance * max(1.0, expected.abs().max().item())
        assert stands == mine_stand


def test_the_prior_walks_a_vector_as_a_picture_of_one_pixel():
    expected, _, _ = theirs(PRIOR, 25, 4.0, torch.float64, (2, 3, 1, 1))
    x, _, _ = ours(PRIOR, 25, 4.0, torch.float64, (2, 3, 1, 1))
    assert torch.isfinite(x).all()
    torch.testing.assert_close(x, expected, atol=1e-8, rtol=1e-8)


def test_what_the_config_says():
    assert config({}).sampler == "ddpm"
    assert config({}).options == {"variance_type": "fixed_small_log", "own_betas": True}
    assert config({}).threshold == Threshold("static", max_value=1.0)
    assert config(PRIOR).threshold == Threshold("static", max_value=5.0)
    assert config({"clip_sample": False}).threshold.kind == "none"
    assert config({"num_train_timesteps": 100}).table(3).rows[0].t == 99
    assert config({"timestep_spacing": "leading"}).spacing == "linspace"  # which the class does not read


@pytest.mark.parametrize("steps", [*range(2, 200), 333, 500, 999, 1000])
def test_timesteps(steps):
    scheduler = diffusers.UnCLIPScheduler()
    scheduler.set_timesteps(steps)
    assert [row.t for row in config({}).table(steps).rows] == scheduler.timesteps.tolist()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"num_inference_steps is 1, but .* give at least 2"):
        config({}).table(1)
    with pytest.raises(ValueError, match="own_betas needs a schedule that was made of betas"):
        step_table("ddpm", NoiseSchedule([0.9, 0.5]), 2, own_betas=True)
    for field, value in [
        ("prediction_type", "v_prediction"),
        ("variance_type", "fixed_large"),
        ("beta_schedule", "linear"),
    ]:
        with pytest.raises(ValueError, match=f"UnCLIPScheduler has {field} = '{value}'; expected one of"):
            config({field: value})
