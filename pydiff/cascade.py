"""A cascade: a text encoder and the stages that make a picture, small first.

A super-resolution stage is the same kind of network with the upsampled, slightly noised picture of the stage before
beside its own noisy one (Ho et al. 2021, Cascaded Diffusion Models; Saharia et al. 2022, Imagen, section 2.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pydiff.diffusion.config import SamplerConfig
from pydiff.diffusion.guidance import Guidance, Scale, classifier_free, unguided
from pydiff.diffusion.levels import NoiseSchedule
from pydiff.diffusion.loop import sample
from pydiff.diffusion.noise import Noise
from pydiff.diffusion.rows import StepTable
from pydiff.models.unet import UNet
from pydiff.nn.cond import Cond, Prepared
from pydiff.ops.guided_step import Threshold
from pydiff.text.prompts import PromptEncoder

PIXELS_PER_CALL = 1 << 20  # a network call takes as many pictures as stay under this, at least one


class StageDefaults(NamedTuple):
    """What a stage does when the caller does not say."""

    num_inference_steps: int
    guidance_scale: float
    noise_level: int | None = None


@dataclass(frozen=True)
class Stage:
    """One network of a cascade and its folder's own way of sampling. noising: the levels at which a super-resolution
    stage's low-res picture is noised; None for a base stage."""

    unet: UNet
    sampling: SamplerConfig
    size: int
    defaults: StageDefaults
    noising: NoiseSchedule | None = None


@dataclass(frozen=True)
class Cascade:
    """Stages by growing size, and the encoder of their prompts; `name` is what settings call it."""

    name: str
    stages: tuple[Stage, ...]
    text: PromptEncoder
    default_size: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(stage.size for stage in self.stages)


class StagePlan(NamedTuple):
    """All that decides one stage's run, made and checked before any work; said: the same in the caller's terms."""

    stage: Stage
    table: StepTable
    guidance: Guidance
    threshold: Threshold
    noise_level: int | None
    said: Mapping[str, Any]


class State(NamedTuple):
    """A moment of a run: step of steps in stage of stages (counted from 0), x and denoised (B, 3, H, W) in [-1, 1], t
    what the network was told, seconds the step took; done is True at the last step of the last stage."""

    stage: int
    stages: int
    step: int
    steps: int
    t: float
    x: Tensor
    denoised: Tensor
    seconds: float

    @property
    def done(self) -> bool:
        return self.step == self.steps - 1 and self.stage == self.stages - 1

    @property
    def stage_done(self) -> bool:
        return self.step == self.steps - 1


class Text(NamedTuple):
    """Encoded prompts of a batch, (B, T, D) each; null is what guidance steers away from."""

    prompt: Tensor
    null: Tensor


def make_guidance(scale: Scale, levels: int, rescale: float) -> Guidance:
    """Classifier-free guidance, or one branch where every scale is 1."""
    guidance = classifier_free(scale, levels, rescale=rescale)
    return unguided(levels) if all(null == 0 for _, null in guidance.weights) else guidance


def run(plans: Sequence[StagePlan], text: Text, noise: Noise, low_res: Tensor | None = None) -> Iterator[State]:
    """Walk the stages, each from the picture of the one before; low_res (B, 3, h, w) in [-1, 1] feeds the first when it
    is a super-resolution stage. noise draws per picture, stage after stage, in diffusers' order."""
    for index, plan in enumerate(plans):
        for state in _run_stage(index, len(plans), plan, text, noise, low_res):
            yield state
        low_res = state.x


@torch.inference_mode()
def _run_stage(
    index: int, stages: int, plan: StagePlan, text: Text, noise: Noise, low_res: Tensor | None
) -> Iterator[State]:
    unet, size = plan.stage.unet, plan.stage.size
    weight = next(unet.parameters())
    shape = (unet.config.out_channels // 2 if unet.config.out_channels == 6 else unet.config.out_channels, size, size)
    x = plan.table.initial_scale * noise(shape, dtype=weight.dtype, device=weight.device)
    beside = None if low_res is None else augmented(low_res, plan, noise)
    network = Network(unet, text, beside, plan.noise_level)
    walk = sample(
        network,
        plan.table,
        plan.guidance,
        x=x,
        noise=noise,
        prediction_type=plan.stage.sampling.prediction_type,
        threshold=plan.threshold,
    )
    steps = len(plan.table.rows)
    for state in walk:
        denoised = x if state.denoised is None else state.denoised
        yield State(index, stages, state.index, steps, state.t, state.x, denoised, state.elapsed)


def augmented(low_res: Tensor, plan: StagePlan, noise: Noise) -> Tensor:
    """The picture of the stage before, enlarged and noised to the plan's level: noise conditioning augmentation."""
    if plan.stage.noising is None or plan.noise_level is None:
        raise ValueError(f"the stage of size {plan.stage.size} takes no low-res picture")
    size = plan.stage.size
    large = F.interpolate(low_res, size=(size, size), mode="bilinear", align_corners=True)
    bar = float(plan.stage.noising.alphas_cumprod[plan.noise_level])
    drawn = noise(tuple(large.shape[1:]), dtype=large.dtype, device=large.device)
    return bar**0.5 * large + (1 - bar) ** 0.5 * drawn


class Network:
    """A U-Net as the loop sees it: x, t and branches in, predictions out. What does not change is computed once."""

    def __init__(self, unet: UNet, text: Text, beside: Tensor | None, noise_level: int | None) -> None:
        self.unet, self.text, self.beside, self.noise_level = unet, text, beside, noise_level
        self.prepared: dict[tuple[int, ...], list[tuple[slice, Prepared]]] = {}

    def __call__(self, x: Tensor, t: float, branches: tuple[int, ...]) -> Tensor:
        given = x if self.beside is None else torch.cat([x, self.beside], dim=1)
        given = given.repeat(len(branches), 1, 1, 1)  # (R B, C, H, W), branch by branch
        given = given.contiguous(memory_format=torch.channels_last)  # the layout that convolutions are fastest in
        time = torch.full((), t, device=x.device)
        if branches not in self.prepared:
            self.prepared[branches] = list(self._prepare(branches, given))
        parts = [self.unet(given[rows], time, cond) for rows, cond in self.prepared[branches]]
        return torch.cat(parts).unflatten(0, (len(branches), -1))

    def _prepare(self, branches: tuple[int, ...], given: Tensor) -> Iterator[tuple[slice, Prepared]]:
        """The conditioning of each network call: as many rows as fit, at least one."""
        states = torch.cat([self.text[branch] for branch in branches])
        each = max(1, PIXELS_PER_CALL // (given.shape[-1] * given.shape[-2]))
        for start in range(0, len(given), each):
            rows = slice(start, min(start + each, len(given)))
            count = rows.stop - rows.start
            labels = None if self.noise_level is None else torch.full((count,), self.noise_level, device=given.device)
            yield rows, self.unet.prepare(Cond(text=states[rows], labels=labels))
