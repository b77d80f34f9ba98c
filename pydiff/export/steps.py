"""The default run of a stage as numbers alone, for programs that walk it without pydiff.

Every row is one step, `x' = c_x x + c_denoised D + c_raw D_raw + c_previous D_previous + c_noise noise`; see
`pydiff.ops.guided_step.Step`. The run begins at initial_scale * noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydiff.cascade import Stage, StagePlan
from pydiff.diffusion.rows import Row
from pydiff.tasks.plan import Options, plan_stages

BRANCHES = {1: ("text",), 2: ("text", "null"), 3: ("text", "image", "null")}  # of the guidance's weights, in order


def default_plans(stages: Sequence[Stage]) -> list[StagePlan]:
    """What each stage does when nobody says otherwise, every one as if it were the first."""
    return [plan_stages([stage], Options())[0] for stage in stages]


def steps_json(plan: StagePlan) -> dict[str, Any]:
    """The object that steps.json holds."""
    stage, table = plan.stage, plan.table
    return {
        "kind": stage.kind,
        "size": list(plan.size),
        "shape": list(stage.shape(plan.size)),
        "prediction_type": stage.sampling.prediction_type,
        "predicts_variance": stage.predicts_variance,
        "linear_variance": table.linear_variance,
        "initial_scale": table.initial_scale,
        "threshold": {**plan.threshold._asdict(), "max_value": _finite(plan.threshold.max_value)},
        "branches": list(BRANCHES[len(plan.guidance.weights[0])]),
        "guidance_rescale": plan.guidance.rescale,
        "low_res": _low_res(plan),
        "latents": _latents(stage),
        "rows": [_row(row, plan.guidance.weights[row.level]) for row in table.rows],
    }


def _row(row: Row, weights: Sequence[float]) -> dict[str, Any]:
    """weights: of the branches, where a weight of 0 asks for no evaluation. history: earlier evaluations whose sum
    stands in the place of D_previous."""
    step = row.step._asdict()
    return {
        "t": row.t,
        "level": row.level,
        "evaluate": row.evaluate,
        "draws": row.draws,
        "input_scale": row.input_scale,
        **{name: value for name, value in step.items() if name != "log_variance"},
        "log_variance": None if row.step.log_variance is None else list(row.step.log_variance),
        "weights": list(weights),
        "history": [earlier._asdict() for earlier in row.history],
    }


def _low_res(plan: StagePlan) -> dict[str, Any] | None:
    """Of a stage that enlarges: alpha low_res + sigma noise stands beside x, after it was enlarged (bilinear, corners
    aligned), and the network is told noise_level as its class label."""
    noising = plan.stage.noising
    if noising is None or plan.noise_level is None:
        return None
    level = noising.level(plan.noise_level)
    return {"noise_level": plan.noise_level, "alpha": level.alpha, "sigma": level.sigma}


def _latents(stage: Stage) -> dict[str, Any] | None:
    """Of a stage that walks through latents: x = (z - mean) * scaling_factor / std, z being the autoencoder's."""
    if stage.codec is None:
        return None
    config = stage.codec.config
    count = config.latent_channels
    known = config.latents_mean is not None and config.latents_std is not None
    return {
        "factor": stage.factor,
        "scaling_factor": config.scaling_factor,
        "mean": list(config.latents_mean or ()) if known else [config.shift_factor or 0.0] * count,
        "std": list(config.latents_std or ()) if known else [1.0] * count,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
