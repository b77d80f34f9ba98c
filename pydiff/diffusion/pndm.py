"""Pseudo numerical methods: linear multistep (PLMS), after Runge-Kutta steps or without (Liu et al. 2022).

What the network predicts (epsilon, v or x0) is combined over several evaluations, and the state is then transferred as
one DDIM step with that prediction would (equation 9): x' = a x + b sum_k w_k prediction_k. As prediction_k is
linear in x_k and D_k, a row holds the weights of its own x and D, and those of earlier evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from pydiff.diffusion.ddim import targets
from pydiff.diffusion.levels import Level, NoiseSchedule, Schedule
from pydiff.diffusion.rows import (
    Earlier,
    Row,
    StepTable,
    checked_begin,
    initial_scale,
    last_level,
    make_row,
    make_table,
    timestep_levels,
)
from pydiff.diffusion.spacing import Plan
from pydiff.ops.guided_step import Step

# Weights of a prediction and of those before it, newest first: Adams-Bashforth of order 1 to 4 (equation 12).
MULTISTEP = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
# Of the four evaluations of a Runge-Kutta step, newest first (equation 13).
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
WARM_UP = 3  # steps that are taken by Runge-Kutta, until PLMS has the three earlier predictions it needs


class Move(NamedTuple):
    """One evaluation, at noise level `number`, and the transfer after it: from the x that was evaluated `base`
    evaluations ago (0: this one), taken to be at `source`, to `target`. weights: (evaluations ago, weight)."""

    number: int
    level: Level
    source: Level
    target: Level
    weights: Sequence[tuple[int, float]]
    base: int = 0


def pndm(schedule: Schedule, plan: Plan, *, skip_prk_steps: bool = True, set_alpha_to_one: bool = False) -> StepTable:
    """N + 1 evaluations in N steps: the second timestep is evaluated twice, to take the first step again with the mean
    of both predictions. skip_prk_steps False: the first three steps are Runge-Kutta's, of four evaluations each, so
    that there are N + 9 in all, and N must be at least 4. set_alpha_to_one: the last step ends at a clean picture
    rather than at the level of t = 0.

    Every evaluation is a start. A run that begins late takes the same kinds of steps, counted from there, as in
    diffusers: its second evaluation repeats its first step too. Of a network that predicts v the vs are combined, as in
    diffusers, though they belong to different levels: such a run is of first order only.
    """
    if plan.end > 0:
        raise ValueError("pndm's weights are those of evenly spaced timesteps, so it cannot end between two; give ddim")
    levels = timestep_levels(schedule, plan, last_level(schedule, set_alpha_to_one))
    moves = plms_moves(schedule, plan, levels) if skip_prk_steps else prk_moves(schedule, plan, levels)
    steps = [[pndm_row(moves, i, schedule.prediction_type)] for i in range(len(moves))]
    return make_table(steps, initial_scale(schedule, levels))


def plms_moves(schedule: Schedule, plan: Plan, levels: Sequence[Level]) -> list[Move]:
    """Of a run that begins at evaluation plan.begin of [t0, t1, t1, t2, ...]."""
    below, above = targets(schedule, plan, levels), sources(schedule, plan, levels)
    count = len(levels) - 1
    numbers = [*range(min(count, 2)), *range(1, count)]
    moves = []
    for i, n in enumerate(numbers[checked_begin(plan.begin, len(numbers)) :]):
        if i == 1:
            moves.append(Move(n, levels[n], above[n], levels[n], ((0, 1 / 2), (1, 1 / 2)), base=1))
        else:
            kept = [0, *range(2, i + 1)]  # the repeated evaluation is not looked back at
            moves.append(Move(n, levels[n], levels[n], below[n], multistep(i, kept)))
    return moves


def prk_moves(schedule: Schedule, plan: Plan, levels: Sequence[Level]) -> list[Move]:
    """Three Runge-Kutta steps, then PLMS; of a run that begins late, by where its evaluations are counted from."""
    if not isinstance(schedule, NoiseSchedule) or plan.timesteps is not None or len(levels) <= WARM_UP + 1:
        raise ValueError(
            "skip_prk_steps=False needs evenly spaced training timesteps, at least 4 of them: give "
            "num_inference_steps of 4 or more, or skip_prk_steps=True"
        )
    stride = schedule.num_train_timesteps // plan.num_inference_steps
    visits = prk_visits([int(level.t) for level in levels[:-1]], stride // 2)

    def at(t: int) -> Level:
        return schedule.level(t) if t >= 0 else levels[-1]

    moves = []
    for i, (n, t) in enumerate(visits[checked_begin(plan.begin, len(visits)) :]):
        stage = i % 4
        if i < 4 * WARM_UP:
            _, first = visits[i - stage]
            target = t if stage % 2 else t - stride // 2
            weights = [*enumerate(RUNGE_KUTTA)] if stage == 3 else [(0, 1.0)]
            moves.append(Move(n, at(t), at(first), at(target), weights, base=stage))
        else:
            kept = [*range(0, 4 * WARM_UP, 4), *range(4 * WARM_UP, i + 1)]
            moves.append(Move(n, at(t), at(t), at(t - stride), multistep(i, kept)))
    return moves


def prk_visits(times: Sequence[int], half: int) -> list[tuple[int, int]]:
    """(noise level, timestep) of every evaluation: four in each step of the warm-up, at t, twice between t and the next
    timestep, and there; then one at each."""
    visits = []
    for n, (t, after) in enumerate(pairwise(times[: WARM_UP + 1])):
        visits += [(n, t), (n, after + half), (n, after + half), (n + 1, after)]
    return visits + [*enumerate(times)][WARM_UP:]


def sources(schedule: Schedule, plan: Plan, levels: Sequence[Level]) -> Sequence[Level]:
    """Where a step to each level comes from, but for the first level: the reverse of ddim's targets."""
    if not isinstance(schedule, NoiseSchedule) or plan.timesteps is not None:
        return [levels[0], *levels[:-1]]
    stride = schedule.num_train_timesteps // plan.num_inference_steps
    return [levels[0], *(schedule.level(int(level.t) + stride) for level in levels[1:-1])]


