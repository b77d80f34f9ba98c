"""The scheduler_config.json of published folders: each is accepted and tells the network diffusers' timesteps."""

from __future__ import annotations

import warnings

import diffusers
import pytest

from pydiff.diffusion import sampler_from_scheduler_config

LATENT = {"beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000}
OLD = {"set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}
PLAIN = {"clip_sample": False, "prediction_type": "epsilon"}
DEEPFLOYD = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.16.0.dev0",
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.95,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.5,
    "thresholding": True,
    "trained_betas": None,
    "variance_type": "learned_range",
}
SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    **LATENT,
    **OLD,
    **PLAIN,
    "interpolation_type": "linear",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
KARLO = {"_class_name": "UnCLIPScheduler", "_diffusers_version": "0.11.0.dev0", "num_train_timesteps": 1000}

PUBLISHED = {
    "stable-diffusion-v1-4": {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.7.0.dev0",
        **LATENT,
        **OLD,
        "clip_sample": False,
    },
    "stable-diffusion-v1-5, saved again": {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.32.1",
        **LATENT,
        **OLD,
        **PLAIN,
        "timestep_spacing": "leading",
    },
    "stable-diffusion-inpainting": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.6.0.dev0",
        **LATENT,
        **OLD,
        "clip_sample": False,
    },
    "stable-diffusion-2": {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.10.2",
        **LATENT,
        **OLD,
        "clip_sample": False,
        "prediction_type": "v_prediction",
    },
    "stable-diffusion-2-1": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.8.0",
        **LATENT,
        **OLD,
        "clip_sample": False,
        "prediction_type": "v_prediction",
    },
    "stable-diffusion-xl-base-1.0": SDXL,
    "stable-diffusion-xl, saved again": {
        **SDXL,
        "_diffusers_version": "0.28.2",
        "final_sigmas_type": "zero",
        "rescale_betas_zero_snr": False,
        "sigma_max": None,
        "sigma_min": None,
        "timestep_type": "discrete",
    },
    "sdxl-turbo": {
        "_class_name": "EulerAncestralDiscreteScheduler",
        "_diffusers_version": "0.24.0.dev0",
        **LATENT,
        **OLD,
        **PLAIN,
        "interpolation_type": "linear",
        "sample_max_value": 1.0,
        "timestep_spacing": "trailing",
    },
    "instruct-pix2pix": {
        "_class_name": "EulerAncestralDiscreteScheduler",
        "_diffusers_version": "0.12.0.dev0",
        **LATENT,
        **OLD,
        **PLAIN,
    },
    "stable-diffusion-x4-upscaler": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.8.0",
        **LATENT,
        **OLD,
        "clip_sample": False,
        "prediction_type": "v_prediction",
    },
    "stable-diffusion-x4-upscaler, low_res_scheduler": {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.8.0",
        "beta_end": 0.02,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0001,
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "trained_betas": None,
        "variance_type": "fixed_small",
    },
    "IF-I-XL": DEEPFLOYD,
    "IF-II-L": {**DEEPFLOYD, "variance_type": "learned_range", "sample_max_value": 1.0},
    "IF-II-L, image_noising_scheduler": {**DEEPFLOYD, "thresholding": False, "variance_type": "fixed_small"},
    "karlo, prior_scheduler": {
        **KARLO,
        "clip_sample": True,
        "clip_sample_range": 5.0,
        "prediction_type": "sample",
        "variance_type": "fixed_small_log",
    },
    "karlo, decoder_scheduler": {
        **KARLO,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "prediction_type": "epsilon",
        "variance_type": "learned_range",
    },
    "ddpm-celebahq-256": {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.1.1",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "trained_betas": None,
        "variance_type": "fixed_small",
    },
    "ldm-text2im-large-256": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.0.4",
        **LATENT,
        "clip_sample": False,
        "timestep_values": None,
        "trained_betas": None,
    },
    "a DPM-Solver++ folder": {
        "_class_name": "DPMSolverMultistepScheduler",
        "_diffusers_version": "0.22.0.dev0",
        "algorithm_type": "dpmsolver++",
        **LATENT,
        "dynamic_thresholding_ratio": 0.995,
        "euler_at_final": False,
        "lambda_min_clipped": float("-inf"),
        "lower_order_final": True,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "solver_order": 2,
        "solver_type": "midpoint",
        "steps_offset": 1,
        "thresholding": False,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": True,
        "use_lu_lambdas": False,
        "variance_type": None,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_accepted_and_tells_the_timesteps_of_diffusers(name):
    config = PUBLISHED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler.set_timesteps(20)
    table = sampler_from_scheduler_config(config).table(20)
    assert [row.t for row in table.rows] == pytest.approx(scheduler.timesteps.tolist(), abs=1e-3)
    assert table.levels == 20
