"""Guidance as a table: for every noise level one row of weights over the branches of conditioning.

The guided prediction is sum_b w_b * prediction_b. A branch whose weight is 0 at a level is not evaluated there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pydiff.diffusion.checks import real
from pydiff.diffusion.rows import StepTable

Scale = float | Sequence[float] | Callable[[int, int], float]


class Guidance(NamedTuple):
    """weights[level][branch]; rescale: phi in [0, 1] of guidance rescaling (Lin et al. 2023, section 3.4)."""

    weights: tuple[tuple[float, ...], ...]
    rescale: float = 0.0

    def active(self, level: int, first: bool = False) -> tuple[int, ...]:
        """The branches to evaluate at a level; `first` asks for branch 0 whatever its weight."""
        row = self.weights[level]
        return tuple(b for b, w in enumerate(row) if w != 0 or (b == 0 and (first or self.rescale > 0)))


def make_guidance(weights: Sequence[Sequence[float]], rescale: float = 0.0) -> Guidance:
    """Rows of weights, one per noise level, checked: equally long, finite, never all 0."""
    rows = tuple(tuple(float(w) for w in row) for row in weights)
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("guidance weights must be one row per noise level, each with one weight per branch")
    for level, row in enumerate(rows):
        if not all(math.isfinite(w) for w in row):
            raise ValueError(f"guidance weights {row} at level {level} are not finite")
        if not any(row):
            raise ValueError(f"guidance weights {row} at level {level} are all 0: nothing would be predicted")
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance rescale is {rescale!r}; expected a number in [0, 1]")
    return Guidance(rows, float(rescale))


def unguided(levels: int) -> Guidance:
    """One branch."""
    return make_guidance([[1.0]] * levels)


def classifier_free(scale: Scale, levels: int, *, rescale: float = 0.0) -> Guidance:
    """[s, 1 - s] over [text, null] (Ho and Salimans 2022, in the convention of Imagen: 1 is no guidance).

    scale: a number, one number per level, or a function (level, levels) -> number.
    """
    return make_guidance([[s, 1 - s] for s in per_level("guidance_scale", scale, levels)], rescale)


def instruct(text_scale: Scale, image_scale: Scale, levels: int, *, rescale: float = 0.0) -> Guidance:
    """[s_T, s_I - s_T, 1 - s_I] over [text and image, image, null] (Brooks et al. 2023, equation 3)."""
    text = per_level("guidance_scale", text_scale, levels)
    image = per_level("image_guidance_scale", image_scale, levels)
    return make_guidance([[t, i - t, 1 - i] for t, i in zip(text, image, strict=True)], rescale)


def perturbed(guidance: Guidance, scales: Sequence[float]) -> Guidance:
    """[w_0 + p, w_1, ..., -p]: one more branch, branch 0 with perturbed attention, away from which the prediction is
    led (Ahn et al. 2024, Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance). scales: p per level."""
    rows = zip(guidance.weights, scales, strict=True)
    return make_guidance([[row[0] + p, *row[1:], -p] for row, p in rows], guidance.rescale)


def fading(scales: Sequence[float], fade: float, times: Sequence[float]) -> list[float]:
    """max(0, p - fade (1000 - t)) at every level, as diffusers' pag_adaptive_scale: less of it as t falls."""
    return [max(0.0, p - fade * (1000 - t)) for p, t in zip(scales, times, strict=True)]


def oscillating(high: float, low: float = 1.0, *, constant: float = 0.1) -> Callable[[int, int], float]:
    """A scale that is `high` for the first `constant` share of the levels, then alternates low and high
    (Ho et al. 2022, Imagen Video, section 2.5)."""
    if not 0 <= constant <= 1:
        raise ValueError(f"constant is {constant!r}; expected a share in [0, 1]")

    def scale(level: int, levels: int) -> float:
        after = level - math.ceil(constant * levels)
        return low if after >= 0 and after % 2 == 0 else high

    return scale


def limited(scale: Scale, start: float = 0.0, stop: float = 1.0) -> Callable[[int, int], float]:
    """`scale` at levels int(start * levels) <= level < int(stop * levels), elsewhere 1, which is no guidance
    (Kynkäänniemi et al. 2024)."""
    if not 0 <= start <= stop <= 1:
        raise ValueError(f"start {start!r} and stop {stop!r} do not fit; expected 0 <= start <= stop <= 1")

    def limited_scale(level: int, levels: int) -> float:
        inside = int(start * levels) <= level < int(stop * levels)
        return per_level("guidance_scale", scale, levels)[level] if inside else 1.0

    return limited_scale


def noise_shares(table: StepTable) -> list[float]:
    """How noisy x is at every noise level of a run, from 0, a clean picture, to 1, noise alone: the angle of Salimans
    and Ho 2022 (Progressive Distillation, appendix D), atan(sigma / alpha), as a share of a right angle."""
    shares = dict.fromkeys(range(table.levels), 0.0)
    shares |= {
        row.level: math.atan2(row.step.sigma, row.step.alpha) * 2 / math.pi
        for row in reversed(table.rows)
        if row.evaluate
    }
    return list(shares.values())


def within(guidance: Guidance, shares: Sequence[float], low: float, high: float) -> Guidance:
    """Guidance at the levels whose share of noise is in (low, high], branch 0 alone at the others, where no other one
    is evaluated (Kynkäänniemi et al. 2024, Applying Guidance in a Limited Interval, section 3: sigma in (sigma_lo,
    sigma_hi]; a sigma of theirs, where alpha is 1, is a share of 2 atan(sigma) / pi)."""
    alone = (1.0, *(0.0 for _ in guidance.weights[0][1:]))
    rows = zip(guidance.weights, shares, strict=True)
    return make_guidance([row if low < share <= high else alone for row, share in rows], guidance.rescale)


def per_level(name: str, scale: Scale, levels: int) -> list[float]:
    """A scale as one finite number per level. Raises ValueError for anything else."""
    given: Any = scale
    if callable(given):
        given = [given(level, levels) for level in range(levels)]
    elif isinstance(given, str) or not isinstance(given, Iterable):
        given = [given] * levels
    else:
        given = list(given)
        if len(given) != levels:
            raise ValueError(f"{name} lists {len(given)} numbers, but the run has {levels} noise levels")
    values = [real(f"{name} at level {level}", value) for level, value in enumerate(given)]
    for level, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value} at level {level}; expected a finite number")
    return values
