"""Runs that begin late or end early, against what diffusers' image-to-image pipelines do with the same scheduler."""

from __future__ import annotations

import math
import types

import diffusers
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from pydiff.diffusion import (
    Noise,
    NoiseSchedule,
    begin_below,
    begin_of_strength,
    rows_above,
    sample,
    sampler_from_scheduler_config,
    step_table,
    timestep_cutoff,
    unguided,
)

SHAPE = (2, 3, 4, 5)
FLOATS = torch.empty(0)
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CLASSES = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "euler karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "heun": ("HeunDiscreteScheduler", {"timestep_spacing": "leading"}),
}
IN_SIGMA = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler")
DRAWS = ("ddpm", "euler_ancestral", "dpmpp_2m_sde")
SCHEDULE = NoiseSchedule.make(**LATENT)


def network(x, t):
    return 0.8 * torch.sin(1.3 * x + math.cos(float(t) / 150)) + 0.4 * x.roll(1, -1)


def made(name):
    """The scheduler and pydiff's reading of its config."""
    cls, fields = CLASSES[name]
    config = {"_class_name": cls, **LATENT, **fields}
    return getattr(diffusers, cls)(**LATENT, **fields), sampler_from_scheduler_config(config)


def seeded():
    return [torch.Generator().manual_seed(seed) for seed in (3, 4)]


def theirs(name, scheduler, timesteps, x, generators):
    for t in timesteps:
        noisy = {"generator": generators} if name in DRAWS else {}
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, **noisy).prev_sample
    return x


def ours(table, x, noise):
    *_, last = sample(lambda x, t, b: network(x, t)[None], table, unguided(table.levels), x=x, noise=noise)
    return last.x


def close(mine, expected):
    size = max(1.0, expected.abs().max().item())
    assert (mine - expected).abs().max().item() < 1e-4 * size


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(("steps", "strength"), [(10, 0.3), (10, 0.75), (10, 1.0), (20, 0.05), (21, 0.9), (1, 1.0)])
def test_image_to_image(name, steps, strength):
    scheduler, config = made(name)
    scheduler.set_timesteps(steps)
    get_timesteps = diffusers.StableDiffusionImg2ImgPipeline.get_timesteps
    timesteps, _ = get_timesteps(types.SimpleNamespace(scheduler=scheduler), steps, strength, None)
    picture, generators = torch.linspace(-1, 1, math.prod(SHAPE)).view(SHAPE), seeded()
    x = scheduler.add_noise(picture, randn_tensor(SHAPE, generators), timesteps[:1].repeat(SHAPE[0]))

    table = config.table(steps, begin=begin_of_strength(steps, strength))
    noise = Noise(seeded())
    mine = table.noised(picture, noise(SHAPE[1:], like=FLOATS))
    level = table.rows[0].step
    torch.testing.assert_close(mine / (level.alpha if scheduler.__class__.__name__ in IN_SIGMA else 1), x)
    assert [row.t for row in table.rows] == pytest.approx(timesteps.tolist())
    close(ours(table, mine, noise), theirs(name, scheduler, timesteps, x, generators))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("steps", [10, 25])
