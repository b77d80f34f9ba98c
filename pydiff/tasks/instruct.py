"""Follow an instruction: the picture stands beside x, and two guidance scales weigh text and picture
(Brooks et al. 2023, InstructPix2Pix)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import expand, namespace
from pydiff.cascade import INSTRUCT, Branch, Cascade, Stage, Start
from pydiff.images import from_user
from pydiff.tasks.begin import Begin, Now, branches, from_low_res, pure_noise
from pydiff.tasks.generate import HINTS
from pydiff.tasks.image_to_image import resized
from pydiff.tasks.plan import stages_to
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request
from pydiff.tasks.sizes import Size, sizes_like


def instruct(cascade: Cascade, image: Any, call: Call, *, size: int | None = None) -> Request:
    """A model of latents changes the picture at its own size, cut down to a multiple of the autoencoder's factor; one
    of pixels at the size of its first stage, and the others make that larger: up to `size`, or as far as they do not
    exceed the picture."""
    stage = cascade.stages[0]
    if stage.kind != INSTRUCT:
        hint = HINTS.get(stage.kind, "it makes pictures of prompts: pipe.generate(prompt)")
        raise ValueError(f"{cascade.name} follows no instructions; {hint}. The model pydiff-instruct follows some")
    picture = from_user(image)
    stages, sizes = _scales(cascade, (picture.shape[2], picture.shape[3]), size)
    begins: list[Begin] = [partial(from_instruction, image=picture), *(from_low_res for _ in stages[1:])]
    return make_request("instruct", cascade, stages, begins, call, sizes)


def _scales(cascade: Cascade, given: Size, size: int | None) -> tuple[tuple[Stage, ...], list[Size]]:
    """The stages that run, and the sizes of their pictures for one of (height, width) that is given."""
    first = cascade.stages[0]
    if first.codec is not None:
        if size is not None:
            raise ValueError(f"size is {size!r}, but {cascade.name} keeps the size of the picture; leave it out")
        return (first,), [(given[0] // first.factor * first.factor, given[1] // first.factor * first.factor)]
    if size is None:
        size = max(side for side in cascade.sizes if side <= max(max(given), cascade.sizes[0]))
    stages = stages_to(cascade, size)
    return stages, sizes_like(stages, given)


def from_instruction(now: Now, image: NDArray[np.float32]) -> Start:
    """Branches [text and picture, picture, nothing]. The picture stands beside x as it is; of latents, the posterior's
    mean, unscaled."""
    given = now.as_weights(resized(image, now.plan))
    beside = expand(given if now.plan.stage.codec is None else now.plan.encoded(given), len(now.noise))
    told = branches(now)
    if not now.plan.guided:
        made = [Branch(told[0].cond, beside)]
    else:
        text, null = (branch.cond for branch in told)
        made = [Branch(text, beside), Branch(null, beside), Branch(null, namespace(beside).zeros_like(beside))]
    return Start(pure_noise(now), now.noise, made)
