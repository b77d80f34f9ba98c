"""A pipeline folder's own scheduler_config.json: which sampler, schedule, threshold and options it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydiff.diffusion.checks import real, whole
from pydiff.diffusion.ddpm import VARIANCE_TYPES
from pydiff.diffusion.dpm import SOLVER_TYPES
from pydiff.diffusion.levels import NoiseSchedule
from pydiff.diffusion.rows import FINAL_SIGMAS, StepTable
from pydiff.diffusion.samplers import find_sampler, step_table
from pydiff.diffusion.spacing import SPACINGS
from pydiff.diffusion.thresholding import make_threshold
from pydiff.ops.guided_step import Threshold

CLASSES = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "HeunDiscreteScheduler": "heun",
    "UnCLIPScheduler": "ddpm",  # with timesteps from the last to the first, which is linspace spacing
}
CLIPS_BY_DEFAULT = ("DDPMScheduler", "DDIMScheduler", "UnCLIPScheduler")
THRESHOLDS_DYNAMICALLY = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler")
SDE = "sde-dpmsolver++"
OTHER_SOLVERS = ("logrho", "bh1", "bh2")  # of other multistep schedulers; diffusers takes the midpoint for them

# Fields that mean the same in every class.
SHARED = {
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("prediction_type", "predict_epsilon", "timestep_spacing", "steps_offset", "variance_type", "clip_sample"),
    *("clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value", "set_alpha_to_one"),
    *("solver_order", "solver_type", "algorithm_type", "lower_order_final", "euler_at_final", "final_sigmas_type"),
    *("use_karras_sigmas", "use_exponential_sigmas", "sigma_min", "sigma_max", "lambda_min_clipped"),
    *("skip_prk_steps", "flow_shift", "time_shift_type"),
}
# What the shared fields may hold beside null; the others hold numbers, or are checked where they are used.
FLAGS = (
    *("rescale_betas_zero_snr", "predict_epsilon", "clip_sample", "thresholding", "set_alpha_to_one"),
    *("lower_order_final", "euler_at_final", "use_karras_sigmas", "use_exponential_sigmas", "skip_prk_steps"),
)
NUMBERS, LARGEST = ("solver_order", "sigma_min", "sigma_max", "lambda_min_clipped"), 1e9
CHOICES: dict[str, tuple[str, ...]] = {
    "timestep_spacing": SPACINGS,
    "variance_type": VARIANCE_TYPES,
    "final_sigmas_type": FINAL_SIGMAS,
    "solver_type": (*SOLVER_TYPES, *OTHER_SOLVERS),
}
# Fields that change the mathematics in ways pydiff does not have, with the values that leave it unchanged.
INERT: dict[str, tuple[Any, ...]] = {
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "interpolation_type": ("linear", None),
    "timestep_type": ("discrete", None),
    "tensor_format": ("pt", None),
    "timestep_values": (None,),
}
# Values that a class does not share with the others.
ONLY: dict[str, dict[str, tuple[str, ...]]] = {
    "PNDMScheduler": {"prediction_type": ("epsilon", "v_prediction")},
    "UnCLIPScheduler": {
        "prediction_type": ("epsilon", "sample"),
        "variance_type": ("fixed_small_log", "learned_range"),
        "beta_schedule": ("squaredcos_cap_v2",),
    },
}


@dataclass(frozen=True)
class SamplerConfig:
    """A folder's default way of sampling. options are those of its sampler; fewest_steps: the smallest
    num_inference_steps that its spacing can make."""

    sampler: str
    schedule: NoiseSchedule
    threshold: Threshold
    spacing: str
    steps_offset: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    fewest_steps: int = 1

    @property
    def prediction_type(self) -> str:
        return self.schedule.prediction_type

    def table(
        self,
        num_inference_steps: int | None = None,
        *,
        sampler: str | None = None,
        timesteps: str | Sequence[int] | None = None,
        begin: int = 0,
        end: float = 0.0,
        **options: Any,
    ) -> StepTable:
        """The step table of a run with this folder's settings. Another sampler keeps the schedule, the spacing and
        those of the folder's options that it has too; options override. begin, end: see `step_table`."""
        name = self.sampler if sampler is None else sampler
        kept = {key: value for key, value in self.options.items() if key in find_sampler(name).options}
        settings = {"spacing": self.spacing, "steps_offset": self.steps_offset, **kept, **options}
        if num_inference_steps == 1 and self.fewest_steps > 1 and settings["spacing"] == self.spacing:
            raise ValueError(
                "num_inference_steps is 1, but this folder's timesteps run from the noisiest to 0: give at least "
                f"{self.fewest_steps}"
            )
        parts: dict[str, Any] = {"begin": begin, "end": end}
        return step_table(name, self.schedule, num_inference_steps, timesteps=timesteps, **parts, **settings)