@pytest.mark.parametrize("share", [0.35, 0.8, 0.88])
def test_two_networks_share_a_run(name, steps, share):
    """denoising_end of Stable Diffusion XL's base, then denoising_start of its refiner."""
    base, config = made(name)
    base.set_timesteps(steps)
    if hasattr(base, "set_begin_index"):
        base.set_begin_index(0)
    cutoff = timestep_cutoff(share)
    first = [t for t in base.timesteps if t >= cutoff]  # as StableDiffusionXLPipeline does
    generators, noise = seeded(), Noise(seeded())
    x = theirs(name, base, first, randn_tensor(SHAPE, generators) * base.init_noise_sigma, generators)
    refiner, _ = made(name)
    refiner.set_timesteps(steps)
    get_timesteps = diffusers.StableDiffusionXLImg2ImgPipeline.get_timesteps
    rest, _ = get_timesteps(types.SimpleNamespace(scheduler=refiner), steps, 1.0, None, share)
    x = theirs(name, refiner, rest, x, generators)

    whole = config.table(steps)
    early = whole.until(rows_above(whole, cutoff))
    assert [row.t for row in early.rows] == pytest.approx([float(t) for t in first])
    mine = ours(early, whole.initial_scale * noise(SHAPE[1:], like=FLOATS), noise)
    late = config.table(steps, begin=begin_below(whole, cutoff))
    assert [row.t for row in late.rows] == pytest.approx(rest.tolist())
    if base.__class__.__name__ in IN_SIGMA:  # Heun's refiner begins a level above where its base ends
        mine = mine * late.rows[0].step.alpha / whole.rows[len(early.rows)].step.alpha
    close(ours(late, mine, noise), x)


@given(st.integers(1, 60), st.floats(0.01, 1), st.sampled_from(["ddpm", "heun", "dpmpp_2m", "edm", "euler"]))
@settings(max_examples=40)
def test_strength_keeps_its_share(steps, strength, sampler):
    options = {"s_churn": 5.0} if sampler == "edm" else {}
    table = step_table(sampler, SCHEDULE, steps, **options)
    if int(steps * strength) == 0:
        with pytest.raises(ValueError, match="leaves none"):
            begin_of_strength(steps, strength)
        return
    late = step_table(sampler, SCHEDULE, steps, begin=begin_of_strength(steps, strength), **options)
    assert len(late.starts) == int(steps * strength)
    assert late.levels == table.levels
    assert late.starts[0] == 0
    assert late.rows[0].level == steps - len(late.starts)
    assert late.rows[1:] == table.rows[len(table.rows) - len(late.rows) + 1 :]
    assert late.rows[0].step.c_previous == 0


def test_until_keeps_rows_as_they_are():
    table = step_table("heun", SCHEDULE, 6)
    early = table.until(4)
    assert (early.rows, early.starts, early.initial_scale) == (table.rows[:4], (0, 2), table.initial_scale)
    assert table.until(len(table.rows)) == table.until(99) == table


def test_noised_at_any_row():
    """What inpainting pastes: the picture at the level of the row that comes next."""
    table = step_table("ddim", SCHEDULE, 5)
    x0, noise = torch.ones(SHAPE, dtype=torch.bfloat16), torch.zeros(SHAPE, dtype=torch.bfloat16)
    for i, row in enumerate(table.rows):
        made = table.noised(x0, noise, row=i)
        assert made.dtype == torch.bfloat16
        assert made[0, 0, 0, 0] == torch.tensor(row.step.alpha, dtype=torch.bfloat16)


@pytest.mark.parametrize("strength", [0, -0.5, 1.1, math.nan, "half", None, True])
def test_bad_strength_is_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        begin_of_strength(10, strength)


def test_bad_input_is_refused():
    table, x = step_table("ddim", SCHEDULE, 10), torch.zeros(SHAPE)
    for share in (0, 1, -0.1, math.nan, "0.8", None):
        with pytest.raises(ValueError, match="share of the run"):
            timestep_cutoff(share)
    with pytest.raises(ValueError, match=r"leaves none; use at least 0\.1"):
        begin_of_strength(10, 0.09)
    with pytest.raises(ValueError, match="below 0; use more steps"):
        begin_below(table, 0)
    with pytest.raises(ValueError, match="999 or more; use more steps"):
        rows_above(table, 999)
    for count in (0, -1, 2.0, "3"):
        with pytest.raises(ValueError, match=r"count of rows is .*; expected an integer of at least 1"):
            table.until(count)
    with pytest.raises(ValueError, match=r"noise is \(1, 3, 4, 5\); expected the shape of x0"):
        table.noised(x, x[:1])
    with pytest.raises(ValueError, match="row is 10; the table has rows 0 to 9"):
        table.noised(x, x, row=10)
