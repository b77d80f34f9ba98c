"""Conditioning augmentation: the low-res picture beside a super-resolution stage's x has noise of a level s, which the
network is told (Ho et al. 2021, Cascaded Diffusion Models, section 4).

Non-truncated: the stage before makes its picture, which is then noised to s. Truncated: the stage before is stopped
where its x is as noisy as that, and what it leaves, z_s, is the low-res picture; the steps below are saved. Of exact
networks both have the law q(z_s). But the paper's z_s is noised at the low resolution in both forms, and then enlarged;
Imagen's and DeepFloyd IF's networks, and the embedded ones, learned from pictures noised after they were enlarged.
Enlarging correlates the noise of z_s over neighbours and lowers its variance, to 4 / 9 of it in the mean where the
factor is large: such networks, truncated, see blotches that they take for the picture's own. Where the low-res picture
is not enlarged (the x4 upscaler of Stable Diffusion, whose latents are of its size) there is no such gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydiff.cascade import Stage
from pydiff.tasks.checks import integer, otherwise

NON_TRUNCATED, TRUNCATED = CONDITIONINGS = ("non_truncated", "truncated")
Values = Mapping[str, Any]  # a stage's options by name


def noise_level(stage: Stage, value: Any) -> int | None:
    """s, checked; None for a stage that takes no noised picture."""
    if stage.noising is not None:
        last = stage.traits.get("max_noise_level", len(stage.noising.alphas_cumprod) - 1)
        return integer("noise_level", otherwise(value, stage.defaults.noise_level), 0, last)
    if value is not None:
        raise ValueError(f"noise_level is {value!r} for a base stage, which takes no low-res picture; give it None")
    return None


def conditioning(stage: Stage, value: Any) -> str | None:
    """One of CONDITIONINGS, checked; None for a stage that takes no noised picture."""
    if stage.noising is None and value is not None:
        raise ValueError(f"conditioning is {value!r} for a base stage, which takes no low-res picture; give it None")
    if value is not None and value not in CONDITIONINGS:
        raise ValueError(f"conditioning is {value!r}; expected one of {', '.join(CONDITIONINGS)}")
    return None if stage.noising is None else otherwise(value, NON_TRUNCATED)


def ends(stages: Sequence[Stage], values: Sequence[Values], truncates: bool) -> list[float]:
    """The sigma / alpha at which each stage's run ends, 0 for a whole one: that of the next stage's noise level where
    it is truncated. truncates: whether the task can do that."""
    kinds = [conditioning(stage, of["conditioning"]) for stage, of in zip(stages, values, strict=True)]
    found = [0.0] * len(stages)
    for index, (stage, of, kind) in enumerate(zip(stages, values, kinds, strict=True)):
        if kind != TRUNCATED:
            continue
        if not truncates or index == 0:
            why = "has no stage before to stop" if truncates else "is of a task that needs finished pictures"
            raise ValueError(f"conditioning is {kind!r}, but stage {index + 1} {why}; give {NON_TRUNCATED!r} there")
        if stages[index - 1].codec is not None:
            raise ValueError(f"conditioning is {kind!r}, but the stage before stage {index + 1} walks through latents")
        if values[index - 1]["denoising_end"] is not None:
            raise ValueError(f"conditioning is {kind!r} and denoising_end is given: both end the stage; give one")
        level = noise_level(stage, of["noise_level"])
        assert stage.noising is not None
        assert level is not None
        found[index - 1] = stage.noising.level(level).ratio
    return found
