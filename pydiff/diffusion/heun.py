"""Heun's second order steps: over a schedule's sigmas, and EDM's stochastic sampler (Karras et al. 2022, algorithm 2).

One step is two rows. With r = sigma / alpha, an Euler row leads from x at r to x' at r' by the estimate D; the
corrector evaluates D' at (x', r') and, since x can be eliminated, adds only a' (r - r') / (2 r') (D' - D).
"""

from __future__ import annotations

import math
from itertools import pairwise

from pydiff.diffusion.euler import euler_row
from pydiff.diffusion.levels import CLEAN, EDMSchedule, Level, LogSNRSchedule, Schedule
from pydiff.diffusion.rows import (
    Row,
    StepTable,
    ended,
    initial_scale,
    level_at,
    make_row,
    make_table,
    sigma_levels,
)
from pydiff.diffusion.spacing import Plan, karras
from pydiff.ops.guided_step import Step


def heun(
    schedule: Schedule,
    plan: Plan,
    *,
    sigmas: str = "schedule",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> StepTable:
    """2 N - 1 evaluations in N steps. sigmas: "schedule", "karras" or "exponential", the latter two between sigma_min
    and sigma_max (ratios sigma / alpha)."""
    levels = ended(schedule, plan, sigma_levels(schedule, plan, sigmas, sigma_min, sigma_max))
    last = len(levels) - 2 if plan.end == 0 else None  # else it has its corrector too
    steps = [heun_rows(i, level, target, i == last) for i, (level, target) in enumerate(pairwise(levels))]
    return make_table(steps, initial_scale(schedule, levels, plan.spacing), begin=plan.begin)


def edm(
    schedule: Schedule,
    plan: Plan,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> StepTable:
    """Heun steps over Karras spacing between sigma_min and sigma_max (by default the schedule's ends; rho 7 or the
    schedule's own). With s_churn > 0 a step whose sigma is in [s_tmin, s_tmax] first rises to
    (1 + min(s_churn / N, sqrt(2) - 1)) sigma with noise of scale s_noise: one more row, which evaluates nothing."""
    if not (s_churn >= 0 and s_noise >= 0 and s_tmin <= s_tmax):
        raise ValueError(
            f"s_churn {s_churn}, s_noise {s_noise}, s_tmin {s_tmin} and s_tmax {s_tmax} do not fit; "
            "expected s_churn >= 0, s_noise >= 0 and s_tmin <= s_tmax"
        )
    levels = ended(schedule, plan, _edm_levels(schedule, plan, sigma_min, sigma_max, rho))
    last = len(levels) - 2 if plan.end == 0 else None
    gamma = min(s_churn / plan.num_inference_steps, math.sqrt(2) - 1)
    steps = []
    for i, (level, target) in enumerate(pairwise(levels)):
        rows: list[Row] = []
        if gamma > 0 and s_tmin <= level.ratio <= s_tmax:
            row, level = churn_row(i, schedule, level, gamma, s_noise)
            rows.append(row)
        steps.append(rows + heun_rows(i, level, target, i == last))
    return make_table(steps, initial_scale(schedule, levels, "linspace"), begin=plan.begin)


def heun_rows(number: int, level: Level, target: Level, last: bool) -> list[Row]:
    """An Euler row and, but for the last step, its corrector."""
    rows = [euler_row(number, level, target)]
    if not last:
        half = target.alpha * (level.ratio - target.ratio) / (2 * target.ratio)
        step = Step(target.alpha, target.sigma, 1.0, half, c_previous=-half)
        rows.append(make_row(number + 1, target, step))
    return rows


def churn_row(number: int, schedule: Schedule, level: Level, gamma: float, s_noise: float) -> tuple[Row, Level]:
    """The row that rises to (1 + gamma) r, and the level it reaches."""
    ratio = (1 + gamma) * level.ratio
    higher = level_at(schedule, ratio)
    c_noise = higher.alpha * math.sqrt(ratio**2 - level.ratio**2) * s_noise
    step = Step(level.alpha, level.sigma, higher.alpha / level.alpha, 0.0, c_noise=c_noise)
    return Row(level.t, step, evaluate=False, input_scale=level.input_scale, draws=True, level=number), higher


def _edm_levels(
    schedule: Schedule, plan: Plan, sigma_min: float | None, sigma_max: float | None, rho: float | None
) -> list[Level]:
    if isinstance(schedule, LogSNRSchedule):
        return schedule.levels(plan.num_inference_steps)
    if plan.timesteps is not None:
        return sigma_levels(schedule, plan)
    if isinstance(schedule, EDMSchedule):
        low, high, end = schedule.sigma_min, schedule.sigma_max, schedule.level(0.0)
        rho = schedule.rho if rho is None else rho
    else:
        low, high, end = float(schedule.sigmas[0]), float(schedule.sigmas[-1]), CLEAN
    rho = 7.0 if rho is None else rho
    low, high = low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max
    if not (0 < low <= high and rho > 0):
        raise ValueError(f"sigma_min {low:g}, sigma_max {high:g}, rho {rho:g}; expected 0 < sigma_min <= sigma_max")
    return [level_at(schedule, float(ratio)) for ratio in karras(low, high, plan.num_inference_steps, rho)] + [end]
