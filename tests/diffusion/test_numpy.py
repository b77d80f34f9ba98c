"""The loop and what stands around it on NumPy's arrays: the numbers that torch's tensors have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pydiff.diffusion import (
    SAMPLERS,
    EDMSchedule,
    Noise,
    NoiseSchedule,
    classifier_free,
    edm_denoiser,
    make_threshold,
    resampled,
    sample,
    step_table,
    unguided,
)
from pydiff.diffusion.classifier import class_gradient, with_gradient
from pydiff.diffusion.local_blend import blend_mask, blended
from pydiff.diffusion.loop import Known
from pydiff.diffusion.windows import make_windows

SCHEDULE = NoiseSchedule.make("squaredcos_cap_v2")
SHAPE = (3, 4, 6)
SEEDS = [5, 6]
OPTIONS = {"ddim": {"eta": 0.7}, "edm": {"s_churn": 3.0}}


def as_numpy(value):
    return value.numpy() if isinstance(value, torch.Tensor) else value


def predict(x, t, branches):
    xp = np if isinstance(x, np.ndarray) else torch
    return xp.stack([(0.7 + 0.2 * b) * xp.sin(1.3 * x + math.cos(t / 150) + b) for b in branches])


def with_variance(x, t, branches):
    xp = np if isinstance(x, np.ndarray) else torch
    made = predict(x, t, branches)
    return xp.concatenate([made, xp.cos(made)], 2)


def of_torch(noise):
    """torch's own draws as NumPy's arrays: draws without torch are equal to within its rounding only."""
    return lambda shape, like: noise(shape, like=torch.empty(0)).numpy()


def walks(table, guidance=None, network=predict, known=None, draws=of_torch, **options):
    """The states of a run on tensors and of one on arrays."""
    guidance = unguided(table.levels) if guidance is None else guidance
    for kind in ("torch", "numpy"):
        noise, kept = Noise(SEEDS), known
        if kind == "numpy":
            noise, kept = draws(noise), known if known is None else Known(*map(as_numpy, known))
        x = noise(SHAPE, like=torch.empty(0) if kind == "torch" else np.empty(0, np.float32)) * table.initial_scale
        yield list(sample(network, table, guidance, x=x, noise=noise, known=kept, **options))


def assert_same(table, error=1e-5, **options):
    for expected, made in zip(*walks(table, **options), strict=True):
        assert isinstance(made.x, np.ndarray)
        for mine, theirs in ((made.x, expected.x), (made.denoised, expected.denoised)):
            if theirs is not None:
                np.testing.assert_allclose(
                    mine, theirs.numpy(), rtol=error, atol=error * float(theirs.abs().max()), strict=True
                )


@pytest.mark.parametrize(
    ("kind", "threshold"), [("v_prediction", "none"), ("epsilon", "static"), ("epsilon", "dynamic")]
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(sampler, kind, threshold):
    table = step_table(sampler, SCHEDULE, 6, **OPTIONS.get(sampler, {}))
    guidance = classifier_free(3.0, table.levels, rescale=0.3)
    assert_same(table, guidance=guidance, prediction_type=kind, threshold=make_threshold(threshold))


@pytest.mark.parametrize("variance", ["learned_range", "learned"])
def test_learned_variance(variance):
    table = step_table("ddpm", SCHEDULE, 6, variance_type=variance)
    assert_same(table, network=with_variance, threshold=make_threshold("static"))


@pytest.mark.parametrize("clean", [False, True])
def test_what_is_kept(clean):
    table = step_table("ddim", SCHEDULE, 6)
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.rand(1, *SHAPE, generator=generator), torch.randn(2, *SHAPE, generator=generator)
    mask = (torch.arange(6) / 5).expand(1, 1, 4, 6)
    assert_same(table, known=Known(x0, mask, noise, clean))


def test_rows_that_go_back_up():
    table = resampled(step_table("ddpm", SCHEDULE, 6), 2, 2)
    assert_same(table, known=Known(torch.full((1, *SHAPE), 0.5), torch.eye(4, 6)[None, None]))


def test_edm_networks():
    table = step_table("edm", EDMSchedule(), 4)
    assert_same(table, network=edm_denoiser(predict), prediction_type="sample")


def test_its_own_noise_is_that_of_torch_to_within_rounding():
    assert_same(step_table("ddpm", SCHEDULE, 6), draws=lambda noise: noise, error=1e-4)
    mine, theirs = Noise(SEEDS), Noise(SEEDS)
    for _ in range(3):
        drawn, expected = mine(SHAPE, like=np.empty(0)), theirs(SHAPE, like=torch.empty(0, dtype=torch.float64))
        np.testing.assert_allclose(drawn, expected.numpy(), atol=1e-11, strict=True)


def test_the_generator_of_a_user_needs_torch():
    noise = Noise([3, torch.Generator().manual_seed(1)])
    with pytest.raises(ValueError, match=r"seeds holds a torch\.Generator, but this model runs without torch"):
        noise(SHAPE, like=np.empty(0, np.float32))


def test_x_at_a_level():
    table = step_table("ddim", SCHEDULE, 6, begin=2)
    x0, noise = torch.rand(2, *SHAPE), torch.randn(2, *SHAPE)
    made = table.noised(x0.numpy(), noise.numpy())
    np.testing.assert_allclose(made, table.noised(x0, noise).numpy(), rtol=1e-6, strict=True)


def test_windows():
    windows = make_windows((10, 17), (8, 8), 0.5)
    x = torch.randn(2, 3, 10, 17)
    assert np.array_equal(windows.split(x.numpy()), windows.split(x).numpy())
    parts = torch.stack([windows.split(x).sin(), windows.split(x)])
    made = windows.merged(parts.numpy())
    np.testing.assert_allclose(made, windows.merged(parts).numpy(), rtol=1e-6, atol=1e-6, strict=True)


def test_local_blends():
    heat, excluded = torch.rand(2, 2, 4, 3, 5, generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, *SHAPE)
    mask = blend_mask(heat, SHAPE[1:], excluded=excluded)
    made = blend_mask(heat.numpy(), SHAPE[1:], excluded=excluded.numpy())
    assert 0 < made.sum() < made.size
    assert np.array_equal(made, mask.numpy())
    assert np.array_equal(blended(x.numpy(), made), blended(x, mask).numpy())


def test_gradients_are_torchs_own():
    table = step_table("ddim", SCHEDULE, 6)
    x = np.zeros((2, *SHAPE), np.float32)
    with pytest.raises(ValueError, match="classifier guidance needs torch's gradients"):
        class_gradient(lambda x, t: x, [0, 1], x, table.rows[0])
    step = table.rows[0].step
    made = with_gradient(x[None], x + 1, step, "epsilon")
    assert np.array_equal(made, with_gradient(torch.zeros(1, 2, *SHAPE), torch.ones(2, *SHAPE), step, "epsilon"))
