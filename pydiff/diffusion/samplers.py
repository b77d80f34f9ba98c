"""Every sampler by name, and the one function that turns a name, a schedule and a number of steps into a step table."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pydiff.diffusion.checks import real, whole
from pydiff.diffusion.ddim import ddim
from pydiff.diffusion.ddpm import ddpm
from pydiff.diffusion.dpm import dpmpp_2m, dpmpp_2m_sde
from pydiff.diffusion.euler import euler, euler_ancestral
from pydiff.diffusion.heun import edm, heun
from pydiff.diffusion.levels import NoiseSchedule, Schedule
from pydiff.diffusion.pndm import pndm
from pydiff.diffusion.rows import StepTable
from pydiff.diffusion.spacing import SPACINGS, Plan, checked_timesteps

NO_SIGNAL = (
    "the first level holds no signal (zero terminal SNR), where a prediction of epsilon says nothing about the "
    "picture; use a v_prediction network, or timesteps that start lower"
)


class Sampler(NamedTuple):
    """table(schedule, plan, **options) fills the rows; spacing is what diffusers' scheduler of that name has."""

    table: Callable[..., StepTable]
    spacing: str

    @property
    def options(self) -> dict[str, Any]:
        """The sampler's own options with their defaults."""
        parameters = inspect.signature(self.table).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


SAMPLERS = {
    "ddpm": Sampler(ddpm, "leading"),
    "ddim": Sampler(ddim, "leading"),
    "pndm": Sampler(pndm, "leading"),
    "euler": Sampler(euler, "linspace"),
    "euler_ancestral": Sampler(euler_ancestral, "linspace"),
    "dpmpp_2m": Sampler(dpmpp_2m, "linspace"),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde, "linspace"),
    "heun": Sampler(heun, "linspace"),
    "edm": Sampler(edm, "linspace"),
}


def step_table(
    sampler: str,
    schedule: Schedule,
    num_inference_steps: int | None = None,
    *,
    timesteps: str | Sequence[int] | None = None,
    spacing: str | None = None,
    steps_offset: int = 0,
    begin: int = 0,
    end: float = 0.0,
    **options: Any,
) -> StepTable:
    """All rows of a run.

    sampler: a name in SAMPLERS. Either num_inference_steps (>= 1), or timesteps: descending training timesteps, the
    name of a respacing ("smart50") or its counts ("10,10,3,2,2"). spacing: "leading", "linspace" or "trailing", by
    default what diffusers uses for this sampler; steps_offset shifts leading spacing. begin: the step to begin at, with
    nothing remembered of those before it (image to image; see `begin_of_strength`, `begin_below`); rows keep the
    numbers of the whole run's noise levels. end: the sigma / alpha at which the run ends, its x still that noisy: the
    last step leads exactly there (pndm has no such steps). options: the sampler's own, as documented on its function
    (ddpm, ddim, pndm, euler, ...). Raises ValueError for anything unknown or that does not fit.
    """
    chosen = find_sampler(sampler)
    _check_options(sampler, chosen, options)
    if not 0 <= (end := real("end", end)) < math.inf:
        raise ValueError(f"end is {end}; expected sigma / alpha, at least 0")
    plan = _plan(chosen, schedule, num_inference_steps, timesteps, spacing, steps_offset)
    plan = plan._replace(begin=begin, end=end)
    try:
        table = chosen.table(schedule, plan, **options)
    except ZeroDivisionError as error:  # by alpha
        raise ValueError(NO_SIGNAL) from error
    if schedule.prediction_type == "epsilon" and any(row.evaluate and row.step.alpha == 0 for row in table.rows):
        raise ValueError(NO_SIGNAL)
    return table


def find_sampler(name: str) -> Sampler:
    if not isinstance(name, str) or name not in SAMPLERS:
        raise ValueError(f"sampler {name!r} is unknown; expected one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def _check_options(name: str, sampler: Sampler, options: dict[str, Any]) -> None:
    known = sampler.options
    for option, value in options.items():
        if option not in known:
            expected = ", ".join(known) or "none"
            raise ValueError(f"sampler {name!r} has no option {option!r}; its options are: {expected}")
        _check_kind(f"option {option!r} of sampler {name!r}", value, known[option])


def _check_kind(name: str, value: Any, default: Any) -> None:
    """That a value is of its default's kind: a bool, a name, or a number (None only where that is the default)."""
    if isinstance(default, (bool, str)):
        if type(value) is not type(default):
            expected = "True or False" if isinstance(default, bool) else "a name"
            raise ValueError(f"{name} is {value!r}; expected {expected}")
    elif (value is not None or default is not None) and math.isnan(real(name, value)):
        raise ValueError(f"{name} is NaN; expected a number")


def _plan(
    sampler: Sampler,
    schedule: Schedule,
    steps: int | None,
    timesteps: str | Sequence[int] | None,
    spacing: str | None,
    steps_offset: int,
) -> Plan:
    spacing = sampler.spacing if spacing is None else spacing
    if spacing not in SPACINGS:
        raise ValueError(f"spacing {spacing!r} is unknown; expected one of {', '.join(SPACINGS)}")
    steps_offset = whole("steps_offset", steps_offset, 0)
    if (steps is None) == (timesteps is None):
        raise ValueError("give either num_inference_steps or timesteps, and not both")
    if timesteps is not None:
        if not isinstance(schedule, NoiseSchedule):
            raise ValueError(f"{type(schedule).__name__} is continuous; give num_inference_steps instead of timesteps")
        times = checked_timesteps(timesteps, schedule.num_train_timesteps)
        return Plan(len(times), times, spacing, steps_offset)
    steps = whole("num_inference_steps", steps, 1)
    if isinstance(schedule, NoiseSchedule) and steps > schedule.num_train_timesteps:
        raise ValueError(
            f"num_inference_steps is {steps}, but the network was trained on {schedule.num_train_timesteps} timesteps; "
            "use at most that many"
        )
    return Plan(steps, None, spacing, steps_offset)
