"""Where a run that is not a whole one begins and ends: image to image, and runs that two networks share."""

from __future__ import annotations

from pydiff.diffusion.checks import real, whole
from pydiff.diffusion.rows import StepTable


def begin_of_strength(num_inference_steps: int, strength: float) -> int:
    """The step to begin at so that the last `strength` (in (0, 1]) of the steps remain: image to image (Meng et al.
    2022, SDEdit). Raises ValueError when none does."""
    steps = whole("num_inference_steps", num_inference_steps, 1)
    share = real("strength", strength)
    if not 0 < share <= 1:
        raise ValueError(f"strength is {strength!r}; expected a number in (0, 1]")
    kept = min(int(steps * share), steps)
    if kept == 0:
        raise ValueError(
            f"strength {strength} of {steps} steps leaves none; use at least {1 / steps:.3g} or more steps"
        )
    return steps - kept


def timestep_cutoff(share: float, num_train_timesteps: int = 1000) -> int:
    """The training timestep at which `share` (in (0, 1)) of a run is done: between the networks of an ensemble of
    expert denoisers (Balaji et al. 2022, eDiff-I; Podell et al. 2023, section 2.5), the denoising_end of the one and
    the denoising_start of the other. Raises ValueError for other shares."""
    done = real("share of the run", share)
    if not 0 < done < 1:
        raise ValueError(f"the share of the run is {share!r}; expected a number between 0 and 1")
    return round(num_train_timesteps - done * num_train_timesteps)


def begin_below(table: StepTable, cutoff: float) -> int:
    """The step of a whole run's table to begin at so that the network is first told a t below `cutoff`; one that holds
    such a row only after its first begins there too. Raises ValueError when there is none."""
    below = sum(row.t < cutoff for row in table.rows)
    first = len(table.rows) - below
    begins = [k for k, start in enumerate(table.starts) if start <= first]
    if below == 0:
        raise ValueError(f"no step is told a timestep below {cutoff:g}; use more steps or begin earlier")
    return begins[-1]


def rows_above(table: StepTable, cutoff: float) -> int:
    """How many rows tell the network a t of at least `cutoff`: what `StepTable.until` keeps. Raises ValueError when
    none does."""
    above = sum(row.t >= cutoff for row in table.rows)
    if above == 0:
        raise ValueError(f"no step is told a timestep of {cutoff:g} or more; use more steps or end later")
    return above
