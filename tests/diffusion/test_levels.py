"""Noise schedules against diffusers, published numbers and their own laws."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pydiff.diffusion import EDMSchedule, LogSNRSchedule, NoiseSchedule

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("ends", [(1e-4, 0.02), (0.00085, 0.012), (1e-6, 0.01)])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_agrees_with_diffusers(name, ends, zero_snr):
    fields = {"beta_start": ends[0], "beta_end": ends[1], "rescale_betas_zero_snr": zero_snr}
    theirs = diffusers.DDPMScheduler(beta_schedule=name, **fields).alphas_cumprod.double().numpy()
    mine = NoiseSchedule.make(name, **fields).alphas_cumprod
    np.testing.assert_allclose(mine, theirs, rtol=5e-5 if zero_snr else 5e-7)
    assert not zero_snr or mine[-1] == 0


def test_published_numbers():
    cosine = NoiseSchedule.make("squaredcos_cap_v2").alphas_cumprod
    np.testing.assert_allclose(cosine[[0, 249, 500]], [0.99995872, 0.84701216, 0.49228517], rtol=1e-6)
    np.testing.assert_allclose(cosine[999], 2.42877e-9, rtol=1e-4)  # in float32, as networks were trained with it
    latent = NoiseSchedule.make(**LATENT)
    np.testing.assert_allclose(latent.alphas_cumprod[[0, 500, 999]], [0.99915, 0.27633268, 0.0046601], rtol=1e-5)
    assert math.isclose(latent.sigmas[-1], 14.6146412, rel_tol=1e-6)


def test_trained_betas():
    betas = np.linspace(1e-6, 0.01, 40).tolist()
    theirs = diffusers.DDPMScheduler(num_train_timesteps=40, trained_betas=betas).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(NoiseSchedule.make(trained_betas=betas).alphas_cumprod, theirs, rtol=5e-7)


def test_levels_add_noise_as_diffusers_does():
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    schedule = NoiseSchedule.make("squaredcos_cap_v2")
    x0, noise = torch.randn(2, 1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for t in (0, 100, 250, 999):
        level = schedule.level(t)
        expected = scheduler.add_noise(x0, noise, torch.tensor([t]))
        torch.testing.assert_close(level.alpha * x0 + level.sigma * noise, expected, atol=1e-6, rtol=1e-6)
        assert level.t == t


def test_log_snr_numbers():
    cosine = [LogSNRSchedule("cosine").log_snr(t) for t in (0, 0.25, 0.5, 0.75, 0.999)]
    np.testing.assert_allclose(cosine, [8.76929, 1.71034, -0.02493, -1.78043, -12.92828], atol=2e-5)
    linear = [LogSNRSchedule("linear").log_snr(t) for t in (0, 0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(linear, [9.21029, 0.14107, -2.41446, -5.62149, -10.00005], atol=2e-5)


@given(st.sampled_from(["cosine", "linear"]), st.floats(0, 1))
def test_log_snr_levels_preserve_variance(kind, time):
    level = LogSNRSchedule(kind).level(time)
    assert math.isclose(level.alpha**2 + level.sigma**2, 1)
    assert math.isclose(2 * math.log(level.alpha / level.sigma), level.t, abs_tol=1e-6)


@given(st.integers(1, 300), st.floats(1e-6, 1e-2), st.floats(0.01, 0.5), st.booleans())
def test_any_schedule_falls(count, start, end, zero_snr):
    for name in ("linear", "scaled_linear", "sigmoid"):
        zero_snr = zero_snr and count > 1
        schedule = NoiseSchedule.make(
            name, num_train_timesteps=count, beta_start=start, beta_end=end, rescale_betas_zero_snr=zero_snr
        )
        assert schedule.num_train_timesteps == count
        assert (np.diff(schedule.alphas_cumprod) <= 0).all()
        assert np.isfinite(schedule.sigmas).all()
        assert (np.diff(schedule.sigmas) >= 0).all()


@given(st.floats(0, 999))
def test_timestep_of_sigma_and_back(t):
    schedule = NoiseSchedule.make(**LATENT)
    ratio = math.exp(np.interp(t, np.arange(1000), np.log(schedule.sigmas)))
    assert math.isclose(schedule.timestep_at(ratio), t, abs_tol=1e-3)
    level = schedule.level_at(ratio)
    assert math.isclose(level.ratio, ratio)
    assert math.isclose(level.alpha**2 + level.sigma**2, 1)


def test_sigmas_of_edm():
    sigmas = [level.sigma for level in EDMSchedule().levels(18)]
    expected = [80, 57.586, 40.7856, 28.3746, 19.3525, 12.9101, 8.4009, 5.3152, 3.2568, 1.9233, 1.0882, 0.5853]
    expected += [0.2964, 0.1395, 0.0599, 0.0229, 0.0075, 0.002, 0]
    np.testing.assert_allclose(sigmas, expected, atol=6e-5)
    level = EDMSchedule().level(2.0)
    assert (level.alpha, level.t) == (1.0, math.log(2) / 4)
    assert math.isclose(level.input_scale, 1 / math.sqrt(4.25))


def test_bad_input_is_refused():
    make = NoiseSchedule.make
    for match, call in [
        ("beta_schedule 'cosine' is unknown; expected one of linear", lambda: make("cosine")),
        ("num_train_timesteps", lambda: make(num_train_timesteps=0)),
        ("beta_start is -1.0", lambda: make(beta_start=-1.0)),
        ("betas must be", lambda: make(trained_betas=[0.1, math.nan])),
        ("prediction_type is 'flow'", lambda: make(prediction_type="flow")),
        ("never rise", lambda: NoiseSchedule(np.array([0.5, 0.6]))),
        ("one number per", lambda: NoiseSchedule(np.zeros((2, 2)))),
        ("timestep 1000", lambda: make().level(1000)),
        ("timestep -1", lambda: make().level(-1)),
        ("timestep 2.5", lambda: make().level(2.5)),
        ("log-SNR schedule 'sine'", lambda: LogSNRSchedule("sine")),
        ("time 1.5", lambda: LogSNRSchedule().level(1.5)),
        ("sigma_min", lambda: EDMSchedule(sigma_min=0)),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
