"""Non-Markovian sampling with any amount of noise (Song et al. 2021, equations 12 and 16)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydiff.diffusion.levels import Level, NoiseSchedule, Schedule
from pydiff.diffusion.rows import (
    Row,
    StepTable,
    ended,
    initial_scale,
    last_level,
    make_row,
    make_table,
    timestep_levels,
)
from pydiff.diffusion.spacing import Plan
from pydiff.ops.guided_step import Step


def ddim(
    schedule: Schedule,
    plan: Plan,
    *,
    eta: float = 0.0,
    set_alpha_to_one: bool = True,
    use_clipped_model_output: bool = False,
) -> StepTable:
    """eta in [0, 1]: 0 is deterministic, 1 has the noise of DDPM. set_alpha_to_one: the last step ends at a clean
    picture rather than at the level of t = 0. use_clipped_model_output: eps follows from the thresholded estimate; by
    default the network's own eps is kept beside it, as diffusers does.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta!r}; expected a number in [0, 1]")
    levels = ended(schedule, plan, timestep_levels(schedule, plan, last_level(schedule, set_alpha_to_one)))
    steps = [
        [ddim_row(i, level, target, eta, use_clipped_model_output)]
        for i, (level, target) in enumerate(zip(levels[:-1], targets(schedule, plan, levels), strict=True))
    ]
    return make_table(steps, initial_scale(schedule, levels), begin=plan.begin)


def targets(schedule: Schedule, plan: Plan, levels: Sequence[Level]) -> Sequence[Level]:
    """Where each step goes: to the next level; with a named spacing to t - T // N, which differs for some spacings (not
    in a run that ends early, whose end that might miss)."""
    if not isinstance(schedule, NoiseSchedule) or plan.timesteps is not None or plan.end > 0:
        return levels[1:]
    stride = schedule.num_train_timesteps // plan.num_inference_steps
    times = [int(level.t) - stride for level in levels[:-1]]
    return [schedule.level(t) if t >= 0 else levels[-1] for t in times]


def ddim_row(number: int, level: Level, target: Level, eta: float, clipped: bool) -> Row:
    """x' = a' D + sqrt(s'^2 - std^2) eps + std noise, with eps = (x - a D_raw) / s."""
    scale = level.alpha / target.alpha
    forward = max(level.sigma**2 - (scale * target.sigma) ** 2, 0.0)
    std = eta * target.sigma / level.sigma * math.sqrt(forward)
    direction = math.sqrt(max(target.sigma**2 - std**2, 0.0)) / level.sigma
    back = -direction * level.alpha
    c_denoised, c_raw = (target.alpha + back, 0.0) if clipped else (target.alpha, back)
    step = Step(level.alpha, level.sigma, direction, c_denoised, c_raw, c_noise=std)
    return make_row(number, level, step, draws=eta > 0)
