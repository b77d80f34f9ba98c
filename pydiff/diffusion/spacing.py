"""Which levels a run visits: spacings of training timesteps, respacing strings, and spacings of sigma."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

SPACINGS = ("leading", "linspace", "trailing")

# How many timesteps are kept of each equal section of the training timesteps, lowest section first (DeepFloyd IF).
RESPACINGS = {
    "fast27": "10,10,3,2,2",
    "smart27": "7,4,2,1,2,4,7",
    "smart50": "10,6,4,3,2,2,3,4,6,10",
    "smart100": "1,1,1,1,2,2,2,2,2,2,3,3,4,4,5,5,6,7,7,8,9,10,13",
    "smart185": "1,1,2,2,2,3,3,3,4,5,6,7,8,9,10,11,12,13,14,15,16,18,20",
    "super27": "1,1,1,1,1,1,1,2,5,13",
    "super40": "2,2,2,2,2,2,3,4,6,15",
    "super100": "4,4,6,6,8,8,10,10,14,30",
}


class Plan(NamedTuple):
    """What was asked for: a number of steps with a spacing, or the timesteps themselves (never both). begin: the step
    that the run begins at; end: the sigma / alpha that it ends at, 0 for a whole run."""

    num_inference_steps: int
    timesteps: tuple[int, ...] | None
    spacing: str
    steps_offset: int = 0
    begin: int = 0
    end: float = 0.0


def spaced_timesteps(
    num_train_timesteps: int,
    num_inference_steps: int,
    spacing: str = "leading",
    steps_offset: int = 0,
    *,
    rounded: bool = True,
    open_end: bool = False,
    usable: int | None = None,
) -> np.ndarray:
    """num_inference_steps timesteps, descending, float64 (Lin et al. 2023, table 2).

    spacing: "leading", "linspace" or "trailing". rounded: linspace gives whole timesteps. open_end: the grid has one
    more point, its lowest, which is not visited (DPM-Solver). usable: only the first so many timesteps are visited
    (all by default); trailing spacing then has fewer of them. Raises ValueError when the list would leave [0, T) or
    repeat a timestep.
    """
    t, n = num_train_timesteps, num_inference_steps
    top = t if usable is None else usable
    points = n + 1 if open_end else n
    if spacing == "linspace":
        times = np.linspace(0, top - 1, points)[::-1][:n]
        times = np.round(times) if rounded else times
    elif spacing == "leading":
        times = (np.arange(points) * (top // points)).astype(np.float64)[::-1][:n] + steps_offset
    elif spacing == "trailing":
        times = np.round(np.arange(top, 0, -t / n))[:n] - 1
    else:
        raise ValueError(f"spacing {spacing!r} is unknown; expected one of {', '.join(SPACINGS)}")
    if times[0] >= t or times[-1] < 0 or (np.diff(times) >= 0).any():
        raise ValueError(
            f"{n} steps with {spacing} spacing and offset {steps_offset} do not fit {t} training timesteps; "
            "use fewer steps, a smaller offset or another spacing"
        )
    return times


def respaced(respacing: str, num_train_timesteps: int = 1000) -> tuple[int, ...]:
    """Descending timesteps of a respacing string: a name in RESPACINGS, or counts per section such as "10,10,3,2,2".

    The training timesteps are cut into as many equal sections as there are counts, and each section is strided evenly
    from its first to its last timestep (Nichol and Dhariwal 2021, section 4). Raises ValueError for anything else.
    """
    text = RESPACINGS.get(respacing, respacing)
    try:
        counts = [int(count) for count in text.split(",")]
    except ValueError:
        names = ", ".join(RESPACINGS)
        raise ValueError(
            f"respacing {respacing!r} is unknown; expected one of {names} or counts like '10,10,3'"
        ) from None
    share, extra = divmod(num_train_timesteps, len(counts))
    times: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = share + (section < extra)
        if not 1 <= count <= size:
            raise ValueError(f"respacing {respacing!r} takes {count} timesteps of a section of {size}")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        offset = 0.0
        for _ in range(count):
            times.append(start + round(offset))
            offset += stride  # summed, not multiplied: ties round as in the published lists
        start += size
    return tuple(reversed(times))


def checked_timesteps(timesteps: str | Sequence[int], num_train_timesteps: int) -> tuple[int, ...]:
    """Custom timesteps as a tuple of ints; ValueError unless they descend strictly within [0, T)."""
    if isinstance(timesteps, str):
        return respaced(timesteps, num_train_timesteps)
    given: list[Any] = list(timesteps) if isinstance(timesteps, Iterable) else []
    if not given or any(isinstance(t, bool) or not isinstance(t, numbers.Real) or t % 1 for t in given):
        raise ValueError(f"timesteps {timesteps!r} are not a list of integers")
    times = [int(t) for t in given]
    if any(later >= earlier for earlier, later in pairwise(times)):
        raise ValueError(f"timesteps {times} do not descend; list them from the noisiest to the cleanest, each once")
    if times[0] >= num_train_timesteps or times[-1] < 0:
        raise ValueError(f"timesteps run from {times[0]} to {times[-1]}; expected [0, {num_train_timesteps})")
    return tuple(times)


def karras(sigma_min: float, sigma_max: float, count: int, rho: float = 7.0) -> np.ndarray:
    """`count` sigmas from sigma_max down to sigma_min, even in sigma^(1 / rho) (Karras et al. 2022, equation 5)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas: np.ndarray = (high + np.linspace(0, 1, count) * (low - high)) ** rho
    return sigmas


def exponential(sigma_min: float, sigma_max: float, count: int) -> np.ndarray:
    """`count` sigmas from sigma_max down to sigma_min, even in log sigma."""
    return np.exp(np.linspace(np.log(sigma_max), np.log(sigma_min), count))
