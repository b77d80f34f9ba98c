"""Ancestral sampling with the posterior q(x_prev | x, x0) (Ho et al. 2020, equations 6 and 7)."""

from __future__ import annotations

import math
from itertools import pairwise

from pydiff.diffusion.levels import CLEAN, Level, NoiseSchedule, Schedule
from pydiff.diffusion.rows import Row, StepTable, ended, initial_scale, make_row, make_table, timestep_levels
from pydiff.diffusion.spacing import Plan
from pydiff.ops.guided_step import Step

VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
SMALLEST_VARIANCE = 1e-20


def ddpm(schedule: Schedule, plan: Plan, *, variance_type: str = "fixed_small", own_betas: bool = False) -> StepTable:
    """variance_type: fixed_small is the posterior's variance, fixed_large the forward step's; the _log names mean the
    same numbers. learned_range lets the network interpolate between the two in log space (Nichol and Dhariwal 2021,
    equation 15); learned takes the variance from the network's channels, as diffusers does. own_betas: a step to the
    timestep just below has the schedule's beta in place of 1 - alphas_cumprod[t] / alphas_cumprod[t - 1], which is
    another number where float32 has rounded it (of Karlo's last step, by 5e-4), as diffusers' UnCLIPScheduler does.
    """
    if variance_type not in VARIANCE_TYPES:
        raise ValueError(f"variance_type is {variance_type!r}; expected one of {', '.join(VARIANCE_TYPES)}")
    levels = ended(schedule, plan, timestep_levels(schedule, plan))
    last = len(levels) - 2
    steps = []
    for i, (level, target) in enumerate(pairwise(levels)):
        # noise is added wherever t > 0, on the last row too when a list of timesteps or the run ends above 0
        noisy = level.t > 0 if isinstance(schedule, NoiseSchedule) else i < last or plan.end > 0
        beta = own_beta(schedule, level, target) if own_betas else None
        steps.append([posterior_row(i, level, target, variance_type, noisy, beta)])
    return make_table(steps, initial_scale(schedule, levels), variance_type == "learned", begin=plan.begin)


def own_beta(schedule: Schedule, level: Level, target: Level) -> float | None:
    """The schedule's beta of a step down by one timestep; the clean picture lies one below t = 0."""
    if not isinstance(schedule, NoiseSchedule) or schedule.betas is None:
        raise ValueError("own_betas needs a schedule that was made of betas; leave it out")
    below = -1 if target == CLEAN else target.t
    return float(schedule.betas[int(level.t)]) if below == level.t - 1 else None


def posterior_row(
    number: int, level: Level, target: Level, variance_type: str, noisy: bool, beta: float | None = None
) -> Row:
    """x' = (r s'^2 / s^2) x + (a' b / s^2) D + std noise; r = a / a', b = s^2 - r^2 s'^2 the forward variance, or
    b = beta and r^2 = 1 - beta."""
    if beta is None:
        scale = level.alpha / target.alpha
        forward = max(level.sigma**2 - (scale * target.sigma) ** 2, 0.0)
    else:
        scale, forward = math.sqrt(1 - beta), beta
    c_x = scale * target.sigma**2 / level.sigma**2
    c_denoised = target.alpha * forward / level.sigma**2
    small = max(forward * target.sigma**2 / level.sigma**2, SMALLEST_VARIANCE)
    log_variance: tuple[float, float] | None = None
    std = 1.0
    if variance_type == "learned_range":
        log_variance = (math.log(small), math.log(max(forward, SMALLEST_VARIANCE)))
    elif variance_type == "learned":
        log_variance = (-1.0, 1.0)  # exp(v / 2): v is the log variance itself
    else:
        std = math.sqrt(small if variance_type.startswith("fixed_small") else forward)
    step = Step(level.alpha, level.sigma, c_x, c_denoised, c_noise=std if noisy else 0.0)
    return make_row(number, level, step._replace(log_variance=log_variance if noisy else None), draws=noisy)
