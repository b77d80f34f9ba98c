"""DPM-Solver++, multistep, of order 1 and 2, as ODE and as SDE (Lu et al. 2022, arXiv 2211.01095).

With l = log(alpha / sigma), h = l' - l and h0 = l - l_previous, order 2 adds m D1, D1 = (h / h0) (D - D_previous).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pydiff.diffusion.levels import Level, NoiseSchedule, Schedule
from pydiff.diffusion.rows import (
    Row,
    StepTable,
    check_sigma_options,
    ended,
    final_level,
    initial_scale,
    make_row,
    make_table,
    spaced_sigmas,
)
from pydiff.diffusion.spacing import Plan, spaced_timesteps
from pydiff.ops.guided_step import Step

SOLVER_TYPES = ("midpoint", "heun")
FEW_STEPS = 15  # below this, lower_order_final matters


class Solver(NamedTuple):
    order: int = 2
    kind: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    sde: bool = False


def dpmpp_2m(
    schedule: Schedule,
    plan: Plan,
    *,
    solver_order: int = 2,
    solver_type: str = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    sigmas: str = "schedule",
    final_sigma: str = "zero",
    lambda_min_clipped: float = -math.inf,
    round_down: bool = False,
) -> StepTable:
    """DPM-Solver++(2M). solver_type: "midpoint" or "heun". lower_order_final: the last of fewer than 15 steps is first
    order; it always is when final_sigma is "zero" or with euler_at_final. sigmas: "schedule", "karras" or
    "exponential", over the whole range of the schedule. lambda_min_clipped: levels whose log(alpha / sigma) is lower
    are not visited (cosine schedules: -5.1). round_down: Karras spacing tells the network t rounded down instead of to
    the nearest, as diffusers does for cosine schedules and always with exponential spacing."""
    levels = ended(schedule, plan, _levels(schedule, plan, sigmas, final_sigma, lambda_min_clipped, round_down))
    solver = Solver(solver_order, solver_type, lower_order_final, euler_at_final)
    return make_table(multistep_rows(levels, solver, plan.begin), initial_scale(schedule, levels), begin=plan.begin)


def dpmpp_2m_sde(
    schedule: Schedule,
    plan: Plan,
    *,
    solver_order: int = 2,
    solver_type: str = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    sigmas: str = "schedule",
    final_sigma: str = "zero",
    lambda_min_clipped: float = -math.inf,
    round_down: bool = False,
) -> StepTable:
    """SDE-DPM-Solver++(2M): as dpmpp_2m, with noise in every step."""
    levels = ended(schedule, plan, _levels(schedule, plan, sigmas, final_sigma, lambda_min_clipped, round_down))
    solver = Solver(solver_order, solver_type, lower_order_final, euler_at_final, sde=True)
    return make_table(multistep_rows(levels, solver, plan.begin), initial_scale(schedule, levels), begin=plan.begin)


def multistep_rows(levels: Sequence[Level], solver: Solver, begin: int = 0) -> list[list[Row]]:
    """The row of each step. The one that a run begins at has no earlier estimate to look back at."""
    if solver.order not in (1, 2):
        raise ValueError(f"solver_order is {solver.order!r}; expected 1 or 2")
    if solver.kind not in SOLVER_TYPES:
        raise ValueError(f"solver_type is {solver.kind!r}; expected one of {', '.join(SOLVER_TYPES)}")
    count = len(levels) - 1
    simple_end = solver.euler_at_final or levels[-1].sigma == 0 or (solver.lower_order_final and count < FEW_STEPS)
    steps = []
    for i, (level, target) in enumerate(pairwise(levels)):
        first_order = solver.order == 1 or i <= begin or (i == count - 1 and simple_end)
        earlier = None if first_order else levels[i - 1]
        steps.append([multistep_row(i, earlier, level, target, solver)])
    return steps


def multistep_row(number: int, earlier: Level | None, level: Level, target: Level, solver: Solver) -> Row:
    """x' = (s' / s) e^(-h z) x + g D + m D1 [+ s' sqrt(1 - e^(-2 h)) noise], z = 1 and g = a' (1 - e^(-2 h)) for the
    SDE, z = 0 and g = a' (1 - e^(-h)) for the ODE; m = g / 2 for the midpoint solver."""
    decay = target.ratio / level.ratio  # e^-h
    c_x = target.sigma / level.sigma
    share, c_noise = 1 - decay, 0.0
    if solver.sde:
        c_x *= decay
        share = 1 - decay**2
        c_noise = target.sigma * math.sqrt(share)
    c_denoised, c_previous = target.alpha * share, 0.0
    if earlier is not None:
        h, h0 = -math.log(decay), math.log(earlier.ratio / level.ratio)
        rate = 0.5 * share if solver.kind == "midpoint" or h == 0 else 1 - share / (2 * h if solver.sde else h)
        correction = target.alpha * rate * h / h0
        c_denoised, c_previous = c_denoised + correction, -correction
    step = Step(level.alpha, level.sigma, c_x, c_denoised, c_previous=c_previous, c_noise=c_noise)
    return make_row(number, level, step, draws=solver.sde)


def _levels(
    schedule: Schedule, plan: Plan, sigmas: str, final_sigma: str, lambda_min_clipped: float, round_down: bool
) -> list[Level]:
    check_sigma_options(schedule, plan, sigmas, final_sigma)
    if not isinstance(schedule, NoiseSchedule):
        return schedule.levels(plan.num_inference_steps)
    count, end = plan.num_inference_steps, final_level(schedule, final_sigma)
    if sigmas != "schedule":
        ratios = spaced_sigmas(sigmas, float(schedule.sigmas[0]), float(schedule.sigmas[-1]), count)
        whole = np.trunc if round_down or sigmas == "exponential" else np.round
        return [schedule.level_at(float(r), float(whole(schedule.timestep_at(float(r))))) for r in ratios] + [end]
    if plan.timesteps is not None:
        times = np.array(plan.timesteps)
    else:
        total = schedule.num_train_timesteps
        usable = int(np.count_nonzero(-np.log(schedule.sigmas) >= lambda_min_clipped))
        times = spaced_timesteps(total, count, plan.spacing, plan.steps_offset, open_end=True, usable=usable)
    return [schedule.level_at(float(schedule.sigmas[int(t)]), float(t)) for t in times] + [end]