def sampler_from_scheduler_config(config: Mapping[str, Any]) -> SamplerConfig:
    """Read a diffusers scheduler_config.json.

    Raises ValueError naming what is unknown: the class, a field, or a value that pydiff has no mathematics for.
    """
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(
            f"scheduler class {name!r} is unsupported; put the config of a supported one there: {', '.join(CLASSES)}"
        )
    _check_fields(name, config)
    sampler = _dpm_sampler(config) if name == "DPMSolverMultistepScheduler" else CLASSES[name]
    schedule = NoiseSchedule.from_config(config)
    offset = whole("steps_offset", config.get("steps_offset", 0), 0)
    if offset >= schedule.num_train_timesteps:
        raise ValueError(f"steps_offset is {offset}; expected less than the {schedule.num_train_timesteps} timesteps")
    unclip = name == "UnCLIPScheduler"
    given = "linspace" if unclip else config.get("timestep_spacing")
    return SamplerConfig(
        sampler,
        schedule,
        _threshold(name, config),
        find_sampler(sampler).spacing if given is None else given,
        offset,
        _options(name, sampler, config),
        fewest_steps=2 if unclip else 1,
    )


def _check_fields(name: str, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if key.startswith("_") or key in SHARED:
            continue
        if key not in INERT:
            raise ValueError(f"{name} has a field {key!r} that pydiff does not know; remove it if it has no effect")
        if value not in INERT[key]:
            raise ValueError(f"{name} has {key} = {value!r}, which pydiff does not support; expected {INERT[key][0]!r}")
    for key in FLAGS:
        if config.get(key) is not None and type(config[key]) is not bool:
            raise ValueError(f"{name} has {key} = {config[key]!r}; expected true or false")
    for key in NUMBERS:
        if config.get(key) is not None and not real(f"{key} of {name}", config[key]) < LARGEST:
            raise ValueError(f"{name} has {key} = {config[key]!r}; expected a number below {LARGEST:g}")
    for key, values in CHOICES.items():
        if config.get(key) is not None and config[key] not in values:
            raise ValueError(f"{name} has {key} = {config[key]!r}; expected one of {', '.join(values)}")
    for key, values in ONLY.get(name, {}).items():
        if config.get(key, values[0]) not in values:
            raise ValueError(f"{name} has {key} = {config[key]!r}; expected one of {', '.join(values)}")


def _dpm_sampler(config: Mapping[str, Any]) -> str:
    algorithm = config.get("algorithm_type", "dpmsolver++")
    if algorithm not in ("dpmsolver++", SDE):
        raise ValueError(f"algorithm_type {algorithm!r} is unsupported; expected 'dpmsolver++' or {SDE!r}")
    return "dpmpp_2m_sde" if algorithm == SDE else "dpmpp_2m"


def _threshold(name: str, config: Mapping[str, Any]) -> Threshold:
    if name in THRESHOLDS_DYNAMICALLY and config.get("thresholding"):
        ratio, limit = config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0)
        return make_threshold("dynamic", percentile=ratio, max_value=limit)
    clips = name in CLIPS_BY_DEFAULT or name == "HeunDiscreteScheduler"
    if clips and config.get("clip_sample", name in CLIPS_BY_DEFAULT):
        return make_threshold("static", max_value=config.get("clip_sample_range", 1.0))
    return make_threshold()


def _options(name: str, sampler: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's own options, from the fields that its class reads."""
    options: dict[str, Any] = {}
    if sampler == "ddpm":
        unclip = name == "UnCLIPScheduler"
        options["variance_type"] = config.get("variance_type") or ("fixed_small_log" if unclip else "fixed_small")
        options["own_betas"] = unclip
    if sampler in ("ddim", "pndm"):
        options["set_alpha_to_one"] = bool(config.get("set_alpha_to_one", name != "PNDMScheduler"))
    if sampler == "pndm":
        options["skip_prk_steps"] = bool(config.get("skip_prk_steps", False))
    known = find_sampler(sampler).options
    if config.get("use_karras_sigmas") and config.get("use_exponential_sigmas"):
        raise ValueError(f"{name} has both use_karras_sigmas and use_exponential_sigmas; expected at most one")
    if "sigmas" in known:
        karras, exponential = config.get("use_karras_sigmas"), config.get("use_exponential_sigmas")
        options["sigmas"] = "karras" if karras else "exponential" if exponential else "schedule"
    if "final_sigma" in known:
        options["final_sigma"] = config.get("final_sigmas_type") or "zero"
    for key in ("solver_order", "lower_order_final", "euler_at_final", "lambda_min_clipped"):
        if key in known and config.get(key) is not None:
            options[key] = config[key]
    if "round_down" in known:
        options["round_down"] = config.get("beta_schedule") == "squaredcos_cap_v2"
    if "solver_type" in known:
        solver = config.get("solver_type") or "midpoint"
        options["solver_type"] = "midpoint" if solver in OTHER_SOLVERS else solver
    if name == "EulerDiscreteScheduler":
        options.update({key: config[key] for key in ("sigma_min", "sigma_max") if config.get(key) is not None})
    return options
