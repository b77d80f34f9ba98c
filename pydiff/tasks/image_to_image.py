"""From a picture to another one: noise it part of the way, then walk back (Meng et al. 2022, SDEdit)."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import Array, expand, hosted, is_array, is_floating, namespace
from pydiff.cascade import PLAIN, UPSCALE, Cascade, Stage, StagePlan, Start
from pydiff.images import from_user
from pydiff.ops.resize import resize
from pydiff.tasks.begin import Begin, Now, augmented, branches, from_low_res, leveled
from pydiff.tasks.generate import HINTS
from pydiff.tasks.plan import PARTS, stages_to
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request
from pydiff.tasks.sizes import sizes_like

STRENGTH = 0.8
Given: TypeAlias = "Array | NDArray[np.float32]"  # a picture as `from_user` reads it, or latents


def image_to_image(cascade: Cascade, image: Any, call: Call, *, size: int | None = None) -> Request:
    """Each stage with a strength (the first has 0.8 unless said) begins from the picture, the others from noise.

    image: one picture, as `images.from_user` takes them, or latents (B, C, h, w) of the first stage.
    """
    stages = stages_to(cascade, size)
    if stages[0].kind != PLAIN:
        raise ValueError(f"{cascade.name} does not begin from a noised picture; {HINTS[stages[0].kind]}")
    if "unclip" in stages[0].traits:
        raise ValueError(f"{cascade.name} begins from an embedding of its own, not from a picture")
    given, sizes = picture_of(image, stages)
    if stages[0].codec is None:
        sizes = sizes_like(stages, (given.shape[2], given.shape[3]))
    begins: list[Begin] = [partial(from_picture, image=given), *(partial(_later, image=given) for _ in stages[1:])]
    parts = {**dict.fromkeys((*PARTS, "conditioning")), "strength": STRENGTH}
    wanted = make_request("image_to_image", cascade, stages, begins, call, sizes, parts=parts)
    if len(given) not in (1, len(wanted.seeds)):
        raise ValueError(
            f"image holds latents of {len(given)} pictures for {len(wanted.seeds)}; give one, or one per picture"
        )
    return wanted


def picture_of(image: Any, stages: tuple[Stage, ...]) -> tuple[Given, list[tuple[int, int]]]:
    """Latents or a picture (B, 3, H, W), and the size of every stage's picture."""
    first = stages[0]
    if is_array(image) and image.ndim == 4 and image.shape[1] == first.channels != 3:
        if not is_floating(image) or not namespace(image).isfinite(image).all():
            raise ValueError(f"image holds latents of {image.dtype}; expected finite floats")
        if len(stages) > 1:
            raise ValueError(f"image holds latents and {len(stages)} stages run; give size={max(first.size)}")
        height, width = (side * first.factor for side in image.shape[2:])
        return image, [(height, width)]
    picture = from_user(image)
    if first.codec is None or len(stages) > 1:
        return picture, [stage.size for stage in stages]
    height, width = (side // first.factor * first.factor for side in picture.shape[2:])
    return picture, [(height, width)]


def from_picture(now: Now, image: Given) -> Start:
    """The picture's latents, or the picture, at the level of the first row; as it is where another run left it."""
    x0 = encoded(now, image)
    left = now.plan.said["denoising_start"] is not None
    x = x0 if left else now.plan.table.noised(x0, now.draw(tuple(x0.shape[1:])))
    return Start(x, now.noise, branches(now))


def encoded(now: Now, image: Given, *, drawn: bool = True) -> Array:
    """x0 of a picture (1 or B, 3, H, W), or of latents, which it is already: one row per picture of the batch. Latents
    of a picture are drawn from their posterior, or are its mean."""
    stage, count = now.plan.stage, len(now.noise)
    if image.shape[1] == stage.channels != 3:
        return expand(now.as_weights(image), count)
    picture = now.as_weights(resized(image, now.plan))
    if stage.codec is None:
        return expand(picture, count)
    noise = None
    if drawn:
        noise = now.noise(stage.shape(now.plan.size), like=stage.codec.like)
    return stage.codec.scaled(now.plan.encoded(expand(picture, count), noise))


def resized(picture: Given, plan: StagePlan) -> Array:
    """At the size of the plan's picture, of the network's kind, on the host."""
    given = hosted(picture, plan.stage.unet.like)
    if tuple(given.shape[2:]) == plan.size:
        return given
    return resize(given, plan.size, mode="bicubic", antialias=True).clip(-1, 1)


def _later(now: Now, image: Given) -> Start:
    """A super-resolution stage: from the picture at its own strength, or from noise where it has none."""
    if now.plan.said["strength"] is None:
        return from_low_res(now)
    assert now.plan.stage.kind == UPSCALE
    x0 = expand(now.as_weights(resized(image, now.plan)), len(now.noise))
    x = now.plan.table.noised(x0, now.draw(tuple(x0.shape[1:])))
    beside = augmented(now)
    return Start(x, now.noise, branches(leveled(now, len(x)), beside))
