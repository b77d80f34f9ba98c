"""Every sampler against diffusers' scheduler of its name: same network, same generators, state by state."""

from __future__ import annotations

import math
import warnings

import diffusers
import pytest
import torch

from pydiff.diffusion import (
    Noise,
    NoiseSchedule,
    sample,
    sampler_from_scheduler_config,
    step_table,
    unguided,
)

SHAPE = (2, 3, 4, 5)
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
KINDS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "linspace", "trailing")
EULER, ANCESTRAL = diffusers.EulerDiscreteScheduler, diffusers.EulerAncestralDiscreteScheduler
HEUN, DPM = diffusers.HeunDiscreteScheduler, diffusers.DPMSolverMultistepScheduler
IN_SIGMA = (EULER, ANCESTRAL, HEUN)  # diffusers keeps x / alpha in these


def network(x, t, channels=3):
    """Any smooth nonlinear function; with 6 channels the last 3 are variance channels in (-1, 1)."""
    t = float(t)
    out = 0.8 * torch.sin(1.3 * x + math.cos(t / 150)) + 0.4 * x.roll(1, -1)
    return out if channels == 3 else torch.cat([out, torch.tanh(x.roll(1, -2) + t / 1000)], 1)


def theirs(scheduler, steps, *, dtype, channels=3, variance=lambda v: v, **options):
    """The states of a diffusers run in our coordinates, and where its generators stand at the end."""
    timesteps = {"timesteps": steps} if isinstance(steps, list) else {"num_inference_steps": steps}
    scheduler.set_timesteps(**timesteps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else it starts from the second of two equal timesteps, and ends too early
    generators = [torch.Generator().manual_seed(7 + i) for i in range(SHAPE[0])]
    x = diffusers.utils.torch_utils.randn_tensor(SHAPE, generators, dtype=dtype) * scheduler.init_noise_sigma
    stochastic = {} if isinstance(scheduler, HEUN) else {"generator": generators}
    states = []
    for i, t in enumerate(scheduler.timesteps):
        out = network(scheduler.scale_model_input(x, t), t, channels)
        out = torch.cat([out[:, :3], variance(out[:, 3:])], 1)
        x = scheduler.step(out, t, x, **stochastic, **options).prev_sample
        scale = 1 / math.sqrt(1 + float(scheduler.sigmas[i + 1]) ** 2) if isinstance(scheduler, IN_SIGMA) else 1
        states.append(x * scale)
    return states, [torch.randn(1, generator=g) for g in generators]


def ours(config, steps, *, dtype, channels=3, **options):
    timesteps = {"timesteps": steps} if isinstance(steps, list) else {"num_inference_steps": steps}
    table = config.table(**timesteps, **options)
    noise = Noise([7 + i for i in range(SHAPE[0])])
    x = noise(SHAPE[1:], like=torch.empty(0, dtype=dtype)) * table.initial_scale
    run = sample(
        lambda x, t, branches: network(x, t, channels)[None],
        table,
        unguided(table.levels),
        x=x,
        noise=noise,
        prediction_type=config.prediction_type,
        threshold=config.threshold,
    )
    return [state.x for state in run], [torch.randn(1, generator=g) for g in noise.generators]


def compare(cls, config, steps, *, tolerance=1e-5, dtype=torch.float32, step_options=None, exact=False, **kwargs):
    """`exact`: diffusers' step runs in float64 from the same float32 alphas_cumprod."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = cls(**config)
        if exact:
            scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        step_options = step_options or {}
        expected, stands = theirs(scheduler, steps, dtype=dtype, **step_options, **kwargs)
    mine = sampler_from_scheduler_config({"_class_name": cls.__name__, **config})
    kwargs.pop("variance", None)
    states, mine_stands = ours(mine, steps, dtype=dtype, **step_options, **kwargs)
    assert len(states) == len(expected)
    for i, (a, b) in enumerate(zip(states, expected, strict=True)):
        size = max(1.0, b.abs().max().item())
        assert torch.isfinite(b).all()
        assert (a - b).abs().max().item() <= tolerance * size, i
    assert stands == mine_stands


def limits(kind):
    """diffusers' fields for a threshold; the network's estimates go well beyond 1."""
    dynamic = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
    return {"none": {"clip_sample": False}, "static": {"clip_sample": True}, "dynamic": dynamic}[kind]


@pytest.mark.parametrize("threshold", ["none", "static", "dynamic"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large", "learned_range"])
def test_ddpm(variance, kind, threshold):
    config = {**COSINE, "variance_type": variance, "prediction_type": kind, **limits(threshold)}
    channels = 6 if variance == "learned_range" else 3
    compare(diffusers.DDPMScheduler, config, 7, channels=channels)


def test_ddpm_learned_takes_the_variance_itself():
    config = {"variance_type": "learned", "clip_sample": True}
    mine = sampler_from_scheduler_config({"_class_name": "DDPMScheduler", **config})
    assert mine.table(5).linear_variance
    scheduler = diffusers.DDPMScheduler(**config)
    expected, stands = theirs(scheduler, 5, dtype=torch.float32, channels=6, variance=torch.abs)
    noise = Noise([7, 8])
    table = mine.table(5)

    def predict(x, t, branches):
        out = network(x, t, 6)
        return torch.cat([out[:, :3], out[:, 3:].abs()], 1)[None]

    x = noise(SHAPE[1:], like=torch.empty(0))
    run = sample(predict, table, unguided(5), x=x, noise=noise, threshold=mine.threshold)
    for state, b in zip(run, expected, strict=True):
        torch.testing.assert_close(state.x, b, atol=1e-5, rtol=1e-5)
    assert stands == [torch.randn(1, generator=g) for g in noise.generators]


def test_ddpm_fixed_large_log_means_fixed_large():
    schedule = NoiseSchedule.make()
    large, log = (step_table("ddpm", schedule, 9, variance_type=v) for v in ("fixed_large", "fixed_large_log"))
    assert large == log


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [3, 10, 60, [999, 700, 400, 399, 3], [10, 5, 0]])
def test_ddpm_spacings(spacing, steps):
    compare(diffusers.DDPMScheduler, {**LATENT, "timestep_spacing": spacing, "steps_offset": 1}, steps)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_ddpm_1000_steps(kind):
    """In float32 diffusers' own 1 - alpha_t / alpha_prev keeps three digits; in float64 both agree to 1e-9."""
    compare(diffusers.DDPMScheduler, {"prediction_type": kind}, 1000, dtype=torch.float64, tolerance=1e-9, exact=True)
    compare(diffusers.DDPMScheduler, {"prediction_type": kind}, 1000, tolerance=2e-4)


@pytest.mark.parametrize("threshold", ["none", "static", "dynamic"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("clipped", [False, True])
def test_ddim(eta, kind, threshold, clipped):
    config = {**LATENT, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": kind, **limits(threshold)}
    options = {"eta": eta, "use_clipped_model_output": clipped}
    compare(diffusers.DDIMScheduler, config, 10, step_options=options)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [3, 7, 50])
@pytest.mark.parametrize("base", [LATENT, COSINE, {}])
def test_ddim_spacings(base, steps, spacing):
    config = {**base, "timestep_spacing": spacing, "prediction_type": "v_prediction"}
    compare(diffusers.DDIMScheduler, config, steps, step_options={"eta": 0.5})
    exact = {"dtype": torch.float64, "tolerance": 1e-9, "exact": True}
    compare(diffusers.DDIMScheduler, config, steps, step_options={"eta": 0.5}, **exact)


def test_zero_terminal_snr():
    config = {**LATENT, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    compare(diffusers.DDIMScheduler, {**config, "timestep_spacing": "trailing"}, 8)
    compare(diffusers.DDPMScheduler, {**config, "timestep_spacing": "trailing"}, 8)
    # diffusers starts from x / alpha of size 4096 there, whose float32 rounding is what is left at the next level
    compare(EULER, {**config, "timestep_spacing": "trailing"}, 8, tolerance=1e-4)
    schedule = NoiseSchedule.make(rescale_betas_zero_snr=True)
    for sampler in ("ddim", "ddpm", "pndm"):
        with pytest.raises(ValueError, match="zero terminal SNR"):
            step_table(sampler, schedule, 8, spacing="trailing")


def test_ddim_1000_steps():
    """This network amplifies rounding: in float32 each side is up to 3e-4 from float64, where both agree to 1e-9."""
    config = {**LATENT, "clip_sample": False}
    compare(diffusers.DDIMScheduler, config, 1000, dtype=torch.float64, tolerance=1e-9, exact=True)
    compare(diffusers.DDIMScheduler, config, 1000, tolerance=1e-3)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [3, 11, [900, 500, 20]])
def test_euler(steps, kind, spacing):
    config = {**LATENT, "prediction_type": kind, "timestep_spacing": spacing, "steps_offset": 1}
    compare(EULER, config, steps)
    if kind != "sample" and not isinstance(steps, list):  # the ancestral one has neither in diffusers
        compare(ANCESTRAL, config, steps)


def test_euler_1000_steps():
    compare(EULER, LATENT, 1000, tolerance=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 10.0},
        {"final_sigmas_type": "sigma_min"},
    ],
)
def test_euler_sigmas(fields):
    compare(EULER, {**LATENT, **fields}, 12)


@pytest.mark.parametrize("threshold", ["none", "static"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}])
def test_heun(fields, kind, threshold):
    compare(HEUN, {**LATENT, **fields, "prediction_type": kind, **limits(threshold)}, 9)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [3, 20, [900, 500, 20]])