def multistep(index: int, kept: Sequence[int]) -> list[tuple[int, float]]:
    """The weights at evaluation `index`, which is the last of those that are kept."""
    recent = kept[: -len(MULTISTEP) - 1 : -1]
    return [(index - k, weight) for k, weight in zip(recent, MULTISTEP[len(recent) - 1], strict=True)]


def pndm_row(moves: Sequence[Move], index: int, prediction_type: str) -> Row:
    move = moves[index]
    of_x, of_prediction = transfer(move.source, move.target, prediction_type)
    weights = dict(move.weights)
    terms = []
    for back in sorted({0, move.base, *weights}):
        p_x, p_denoised = prediction(moves[index - back].level, prediction_type)
        share = of_prediction * weights.get(back, 0.0)
        terms.append(Earlier(back, share * p_x + (of_x if back == move.base else 0.0), share * p_denoised))
    now, *history = terms
    level = move.level
    step = Step(level.alpha, level.sigma, now.c_x, now.c_denoised, c_previous=1.0 if history else 0.0)
    return make_row(move.number, level, step)._replace(history=tuple(history))


def prediction(level: Level, prediction_type: str) -> tuple[float, float]:
    """The weights of x and D that make the network's prediction at a level."""
    alpha, sigma = level.alpha, level.sigma
    if prediction_type == "epsilon":
        return 1 / sigma, -alpha / sigma
    return (alpha / sigma, -1 / sigma) if prediction_type == "v_prediction" else (0.0, 1.0)


def transfer(source: Level, target: Level, prediction_type: str) -> tuple[float, float]:
    """The weights of x and of a prediction in a DDIM step between two levels (equation 9)."""
    alpha, sigma = source.alpha, source.sigma
    if prediction_type == "epsilon":
        return target.alpha / alpha, target.sigma - sigma * target.alpha / alpha
    if prediction_type == "v_prediction":
        return alpha * target.alpha + sigma * target.sigma, alpha * target.sigma - sigma * target.alpha
    return target.sigma / sigma, target.alpha - alpha * target.sigma / sigma
