"""How a stage of a run begins: what its network is told, and from which x it walks. Each task chooses among these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pydiff.arrays import Array, like, placed
from pydiff.cascade import Branch, StagePlan, Start
from pydiff.diffusion.noise import Noise
from pydiff.nn.cond import Cond
from pydiff.ops.resize import resize
from pydiff.tasks.augmentation import TRUNCATED
from pydiff.tasks.checks import integer, is_list, number
from pydiff.tasks.words import Told
from pydiff.text.encoders import Encoded

Pair = Sequence[int] | None
MOST_PIXELS = 1 << 24  # a side that float32 holds exactly


@dataclass(frozen=True)
class Micro:
    """Stable Diffusion XL's conditioning on sizes and crops, (height, width) and (top, left) in pixels, and its
    refiner's on how good a picture is, 1 to 10 (Podell et al. 2023, section 2.2). None is the picture's own size, and
    for the negative ones what the others say."""

    original_size: Pair = None
    crops_coords_top_left: Sequence[int] = (0, 0)
    target_size: Pair = None
    aesthetic_score: float = 6.0
    negative_original_size: Pair = None
    negative_crops_coords_top_left: Pair = None
    negative_target_size: Pair = None
    negative_aesthetic_score: float = 2.5


def micro_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of Micro, checked, as JSON has them. ValueError for what is no score, size or place."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if "aesthetic" in name:
            fields[name] = number(name, value)
        elif is_list(value) and len(value) == 2:
            fields[name] = [integer(name, side, 0, MOST_PIXELS) for side in value]
        else:
            raise ValueError(f"{name} is {value!r}; expected two ints, (height, width) or (top, left)")
    return fields


class Now(NamedTuple):
    """A stage about to begin: its plan, the encoded words, what noise is drawn from, and the picture of the stage
    before (B, 3, h, w), None for the first. labels: classes (B,) of a network that is told them."""

    plan: StagePlan
    told: Told | None
    noise: Noise
    before: Array | None
    micro: Micro
    labels: Array | None = None

    @property
    def weight(self) -> Array:
        """One of the network's arrays: for their kind, their type and where they are."""
        return self.plan.stage.unet.like

    def draw(self, shape: tuple[int, ...]) -> Array:
        return self.noise(shape, like=self.weight)

    def as_weights(self, value: Any) -> Array:
        return like(value, self.weight)


Begin = Callable[[Now], Start]


def from_noise(now: Now, latents: Array | None = None) -> Start:
    """Pure noise, or latents given in its place."""
    return Start(pure_noise(now, latents), now.noise, branches(now))


def pure_noise(now: Now, latents: Array | None = None) -> Array:
    """x at the first row's level; latents (B, C, h, w) of variance 1 stand in place of the draw."""
    shape = now.plan.stage.shape(now.plan.size)
    drawn = now.draw(shape) if latents is None else now.as_weights(latents)
    return now.plan.table.initial_scale * drawn


def from_low_res(now: Now, latents: Array | None = None) -> Start:
    """Pure noise beside the picture of the stage before, enlarged and noised to the plan's level (noise conditioning
    augmentation). Draws in diffusers' order, which is another one where x is latent."""
    plan = now.plan
    if now.before is None:
        raise ValueError(f"the stage of size {plan.size} needs a low-res picture")
    if plan.stage.codec is None:
        x = pure_noise(now, latents)
        beside = augmented(now)
    else:
        beside = augmented(now)
        x = pure_noise(now, latents)
    return Start(x, now.noise, branches(leveled(now, len(x)), beside))


def leveled(now: Now, count: int) -> Now:
    """The network is told the noise level of its low-res picture, where that has one."""
    level = now.plan.noise_level
    return now if level is None else now._replace(labels=placed(np.full(count, level), now.weight))


def augmented(now: Now) -> Array:
    """The low-res picture (B, 3, h, w) at the size of x, at the plan's noise level, where a truncated stage before has
    left it."""
    plan, before = now.plan, now.before
    assert before is not None
    size = plan.stage.shape(plan.size)[1:]
    if plan.stage.noising is None or plan.noise_level is None:  # unCLIP
        return resize(now.as_weights(before.clip(-1, 1)), size, mode="bicubic", antialias=True)
    large = now.as_weights(before)
    if large.shape[2:] != size:
        large = resize(large, size, mode="bilinear", align_corners=True)
    if plan.said["conditioning"] == TRUNCATED:
        return large
    level = plan.stage.noising.level(plan.noise_level)
    return level.alpha * large + level.sigma * now.draw(tuple(large.shape[1:]))


def branches(now: Now, beside: Array | None = None) -> list[Branch]:
    """[text, null], or the first alone where nothing is guided."""
    if now.told is None:
        return [Branch(Cond(None, labels=now.labels), beside)]
    sides = [now.told.prompt] if now.told.null is None or not now.plan.guided else list(now.told)
    ids = time_ids(now)
    return [Branch(condition(now, words, which), beside) for words, which in zip(sides, ids, strict=False)]


def condition(now: Now, words: Encoded | None, ids: tuple[float, ...] | None) -> Cond:
    """What the network is told of words and sizes."""
    assert words is not None
    added: dict[str, Any] | None = None
    if ids is not None:
        assert words.pooled is not None
        rows = np.array([ids] * len(words.states), np.float64)
        added = {"text_embeds": now.as_weights(words.pooled), "time_ids": now.as_weights(rows)}
    return Cond(now.as_weights(words.states), words.mask, now.labels, added)


def time_ids(now: Now) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """The numbers of Stable Diffusion XL's micro-conditioning, for the prompt and for the negative prompt."""
    plan, micro = now.plan, now.micro
    kind, size = plan.stage.traits.get("micro"), plan.size
    if plan.windows is not None:  # what the network sees
        height, width = plan.windows.size
        size = height * plan.stage.factor, width * plan.stage.factor
    if kind is None:
        return None, None
    places = micro.original_size or size, micro.crops_coords_top_left
    negative = micro.negative_original_size or places[0], micro.negative_crops_coords_top_left or places[1]
    target = micro.target_size or size
    ends: tuple[Any, Any] = (target, micro.negative_target_size or target)
    if kind == "aesthetic":
        ends = ((micro.aesthetic_score,), (micro.negative_aesthetic_score,))
    return (*places[0], *places[1], *ends[0]), (*negative[0], *negative[1], *ends[1])