def test_heun_spacings(steps, spacing):
    compare(HEUN, {**LATENT, "timestep_spacing": spacing, "steps_offset": 1}, steps)


@pytest.mark.parametrize("threshold", ["none", "dynamic"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize("steps", [3, 10, 20, [900, 500, 20]])
def test_dpm(steps, algorithm, kind, threshold):
    fields = limits("dynamic") if threshold == "dynamic" else {}
    compare(DPM, {**LATENT, "algorithm_type": algorithm, "prediction_type": kind, **fields}, steps)


@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize(
    "fields",
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {**COSINE, "use_karras_sigmas": True},
        {"solver_type": "heun"},
        {"solver_order": 1},
        {"final_sigmas_type": "sigma_min"},
        {"final_sigmas_type": "sigma_min", "euler_at_final": True},
        {"lower_order_final": False},
        {"timestep_spacing": "leading", "steps_offset": 1},
        {"timestep_spacing": "trailing"},
        {**COSINE, "lambda_min_clipped": -5.1},
        {**COSINE, "lambda_min_clipped": -5.1, "timestep_spacing": "leading"},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    ],
)
@pytest.mark.parametrize("steps", [8, 16])
def test_dpm_options(steps, fields, algorithm):
    compare(DPM, {**LATENT, "algorithm_type": algorithm, **fields}, steps)
