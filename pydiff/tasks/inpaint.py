"""Fill a hole: the mask's white is repainted, its black is kept."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pydiff.cascade import INPAINT, PLAIN, Cascade, Start
from pydiff.diffusion import loop
from pydiff.images import from_user, mask_from_user
from pydiff.tasks.begin import Begin, Now, branches, pure_noise
from pydiff.tasks.generate import HINTS
from pydiff.tasks.image_to_image import encoded, resized
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request


class Hole(NamedTuple):
    """image (1, 3, H, W) in [-1, 1]; mask (1, 1, H, W), 1 = repaint, 0 = keep."""

    image: Tensor
    mask: Tensor


def inpaint(cascade: Cascade, image: Any, mask: Any, call: Call) -> Request:
    """By a network that knows of holes (9 channels), or by blending what is kept into every step of one that does not
    (Avrahami et al. 2022, Blended Latent Diffusion)."""
    stage = cascade.stages[0]
    if stage.kind not in (INPAINT, PLAIN):
        raise ValueError(f"{cascade.name} fills no holes; {HINTS[stage.kind]}")
    if stage.codec is None:
        raise ValueError(f"{cascade.name} works on pixels; inpaint takes a model with an autoencoder")
    picture = from_user(image)
    hole = Hole(picture, mask_from_user(mask, (picture.shape[2], picture.shape[3])))
    height, width = (side // stage.factor * stage.factor for side in picture.shape[2:])
    begin = from_hole if stage.kind == INPAINT else blending
    begins: list[Begin] = [partial(begin, hole=hole)]
    return make_request("inpaint", cascade, [stage], begins, call, [(height, width)], parts={"strength": 1.0})


def from_hole(now: Now, hole: Hole) -> Start:
    """[x | mask | latents of the picture without the hole] (Rombach et al. 2022)."""
    x0 = None if _is_whole(now) else encoded(now, hole.image)
    x = pure_noise(now) if x0 is None else now.plan.table.noised(x0, now.draw(tuple(x0.shape[1:])))
    mask, outside = _beside(now, hole)
    return Start(x, now.noise, branches(now, torch.cat([mask, outside], dim=1)))


def blending(now: Now, hole: Hole) -> Start:
    """After every step, what is kept comes from the picture at the level of the next one."""
    table = now.plan.table
    known = encoded(now, hole.image)
    drawn = now.draw(tuple(known.shape[1:]))
    x = table.initial_scale * drawn if _is_whole(now) else table.noised(known, drawn)
    mask, _ = _beside(now, hole)  # its draws come before those of the steps, as in diffusers

    def adjust(state: loop.State) -> Tensor:
        last = state.index == len(table.rows) - 1
        kept = known if last else table.noised(known, drawn, state.index + 1)
        return (1 - mask) * kept + mask * state.x

    return Start(x, now.noise, branches(now), adjust)


def _is_whole(now: Now) -> bool:
    return bool(now.plan.said["strength"] == 1)


def _beside(now: Now, hole: Hole) -> tuple[Tensor, Tensor]:
    """The mask at the size of the latents (B, 1, h, w), and latents of the picture without what it covers."""
    size = now.plan.stage.shape(now.plan.size)[1:]
    picture = resized(hole.image, now.plan)
    mask = F.interpolate(hole.mask, size=now.plan.size) if hole.mask.shape[2:] != now.plan.size else hole.mask
    small = now.as_weights(F.interpolate(mask, size=size)).expand(len(now.noise), -1, -1, -1)
    return small, encoded(now, picture * (mask < 0.5))
