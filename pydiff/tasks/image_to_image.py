"""From a picture to another one: noise it part of the way, then walk back (Meng et al. 2022, SDEdit)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from pydiff.cascade import PLAIN, UPSCALE, Cascade, Stage, StagePlan, Start
from pydiff.images import from_user
from pydiff.tasks.begin import Begin, Now, augmented, branches, from_low_res, leveled
from pydiff.tasks.generate import HINTS
from pydiff.tasks.plan import stages_to
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request

STRENGTH = 0.8


def image_to_image(cascade: Cascade, image: Any, call: Call, *, size: int | None = None) -> Request:
    """Each stage with a strength (the first has 0.8 unless said) begins from the picture, the others from noise.

    image: one picture, as `images.from_user` takes them, or latents (B, C, h, w) of the first stage.
    """
    stages = stages_to(cascade, size)
    if stages[0].kind != PLAIN:
        raise ValueError(f"{cascade.name} does not begin from a noised picture; {HINTS[stages[0].kind]}")
    options = dict(call.options)
    if options.get("strength") is None and options.get("denoising_start") is None:
        options["strength"] = STRENGTH
    given, sizes = _picture(image, stages)
    begins: list[Begin] = [partial(from_picture, image=given, starts=options.get("denoising_start"))]
    begins += [partial(_later, image=given) for _ in stages[1:]]
    call = Call(**{**call.__dict__, "options": options})
    return make_request("image_to_image", cascade, stages, begins, call, sizes)


def _picture(image: Any, stages: tuple[Stage, ...]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Latents or a picture (B, 3, H, W), and the size of every stage's picture."""
    first = stages[0]
    if isinstance(image, Tensor) and image.ndim == 4 and image.shape[1] == first.channels != 3:
        height, width = (side * first.factor for side in image.shape[2:])
        return image, [(height, width)]
    picture = from_user(image)
    if first.codec is None or len(stages) > 1:
        return picture, [stage.size for stage in stages]
    height, width = (side // first.factor * first.factor for side in picture.shape[2:])
    return picture, [(height, width)]


def from_picture(now: Now, image: Tensor, starts: float | None = None) -> Start:
    """The picture's latents, or the picture, at the level of the first row; as it is where another run left it."""
    x0 = encoded(now, image)
    x = x0 if starts is not None else now.plan.table.noised(x0, now.draw(tuple(x0.shape[1:])))
    return Start(x, now.noise, branches(now))


def encoded(now: Now, image: Tensor) -> Tensor:
    """x0 of a picture (1 or B, 3, H, W), or of latents, which it is already: one row per picture of the batch."""
    stage, count = now.plan.stage, len(now.noise)
    if image.shape[1] == stage.channels != 3:
        return now.as_weights(image).expand(count, -1, -1, -1)
    picture = now.as_weights(resized(image, now.plan))
    if stage.codec is None:
        return picture.expand(count, -1, -1, -1)
    codec, shape = stage.codec, stage.shape(now.plan.size)
    noise = now.noise(shape, dtype=codec.dtype, device=picture.device)
    return codec.scaled(codec.encode(picture.to(codec.dtype).expand(count, -1, -1, -1), noise)).to(picture.dtype)


def resized(picture: Tensor, plan: StagePlan) -> Tensor:
    """At the size of the plan's picture."""
    if picture.shape[2:] == plan.size:
        return picture
    return F.interpolate(picture, size=plan.size, mode="bicubic", antialias=True).clamp(-1, 1)


def _later(now: Now, image: Tensor) -> Start:
    """A super-resolution stage: from the picture at its own strength, or from noise where it has none."""
    if now.plan.said["strength"] is None:
        return from_low_res(now)
    assert now.plan.stage.kind == UPSCALE
    x0 = now.as_weights(resized(image, now.plan)).expand(len(now.noise), -1, -1, -1)
    x = now.plan.table.noised(x0, now.draw(tuple(x0.shape[1:])))
    beside = augmented(now)
    return Start(x, now.noise, branches(leveled(now, len(x)), beside))
