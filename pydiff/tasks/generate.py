"""From a prompt to a picture: noise at first, then every stage on the picture of the one before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import Array, expand, hosted, is_array, is_floating
from pydiff.cascade import EXAMPLE, INPAINT, INSTRUCT, PLAIN, RESTORE, UPSCALE, Cascade, Stage, Start
from pydiff.images import from_user
from pydiff.tasks import unclip
from pydiff.tasks.begin import Begin, Now, from_low_res, from_noise
from pydiff.tasks.cross_frame import across_frames
from pydiff.tasks.plan import sizes_of, stages_to
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request

PARTS_OF_GENERATE = {"denoising_end": None, "conditioning": None}
HINTS = {
    UPSCALE: "it makes pictures larger: pipe.upscale(image, prompt)",
    INSTRUCT: "it follows instructions: pipe.instruct(image, prompt)",
    INPAINT: "it fills holes: pipe.inpaint(image, mask, prompt)",
    EXAMPLE: "it paints by example: pipe.inpaint(image, mask, example=picture)",
    RESTORE: "it restores damaged pictures: pipe.restore(image, task)",
}


def generate(
    cascade: Cascade,
    call: Call,
    *,
    size: int | None = None,
    height: int | None = None,
    width: int | None = None,
    latents: Array | None = None,
    cross_frame: bool = False,
) -> Request:
    """All stages up to the one that makes `size`, or up to the last for height and width of its picture."""
    if not isinstance(cross_frame, bool):
        raise ValueError(f"cross_frame is {cross_frame!r}; expected True or False")
    stages = stages_to(cascade, size)
    if stages[0].kind != PLAIN:
        raise ValueError(f"{cascade.name} does not begin from noise alone; {HINTS[stages[0].kind]}")
    sizes = sizes_of(stages, height, width)
    first: Begin = partial(from_noise, latents=latents)
    said: dict[str, Any] = {} if latents is None else {"seed": None}  # no seed draws what the caller gave
    steers = False
    if "unclip" in stages[0].traits:
        if latents is not None:
            raise ValueError(f"latents are given, but {cascade.name} begins from an embedding too; leave them out")
        first, said, steers = unclip.first_begin(stages[0], call)
    begins = [first, *(from_low_res for _ in stages[1:])]
    wanted = make_request("generate", cascade, stages, begins, call, sizes, said, PARTS_OF_GENERATE, steers)
    if latents is not None:
        check_latents(latents, stages[0], sizes[0], len(wanted.seeds))
    return across_frames(wanted) if cross_frame else wanted


def check_latents(latents: Any, stage: Stage, size: tuple[int, int], count: int) -> None:
    shape = (count, *stage.shape(size))
    if not is_array(latents) or tuple(latents.shape) != shape or not is_floating(latents):
        came = f"{latents.dtype} {tuple(latents.shape)}" if is_array(latents) else type(latents).__name__
        raise ValueError(f"latents are {came}; expected floats {shape}, one per picture")


def upscale(cascade: Cascade, image: Any, call: Call, *, size: int | None = None) -> Request:
    """The super-resolution stages alone, those that make the picture larger. No prompt asks for any picture."""
    picture = from_user(image)
    stages = _stages_above(stages_to(cascade, size), picture)
    if call.prompt is None and call.options.get("prompt_embeds") is None:
        call = dataclasses.replace(call, prompt="")
    sizes = [stage.size for stage in stages]
    if "scale" in stages[0].traits:  # works at whatever size it is given
        grown = int(stages[0].traits["scale"])
        sizes[0] = (picture.shape[2] * grown, picture.shape[3] * grown)
    elif picture.shape[2] != picture.shape[3]:
        raise ValueError(f"image is {picture.shape[3]}x{picture.shape[2]}; expected a square picture: crop or pad it")
    begins: list[Begin] = [partial(_from_picture, picture=picture), *(from_low_res for _ in stages[1:])]
    return make_request("upscale", cascade, stages, begins, call, sizes, parts={"conditioning": None})


def _from_picture(now: Now, picture: NDArray[np.float32]) -> Start:
    before = hosted(picture, now.weight)
    return from_low_res(now._replace(before=expand(before, len(now.noise))))


def _stages_above(stages: Sequence[Stage], picture: NDArray[np.float32]) -> tuple[Stage, ...]:
    """The super-resolution stages that make a picture of that side larger."""
    side = max(picture.shape[2:])
    larger = [stage for stage in stages if stage.kind == UPSCALE]
    if not larger:
        raise ValueError(
            f"size is {max(stages[-1].size)}, which no super-resolution stage makes: nothing would be upscaled"
        )
    if len(larger) == 1 and "scale" in larger[0].traits:
        return tuple(larger)
    if max(larger[-1].size) <= side:
        raise ValueError(f"image is {side}x{side}; expected one smaller than {max(larger[-1].size)} pixels")
    return tuple(stage for stage in larger if max(stage.size) > side)
