"""Runs in float64 against diffusers' schedulers that work in sigma / alpha.

They keep their sigmas in float32 and round x to float32 in every step (ddpm, ddim, pndm and unclip do not: see their
tests). Here their own code runs with float32 meaning float64, from the alphas_cumprod that training held in float32.
"""

from __future__ import annotations

import math
import sys

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from pydiff.diffusion import Noise, sample, sampler_from_scheduler_config, unguided

SHAPE = (2, 3, 4, 5)
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
CLASSES = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
}


class Widened:
    """A module whose float32 is float64."""

    def __init__(self, module):
        self.module, self.float32 = module, module.float64

    def __getattr__(self, name):
        return getattr(self.module, name)


def network(x, t):
    return 0.8 * torch.sin(1.3 * x + math.cos(float(t) / 150)) + 0.4 * x.roll(1, -1)


def seeded():
    return [torch.Generator().manual_seed(7 + i) for i in range(SHAPE[0])]


def theirs(scheduler, steps, generators):
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    x = randn_tensor(SHAPE, generators, dtype=torch.float64) * scheduler.init_noise_sigma
    noisy = {} if isinstance(scheduler, diffusers.HeunDiscreteScheduler) else {"generator": generators}
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, **noisy).prev_sample
    assert x.dtype == torch.float64
    return x


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_end_is_that_of_diffusers(name, spacing, kind, monkeypatch):
    cls, own = CLASSES[name]
    fields = {**LATENT, **own, "timestep_spacing": spacing, "prediction_type": kind}
    scheduler = getattr(diffusers, cls)(**fields)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    module = sys.modules[type(scheduler).__module__]
    with monkeypatch.context() as patch:
        patch.setattr(module, "torch", Widened(torch))
        patch.setattr(module, "np", Widened(np))
        expected = theirs(scheduler, 20, seeded())
    config = sampler_from_scheduler_config({"_class_name": cls, **fields})
    table, noise = config.table(20), Noise(seeded())
    x = table.initial_scale * noise(SHAPE[1:], like=torch.empty(0, dtype=torch.float64))
    run = sample(lambda x, t, b: network(x, t)[None], table, unguided(20), x=x, noise=noise, prediction_type=kind)
    *_, last = run
    assert last.x.dtype == torch.float64
    torch.testing.assert_close(last.x, expected, atol=1e-8, rtol=1e-8)
