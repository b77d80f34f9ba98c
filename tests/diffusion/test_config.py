"""A folder's scheduler_config.json."""

from __future__ import annotations

import json
import warnings

import diffusers
import pytest

from pydiff.diffusion import sampler_from_scheduler_config
from pydiff.diffusion.config import CLASSES
from pydiff.ops import Threshold

DEEPFLOYD = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}
STABLE_DIFFUSION = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_config_that_diffusers_saves_is_read(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(diffusers, name)().save_pretrained(tmp_path)
    settings = sampler_from_scheduler_config(json.loads((tmp_path / "scheduler_config.json").read_text()))
    assert settings.sampler == CLASSES[name]
    assert settings.prediction_type == "epsilon"
    clips = name in ("DDPMScheduler", "DDIMScheduler", "UnCLIPScheduler")
    assert settings.threshold.kind == ("static" if clips else "none")
    assert settings.table(5).levels == 5


def test_deepfloyd():
    settings = sampler_from_scheduler_config(DEEPFLOYD)
    assert settings.sampler == "ddpm"
    assert settings.threshold == Threshold("dynamic", 0.95, 1.5)
    table = settings.table(timesteps="fast27")
    assert [row.t for row in table.rows[:3]] == [999, 800, 799]
    assert table.rows[0].step.log_variance is not None


def test_stable_diffusion():
    settings = sampler_from_scheduler_config(STABLE_DIFFUSION)
    assert (settings.sampler, settings.spacing, settings.steps_offset) == ("pndm", "leading", 1)
    assert settings.threshold.kind == "none"
    assert settings.options == {"set_alpha_to_one": False, "skip_prk_steps": True}
    assert [row.t for row in settings.table(5).rows] == [801, 601, 601, 401, 201, 1]
    assert [row.t for row in settings.table(5, sampler="ddim", begin=3).rows] == [201, 1]
    assert not sampler_from_scheduler_config({"_class_name": "PNDMScheduler"}).options["skip_prk_steps"]


def test_another_sampler_keeps_what_it_understands():
    settings = sampler_from_scheduler_config(STABLE_DIFFUSION)
    assert [row.t for row in settings.table(5, sampler="euler").rows] == [801, 601, 401, 201, 1]
    table = settings.table(5, sampler="ddpm", variance_type="fixed_large", spacing="trailing", steps_offset=0)
    assert [row.t for row in table.rows] == [999, 799, 599, 399, 199]
    fields = {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "sde-dpmsolver++",
        "use_karras_sigmas": True,
    }
    dpm = sampler_from_scheduler_config(fields)
    assert dpm.sampler == "dpmpp_2m_sde"
    assert dpm.options["sigmas"] == "karras"


@pytest.mark.parametrize(
    ("match", "fields"),
    [
        *(
            (f"{name!r} is unsupported; put the config of a supported one there: DDPMScheduler", {"_class_name": name})
            for name in ("LCMScheduler", "LMSDiscreteScheduler", "UniPCMultistepScheduler", "KDPM2DiscreteScheduler")
        ),
        ("None is unsupported", {}),
        (r"\['DDIMScheduler'\] is unsupported", {"_class_name": ["DDIMScheduler"]}),
        (r"\{\} is unsupported", {"_class_name": {}}),
        ("3 is unsupported", {"_class_name": 3}),
        ("steps_offset is '1'; expected an integer", {"_class_name": "DDIMScheduler", "steps_offset": "1"}),
        ("beta_start is 'low'; expected a number", {"_class_name": "DDIMScheduler", "beta_start": "low"}),
        (r"trained_betas is \['low'\]; expected a list", {"_class_name": "DDIMScheduler", "trained_betas": ["low"]}),
        (r"trained_betas is \{'a': 1\}; expected", {"_class_name": "DDIMScheduler", "trained_betas": {"a": 1}}),
        ("num_train_timesteps is 1.5", {"_class_name": "DDIMScheduler", "num_train_timesteps": 1.5}),
        ("max_value is 'one'; expected a number", {"_class_name": "DDIMScheduler", "clip_sample_range": "one"}),
        ("beta_schedule 'laplace' is unknown", {"_class_name": "DDPMScheduler", "beta_schedule": "laplace"}),
        ("'betas_start'", {"_class_name": "DDPMScheduler", "betas_start": 0.1}),
        ("use_beta_sigmas = True", {"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}),
        ("timestep_type = 'continuous'", {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}),
        ("algorithm_type 'dpmsolver'", {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}),
        (
            "prediction_type is 'flow_prediction'",
            {"_class_name": "DDIMScheduler", "prediction_type": "flow_prediction"},
        ),
        (
            "at most one",
            {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "use_exponential_sigmas": True},
        ),
    ],
)
def test_bad_configs_are_refused_by_name(match, fields):
    with pytest.raises(ValueError, match=match):
        sampler_from_scheduler_config(fields)


def test_unsupported_order_is_refused_with_the_table():
    settings = sampler_from_scheduler_config({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3})
    with pytest.raises(ValueError, match="solver_order"):
        settings.table(10)


def test_predict_epsilon_of_old_configs():
    fields = {"_class_name": "DDPMScheduler", "predict_epsilon": False}
    assert sampler_from_scheduler_config(fields).prediction_type == "sample"
