"""How a stage is guided: which branches its network is evaluated on, with which weights, at every noise level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydiff.cascade import INSTRUCT, Stage
from pydiff.diffusion.guidance import Guidance, classifier_free, instruct, noise_shares, per_level, unguided, within
from pydiff.diffusion.rows import StepTable
from pydiff.nn.edit import Layers
from pydiff.tasks.checks import is_list, number, otherwise
from pydiff.tasks.perturbed import plan_perturbed


class GuidedPlan(NamedTuple):
    """guidance: the table; perturbed: the layers that its last branch perturbs, if there is such a branch; said: what a
    caller says to have the same."""

    guidance: Guidance
    perturbed: Layers | None
    said: dict[str, Any]


def plan_guidance(stage: Stage, values: Mapping[str, Any], table: StepTable) -> GuidedPlan:
    """A stage's options of guidance. Raises ValueError for what is out of range, and for what it is not guided by."""
    levels = table.levels
    scale = _scale("guidance_scale", otherwise(values["guidance_scale"], stage.defaults.guidance_scale), levels)
    rescale = number("guidance_rescale", otherwise(values["guidance_rescale"], 0.0), 0, 1)
    image_scale = _image_scale(stage, values["image_guidance_scale"], levels)
    pag_scale = _scale("pag_scale", otherwise(values["pag_scale"], 0.0), levels)
    pag = plan_perturbed(stage, pag_scale, values["pag_adaptive_scale"], values["pag_layers"], table)
    guidance = make_guidance(scale, image_scale, levels, rescale)
    interval = _interval(values["guidance_interval"], guidance)
    if interval is not None:
        guidance = within(guidance, noise_shares(table), *interval)
    said = {
        "guidance_scale": scale,
        "image_guidance_scale": image_scale,
        "guidance_rescale": rescale,
        "guidance_interval": interval,
        **pag.said,
    }
    return GuidedPlan(pag.applied(_narrowed(guidance)), pag.layers, said)


def make_guidance(scale: Any, image_scale: Any, levels: int, rescale: float) -> Guidance:
    """Guidance over [text, null], over [text, image, null] with an image scale; one branch where nothing is guided.

    As in diffusers a scale of at most 1 is no guidance, and an image scale below 1 turns all of it off.
    """
    if image_scale is None:
        scales = [max(1.0, value) for value in per_level("guidance_scale", scale, levels)]
        guidance = classifier_free(scales, levels, rescale=rescale)
    else:
        texts, images = (
            per_level("guidance_scale", scale, levels),
            per_level("image_guidance_scale", image_scale, levels),
        )
        on = [text > 1 and image >= 1 for text, image in zip(texts, images, strict=True)]
        texts, images = ([s if use else 1.0 for s, use in zip(given, on, strict=True)] for given in (texts, images))
        guidance = instruct(texts, images, levels, rescale=rescale)
    return _narrowed(guidance)


def _narrowed(guidance: Guidance) -> Guidance:
    """One branch where no level has weights for others."""
    return unguided(len(guidance.weights)) if not any(any(row[1:]) for row in guidance.weights) else guidance


def _interval(value: Any, guidance: Guidance) -> list[float] | None:
    """(low, high), checked, as JSON has it."""
    if value is None:
        return None
    if not is_list(value) or len(value) != 2:
        raise ValueError(f"guidance_interval is {value!r}; expected two numbers (low, high), 0 <= low < high <= 1")
    low, high = (number("guidance_interval", bound, 0, 1) for bound in value)
    if low >= high:
        raise ValueError(f"guidance_interval is {value!r}; expected low before high, shares of noise from 0 to 1")
    if len(guidance.weights[0]) == 1:
        raise ValueError(f"guidance_interval is {value!r}, but that stage is not guided; leave it out")
    return [low, high]


def _scale(name: str, scale: Any, levels: int) -> float | list[float]:
    """A number, or one per noise level."""
    if not callable(scale) and not is_list(scale):
        return number(name, scale)
    given = [scale(level, levels) for level in range(levels)] if callable(scale) else scale
    return per_level(name, [number(name, value) for value in given], levels)


def _image_scale(stage: Stage, value: Any, levels: int) -> float | list[float] | None:
    if stage.kind == INSTRUCT:
        return _scale("image_guidance_scale", otherwise(value, stage.traits["image_guidance_scale"]), levels)
    if value is not None:
        raise ValueError(f"image_guidance_scale is {value!r}, but this model follows no instructions; leave it out")
    return None
