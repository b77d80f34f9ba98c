"""Euler steps of the probability flow, deterministic and ancestral (Karras et al. 2022; k-diffusion).

Written with r = sigma / alpha, where the flow is dx/dr = (x - D) / r for x of scale 1 / alpha.
"""

from __future__ import annotations

import math
from itertools import pairwise

from pydiff.diffusion.levels import Level, Schedule
from pydiff.diffusion.rows import Row, StepTable, ended, initial_scale, make_row, make_table, sigma_levels
from pydiff.diffusion.spacing import Plan
from pydiff.ops.guided_step import Step


def euler(
    schedule: Schedule,
    plan: Plan,
    *,
    sigmas: str = "schedule",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final_sigma: str = "zero",
) -> StepTable:
    """sigmas: "schedule", "karras" or "exponential" spacing, the latter two between sigma_min and sigma_max (ratios
    sigma / alpha). final_sigma: "zero" or "sigma_min"."""
    levels = ended(schedule, plan, sigma_levels(schedule, plan, sigmas, sigma_min, sigma_max, final_sigma))
    steps = [[euler_row(i, level, target)] for i, (level, target) in enumerate(pairwise(levels))]
    return make_table(steps, initial_scale(schedule, levels, plan.spacing), begin=plan.begin)


def euler_ancestral(schedule: Schedule, plan: Plan) -> StepTable:
    """Each step goes down to r'^2 / r without noise, then up to r' with it."""
    levels = ended(schedule, plan, sigma_levels(schedule, plan))
    steps = [[ancestral_row(i, level, target)] for i, (level, target) in enumerate(pairwise(levels))]
    return make_table(steps, initial_scale(schedule, levels, plan.spacing), begin=plan.begin)


def euler_row(number: int, level: Level, target: Level) -> Row:
    """x' = (s' / s) x + (a' - a s' / s) D."""
    c_x = target.sigma / level.sigma
    return make_row(number, level, Step(level.alpha, level.sigma, c_x, target.alpha - level.alpha * c_x))


def ancestral_row(number: int, level: Level, target: Level) -> Row:
    ratio, goal = level.ratio, target.ratio
    down = (goal / ratio) ** 2  # r_down / r
    up = goal * math.sqrt(max(1 - down, 0.0))
    c_x = target.alpha / level.alpha * down
    step = Step(level.alpha, level.sigma, c_x, target.alpha * (1 - down), c_noise=target.alpha * up)
    return make_row(number, level, step, draws=True)
