"""A cascade: the stages that make a picture, small first, and what a walk through them (`pydiff.walk`) is told.

A super-resolution stage is the same kind of network with the upsampled, slightly noised picture of the stage before
beside its own noisy one (Ho et al. 2021, Cascaded Diffusion Models; Saharia et al. 2022, Imagen, section 2.4). A stage
with an autoencoder walks through its latents (Rombach et al. 2022) and is decoded at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydiff.arrays import Array, cast
from pydiff.diffusion import loop
from pydiff.diffusion.config import SamplerConfig
from pydiff.diffusion.guidance import Guidance
from pydiff.diffusion.levels import NoiseSchedule
from pydiff.diffusion.noise import Noise
from pydiff.diffusion.rows import StepTable
from pydiff.diffusion.windows import Windows
from pydiff.heat import HeatMaps
from pydiff.networks import Codec, Denoiser
from pydiff.nn.cond import Cond
from pydiff.nn.edit import AttentionEdit, Layers
from pydiff.ops.guided_step import Threshold
from pydiff.text.encoders import TextEncoder

# What stands beside the noisy picture in a stage's input channels, and so which task runs it.
PLAIN = "plain"  # nothing
UPSCALE = "upscale"  # the low-res picture, noised
INSTRUCT = "instruct"  # the picture to change
INPAINT = "inpaint"  # the mask, and the picture without what it covers
EXAMPLE = "example"  # the same, the other way round; the network is told of a picture of what to paint
RESTORE = "restore"  # the damaged picture


class StageDefaults(NamedTuple):
    """What a stage does when the caller does not say."""

    num_inference_steps: int
    guidance_scale: float
    noise_level: int | None = None


@dataclass(frozen=True)
class Stage:
    """One network of a cascade and its folder's own way of sampling.

    size: height and width in pixels that it was trained at. kind: what stands beside its x. codec: what turns pictures
    into its latents; None where it works on pixels. noising: the levels at which an UPSCALE stage's low-res picture is
    noised. text: the encoder of its prompts; None where it reads none. traits: what else its pipeline knows.
    last: the network of the last step, where that is another one.
    """

    unet: Denoiser
    sampling: SamplerConfig
    size: tuple[int, int]
    defaults: StageDefaults
    kind: str = PLAIN
    codec: Codec | None = None
    noising: NoiseSchedule | None = None
    text: TextEncoder | None = None
    traits: Mapping[str, Any] = field(default_factory=dict)
    last: Denoiser | None = None

    @property
    def factor(self) -> int:
        """Pixels to a side of one element of x."""
        return 1 if self.codec is None else self.codec.factor

    @property
    def channels(self) -> int:
        """Channels of x."""
        if self.codec is not None:
            return self.codec.config.latent_channels
        out = self.unet.config.out_channels
        return out // 2 if self.predicts_variance else out

    @property
    def predicts_variance(self) -> bool:
        return self.codec is None and self.unet.config.out_channels == 6

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """That of x for a picture of this size, (C, h, w)."""
        return self.channels, size[0] // self.factor, size[1] // self.factor


@dataclass(frozen=True)
class Cascade:
    """Stages by growing size; `name` is what settings call it."""

    name: str
    stages: tuple[Stage, ...]
    default_size: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The larger side of each stage's picture, in pixels."""
        return tuple(max(stage.size) for stage in self.stages)


class StagePlan(NamedTuple):
    """All that decides one stage's run, made and checked before any work. size: height and width of its picture;
    said: the same in the caller's terms; coding: options of the autoencoder; perturbed: the layers in which the last
    branch of the guidance, branch 0 again, has its attention perturbed, if there is such a branch; windows: those of x
    that the network is evaluated on, where it does not see x whole; low_memory: a network call takes one row alone;
    cache_steps: every so many evaluations one is whole; merge_tokens: the share of pixels that are merged."""

    stage: Stage
    table: StepTable
    guidance: Guidance
    threshold: Threshold
    size: tuple[int, int]
    noise_level: int | None
    said: Mapping[str, Any]
    coding: Mapping[str, bool] = {}
    perturbed: Layers | None = None
    windows: Windows | None = None
    low_memory: bool = False
    cache_steps: int = 1
    merge_tokens: float = 0.0

    @property
    def guided(self) -> bool:
        """Whether there are branches of other conditionings than branch 0."""
        return len(self.guidance.weights[0]) - (self.perturbed is not None) > 1

    def decoded(self, x: Array) -> Array:
        """Pictures (B, 3, H, W) in about [-1, 1] of the walk's x."""
        codec = self.stage.codec
        if codec is None:
            return x
        return cast(codec.decode(codec.unscaled(cast(x, codec.like.dtype)), **self.coding), x.dtype)

    def encoded(self, pictures: Array, noise: Array | None = None) -> Array:
        """Latents of pictures (B, 3, H, W), not scaled: their posterior's mean, or a draw from it with noise."""
        codec = self.stage.codec
        assert codec is not None
        return cast(codec.encode(cast(pictures, codec.like.dtype), noise, **self.coding), pictures.dtype)


Edits = Callable[[int, tuple[int, ...]], AttentionEdit | None]  # (noise level, branches) -> of all their rows


class Branch(NamedTuple):
    """One conditioning of the network; beside (B, C', h, w) stands after x in its channels. texts: in the place of the
    conditioning's text, one (B, T, D) per noise level, where that varies."""

    cond: Cond
    beside: Array | None = None
    texts: Sequence[Array] | None = None

    def at(self, level: int) -> Cond:
        return self.cond if self.texts is None else self.cond._replace(text=self.texts[level])


class Start(NamedTuple):
    """Where a stage begins: x (B, C, h, w) at the level of its table's first row, the branches that its guidance
    weighs, what each state is changed by, and what of x is kept (see `loop.sample`). ended, asked after each step, ends
    the run there. edit: what is done to attention at a noise level, in the rows of the branches that are evaluated, one
    after the other. heat: where what a caller asked for is captured. finish: what is done to the stage's picture
    (B, 3, H, W) at its end. gradient: that of classifier guidance."""

    x: Array
    noise: Noise
    branches: Sequence[Branch]
    adjust: Callable[[loop.State], Array] | None = None
    ended: Callable[[], bool] = lambda: False
    edit: Edits | None = None
    heat: HeatMaps | None = None
    known: loop.Known | None = None
    finish: Callable[[Array], Array] | None = None
    gradient: loop.Gradient | None = None


class Leg(NamedTuple):
    """One stage of a run; begin turns the picture of the stage before (None for the first) into its Start."""

    plan: StagePlan
    begin: Callable[[Array | None], Start]


class State(NamedTuple):
    """A moment of a run: step of steps in stage of stages (counted from 0), x and denoised (B, C, h, w) as the stage
    walks (in [-1, 1] where that is pixels), t what the network was told, seconds the step took. picture: (B, 3, H, W)
    at the last step of a stage, None before. heat: what was captured of attention so far, in this stage or the last one
    that did. done is True at the last step of the last stage."""

    stage: int
    stages: int
    step: int
    steps: int
    t: float
    x: Array
    denoised: Array
    seconds: float
    picture: Array | None = None
    heat: HeatMaps | None = None

    @property
    def done(self) -> bool:
        return self.stage_done and self.stage == self.stages - 1

    @property
    def stage_done(self) -> bool:
        return self.step == self.steps - 1
