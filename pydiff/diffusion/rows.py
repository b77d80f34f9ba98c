"""The step table: what every sampler is turned into, and the levels that samplers fill it from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pydiff.arrays import Array, cast, wide
from pydiff.diffusion.checks import whole
from pydiff.diffusion.levels import CLEAN, EDMSchedule, Level, NoiseSchedule, Schedule
from pydiff.diffusion.spacing import Plan, exponential, karras, spaced_timesteps
from pydiff.ops.guided_step import Step

SIGMA_SPACINGS = ("schedule", "karras", "exponential")
FINAL_SIGMAS = ("zero", "sigma_min")
AT_THE_END = 1 + 1e-6  # times the sigma / alpha that a run ends at: levels below that are taken to be there


class Earlier(NamedTuple):
    """What a row takes of the evaluation `back` (at least 1) evaluations before its own: c_x x + c_denoised D."""

    back: int
    c_x: float
    c_denoised: float


class Row(NamedTuple):
    """One step of the loop.

    t: what the network is told; with a NoiseSchedule, the training timestep. evaluate: False for rows that only scale
    and add noise. input_scale: the network sees input_scale x. draws: whether noise is drawn, even where its
    coefficient is 0, so that the random stream stays that of diffusers. level: the number of the noise level, from 0 at
    the noisiest; guidance and edits are indexed by it. history: earlier evaluations whose sum stands in the place of
    D_previous, with c_previous = 1.
    """

    t: float
    step: Step
    evaluate: bool = True
    input_scale: float = 1.0
    draws: bool = False
    level: int = 0
    history: tuple[Earlier, ...] = ()


class StepTable(NamedTuple):
    """All rows of a run. x_T = initial_scale * noise for a run from pure noise; one that begins later starts from
    `noised`.

    starts: the row at which each inference step begins. linear_variance: the network's variance channels hold the
    variance itself instead of its logarithm or a position between two logarithms.
    """

    rows: tuple[Row, ...]
    initial_scale: float
    starts: tuple[int, ...] = ()
    linear_variance: bool = False

    @property
    def levels(self) -> int:
        """How many noise levels the rows are numbered by."""
        return 1 + max(row.level for row in self.rows)

    @property
    def evaluations(self) -> int:
        return sum(row.evaluate for row in self.rows)

    @property
    def memory(self) -> int:
        """How many evaluations the rows look back, D_previous aside."""
        return max((earlier.back for row in self.rows for earlier in row.history), default=0)

    def noised(self, x0: Array, noise: Array, row: int = 0) -> Array:
        """x0 and noise (B, C, H, W) at the level of a row, by default the first: alpha x0 + sigma noise, in x0's type.

        Where image to image starts (Meng et al. 2022, SDEdit), and what inpainting pastes before a row. Raises
        ValueError when the shapes differ or there is no such row.
        """
        if x0.shape != noise.shape:
            raise ValueError(f"noise is {tuple(noise.shape)}; expected the shape of x0, {tuple(x0.shape)}")
        if not 0 <= row < len(self.rows):
            raise ValueError(f"row is {row!r}; the table has rows 0 to {len(self.rows) - 1}")
        step, clean = self.rows[row].step, wide(x0)
        return cast(step.alpha * clean + step.sigma * cast(noise, clean.dtype), x0.dtype)

    def until(self, count: int) -> StepTable:
        """The first `count` rows, unchanged: a run that ends early, its x still noisy, for another network to go on
        from. Raises ValueError unless count is at least 1; one beyond the last row changes nothing."""
        whole("count of rows", count, 1)
        return self._replace(rows=self.rows[:count], starts=tuple(start for start in self.starts if start < count))


def make_table(
    steps: Sequence[Sequence[Row]], initial_scale: float, linear_variance: bool = False, *, begin: int = 0
) -> StepTable:
    """The table of these inference steps, each a list of rows, from step `begin` on. Raises ValueError when there is
    no such step."""
    starts, count = [], 0
    steps = steps[checked_begin(begin, len(steps)) :]
    for rows in steps:
        starts.append(count)
        count += len(rows)
    return StepTable(tuple(row for rows in steps for row in rows), initial_scale, tuple(starts), linear_variance)


def make_row(number: int, level: Level, step: Step, draws: bool = False) -> Row:
    """A row that evaluates the network at `level`."""
    return Row(level.t, step, input_scale=level.input_scale, draws=draws, level=number)


def rising_row(level: Level, higher: Level, number: int = 0) -> Row:
    """Forward diffusion from `level` to a noisier one in one draw: x' = r x + sqrt(s'^2 - r^2 s^2) noise, r = a'/a.

    RePaint's resampling (Lugmayr et al. 2022, equation 8) jumps several timesteps up with one such row, whose law is
    that of the single jumps. Raises ValueError when `higher` is not noisier.
    """
    scale = higher.alpha / level.alpha
    variance = higher.sigma**2 - (scale * level.sigma) ** 2
    if variance <= 0:
        raise ValueError(f"cannot rise from sigma {level.sigma:g} to {higher.sigma:g}: the target must be noisier")
    step = Step(level.alpha, level.sigma, scale, 0.0, c_noise=math.sqrt(variance))
    return Row(level.t, step, evaluate=False, draws=True, level=number)


def checked_begin(begin: int, steps: int) -> int:
    if whole("begin", begin, 0) >= steps:
        raise ValueError(f"begin is {begin}, but the run has {steps} steps to begin at, counted from 0")
    return begin


def level_at(schedule: Schedule, ratio: float) -> Level:
    """The level whose sigma / alpha is `ratio`, above 0."""
    if isinstance(schedule, EDMSchedule):
        return schedule.level(ratio)
    if isinstance(schedule, NoiseSchedule):
        return schedule.level_at(ratio)
    alpha = 1 / math.sqrt(1 + ratio * ratio)
    return Level(alpha, ratio * alpha, -2 * math.log(ratio))


def ended(schedule: Schedule, plan: Plan, levels: Sequence[Level]) -> list[Level]:
    """The levels of a run that ends at plan.end: those that are noisier, and that one (Ho et al. 2021, Cascaded
    Diffusion Models, section 4.1, truncated conditioning augmentation). Raises ValueError when no step is left."""
    if plan.end == 0:
        return list(levels)
    end = level_at(schedule, plan.end)
    above = [level for level in levels if level.sigma * end.alpha > AT_THE_END * end.sigma * level.alpha]
    if len(above) <= plan.begin:
        raise ValueError(
            f"the run is to end at sigma / alpha = {plan.end:.3g}, above which none of its steps is left to begin at; "
            "end it at less noise, or take more steps"
        )
    return [*above, end]


def timestep_levels(schedule: Schedule, plan: Plan, last: Level = CLEAN) -> list[Level]:
    """The levels of whole timesteps and the final one, num_inference_steps + 1 in all."""
    if not isinstance(schedule, NoiseSchedule):
        return schedule.levels(plan.num_inference_steps)
    times: Sequence[float] | np.ndarray
    if plan.timesteps is not None:
        times = plan.timesteps
    else:
        times = spaced_timesteps(
            schedule.num_train_timesteps, plan.num_inference_steps, plan.spacing, plan.steps_offset
        )
    return [schedule.level(int(t)) for t in times] + [last]


def sigma_levels(
    schedule: Schedule,
    plan: Plan,
    sigmas: str = "schedule",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final_sigma: str = "zero",
) -> list[Level]:
    """The levels that samplers in sigma / alpha visit: fractional timesteps, or Karras or exponential spacing between
    sigma_min and sigma_max (by default the ends of the spaced timesteps); num_inference_steps + 1 in all."""
    check_sigma_options(schedule, plan, sigmas, final_sigma)
    if not isinstance(schedule, NoiseSchedule):
        return schedule.levels(plan.num_inference_steps)
    count = plan.num_inference_steps
    times: np.ndarray
    if plan.timesteps is not None:
        times = np.array(plan.timesteps, dtype=np.float64)
    else:
        times = spaced_timesteps(schedule.num_train_timesteps, count, plan.spacing, plan.steps_offset, rounded=False)
    ratios = np.interp(times, np.arange(schedule.num_train_timesteps), schedule.sigmas)
    if sigmas == "schedule":
        levels = [schedule.level_at(float(ratio), float(t)) for ratio, t in zip(ratios, times, strict=True)]
    else:
        low = float(ratios[-1]) if sigma_min is None else sigma_min
        high = float(ratios[0]) if sigma_max is None else sigma_max
        levels = [schedule.level_at(float(ratio)) for ratio in spaced_sigmas(sigmas, low, high, count)]
    return [*levels, final_level(schedule, final_sigma)]


def spaced_sigmas(sigmas: str, low: float, high: float, count: int) -> np.ndarray:
    if not 0 < low <= high:
        raise ValueError(f"sigma_min {low:g} and sigma_max {high:g} do not fit; expected 0 < sigma_min <= sigma_max")
    return karras(low, high, count) if sigmas == "karras" else exponential(low, high, count)


def last_level(schedule: Schedule, set_alpha_to_one: bool) -> Level:
    """Where a run of whole timesteps ends: at a clean picture, or at the level of t = 0."""
    if isinstance(schedule, NoiseSchedule) and not set_alpha_to_one:
        return schedule.level(0)
    return CLEAN


def final_level(schedule: NoiseSchedule, final_sigma: str) -> Level:
    return CLEAN if final_sigma == "zero" else schedule.level_at(float(schedule.sigmas[0]), 0.0)


def initial_scale(schedule: Schedule, levels: Sequence[Level], spacing: str | None = None) -> float:
    """The scale of x_T: 1, or for samplers in sigma / alpha, which give their spacing, that of diffusers."""
    if isinstance(schedule, EDMSchedule):
        return levels[0].sigma
    if isinstance(schedule, NoiseSchedule) and spacing in ("linspace", "trailing"):
        return levels[0].sigma
    return 1.0


def check_sigma_options(schedule: Schedule, plan: Plan, sigmas: str, final_sigma: str) -> None:
    if sigmas not in SIGMA_SPACINGS:
        raise ValueError(f"sigmas is {sigmas!r}; expected one of {', '.join(SIGMA_SPACINGS)}")
    if final_sigma not in FINAL_SIGMAS:
        raise ValueError(f"final_sigma is {final_sigma!r}; expected one of {', '.join(FINAL_SIGMAS)}")
    if sigmas != "schedule" and plan.timesteps is not None:
        raise ValueError(f"timesteps and sigmas={sigmas!r} both choose the levels; give one of them")
    if not isinstance(schedule, NoiseSchedule) and (sigmas != "schedule" or final_sigma != "zero"):
        raise ValueError(f"{type(schedule).__name__} has its own levels; sigmas and final_sigma do not apply")
