"""Samplers on Gaussian data, where the denoiser is known exactly: the right end, at the right order."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from pydiff.diffusion import EDMSchedule, LogSNRSchedule, NoiseSchedule, sample, step_table, unguided
from pydiff.diffusion.preconditioning import edm_denoiser

STD = 0.5  # of the data, whose mean is 0


def gain(alpha, sigma):
    """E[x0 | x] / x."""
    return alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)


def spread(alpha, sigma):
    return math.sqrt(alpha**2 * STD**2 + sigma**2)


def transport(table):
    """What the rows make of x = 1, when no noise is drawn."""
    x, previous = 1.0, 0.0
    past = []
    for row in table.rows:
        step = row.step
        denoised = gain(step.alpha, step.sigma) * x
        if row.history:
            previous = sum(c_x * past[-back][0] + c * past[-back][1] for back, c_x, c in row.history)
        past.append((x, denoised))
        x = step.c_x * x + (step.c_denoised + step.c_raw) * denoised + step.c_previous * previous
        previous = denoised
    return x


def error(sampler, schedule, steps, **options):
    """Relative error of the end against the probability flow's."""
    table = step_table(sampler, schedule, steps, **options)
    first = table.rows[0].step
    end = schedule.levels(steps)[-1] if not isinstance(schedule, NoiseSchedule) else None
    target = spread(end.alpha, end.sigma) if end else STD
    return abs(transport(table) * spread(first.alpha, first.sigma) / target - 1)


FINE = NoiseSchedule.make(num_train_timesteps=64000, beta_start=1e-4 / 64, beta_end=0.02 / 64)


@pytest.mark.parametrize(
    ("sampler", "schedule", "order"),
    [
        ("ddim", FINE, 1),
        ("euler", FINE, 1),
        ("euler", EDMSchedule(), 1),
        ("ddim", LogSNRSchedule("linear"), 1),
        ("heun", FINE, 2),
        ("heun", EDMSchedule(), 2),
        ("edm", EDMSchedule(), 2),
        ("dpmpp_2m", EDMSchedule(), 2),
        ("dpmpp_2m", LogSNRSchedule("linear"), 2),
        ("pndm", EDMSchedule(prediction_type="epsilon"), 2),
        ("pndm", LogSNRSchedule("linear", "v_prediction"), 1),
    ],
)
def test_order_of_convergence(sampler, schedule, order):
    options = {"spacing": "linspace"} if sampler == "heun" else {}
    errors = [error(sampler, schedule, steps, **options) for steps in (40, 80, 160, 320)]
    for coarse, fine in pairwise(errors):
        assert order - 0.1 < math.log2(coarse / fine) < order + 0.25


def test_ddim_published_errors():
    errors = [error("ddim", NoiseSchedule.make(), steps) for steps in (10, 20, 40, 80, 160, 320)]
    assert errors == pytest.approx([0.252, 0.132, 0.068, 0.0347, 0.0176, 0.0089], rel=0.04)


@pytest.mark.parametrize(
    ("variance_type", "expected"),
    [("fixed_small", [0.10422, 0.19642, 0.23602, 0.24613]), ("fixed_large", [0.35852, 0.26788, 0.25335, 0.25075])],
)
def test_ddpm_variance(variance_type, expected):
    """The variance of what comes out of unit noise; that of the data is 0.25."""
    results = []
    for steps in (10, 50, 250, 1000):
        variance = 1.0
        table = step_table("ddpm", NoiseSchedule.make(), steps, spacing="linspace", variance_type=variance_type)
        for row in table.rows:
            kept = row.step.c_x + row.step.c_denoised * gain(row.step.alpha, row.step.sigma)
            variance = kept**2 * variance + row.step.c_noise**2
        results.append(variance)
    assert results == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("v", "fixed"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
def test_learned_range_ends_at_the_fixed_variances(v, fixed):
    schedule = NoiseSchedule.make()
    learned = step_table("ddpm", schedule, 10, variance_type="learned_range")
    for row, other in zip(learned.rows[:-1], step_table("ddpm", schedule, 10, variance_type=fixed).rows, strict=False):
        low, high = row.step.log_variance
        f = (v + 1) / 2
        assert math.isclose(math.exp((f * high + (1 - f) * low) / 2), other.step.c_noise, rel_tol=1e-9)
        assert row.step.c_noise == 1
    assert learned.rows[-1].step.log_variance is None


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "dpmpp_2m_sde", "edm"])
def test_noisy_samplers_keep_the_spread(sampler):
    """Propagated exactly, the variance that comes out approaches the data's."""
    options = {"ddim": {"eta": 1.0}, "edm": {"s_churn": 20.0}}.get(sampler, {})
    table = step_table(sampler, EDMSchedule(), 600, **options)
    variance = torch.zeros(3, 3, dtype=torch.float64)  # covariance of x, the previous D, and the noise
    variance[0, 0] = table.initial_scale**2
    for row in table.rows:
        step = row.step
        g = gain(step.alpha, step.sigma) if row.evaluate else 0.0
        variance[2], variance[:, 2] = 0, 0
        variance[2, 2] = 1
        move = torch.tensor([[step.c_x + (step.c_denoised + step.c_raw) * g, step.c_previous, step.c_noise]])
        keep = [[g, 0.0, 0.0], [0.0, 0.0, 0.0]] if row.evaluate else [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
        matrix = torch.cat([move, torch.tensor(keep)]).double()
        variance = matrix @ variance @ matrix.T
    assert math.isclose(variance[0, 0].item(), STD**2, rel_tol=0.03)


@pytest.mark.parametrize(
    ("sampler", "steps", "end", "evaluations"),
    [
        ("edm", 18, 0.527624637, 35),
        ("edm", 40, 0.504876865, 79),
        ("edm", 256, 0.500095425, 511),
        ("euler", 18, 0.423031436, 18),
        ("euler", 40, 0.464850775, 40),
        ("euler", 256, 0.494445158, 256),
    ],
)
def test_edm_end_to_end(sampler, steps, end, evaluations):
    """A network with EDM's preconditioning that is exact for the data, run by the loop from x = 80."""
    table = step_table(sampler, EDMSchedule(), steps)
    calls = []

    def network(x, t, branches):
        sigma = math.exp(4 * t)
        calls.append(t)
        size = math.hypot(sigma, STD)
        skip, out, scale = STD**2 / size**2, sigma * STD / size, 1 / size
        return ((gain(1.0, sigma) - skip) / out * (x / scale))[None]

    x = torch.full((1, 1, 1, 1), table.initial_scale, dtype=torch.float64)
    run = sample(edm_denoiser(network), table, unguided(table.levels), x=x, prediction_type="sample")
    *_, last = run
    assert last.x.item() == pytest.approx(end, abs=1e-8)
    assert len(calls) == table.evaluations == evaluations
