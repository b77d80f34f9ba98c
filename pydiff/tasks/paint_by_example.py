"""Fill a hole with the thing that an example picture shows (Yang et al. 2022, Paint by Example)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import expand, hosted, namespace
from pydiff.cascade import EXAMPLE, Branch, Cascade, Start
from pydiff.images import from_user
from pydiff.nn.cond import Cond
from pydiff.ops.resize import resize
from pydiff.tasks.begin import Begin, Now, pure_noise
from pydiff.tasks.checks import per_prompt
from pydiff.tasks.generate import HINTS
from pydiff.tasks.hole import Hole, make_hole
from pydiff.tasks.image_to_image import encoded
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request


def paint_by_example(cascade: Cascade, image: Any, mask: Any, example: Any, call: Call) -> Request:
    """The pictures keep their size; what is black in the mask is kept to the bit. Raises ValueError for a model that
    paints by no example, and where there is none."""
    stage = cascade.stages[0]
    if stage.kind != EXAMPLE:
        hint = HINTS.get(stage.kind, "it reads words: pipe.inpaint(image, mask, prompt)")
        raise ValueError(f"example is given, but {cascade.name} paints by no example; {hint}")
    if example is None:
        raise ValueError(f"{cascade.name} paints by example; give example=, a picture of the thing to paint")
    hole = make_hole(image, mask, (stage.factor, stage.factor), stage.unet.like)
    thing, each = from_user(example, "example"), per_prompt(call.num_images_per_prompt)
    call = dataclasses.replace(call, num_images_per_prompt=len(hole) * each)
    begins: list[Begin] = [partial(from_example, hole=hole.repeated(each), example=thing)]
    height, width = hole.given.shape[2:]
    return make_request("inpaint", cascade, [stage], begins, call, [hole.size], {"height": height, "width": width})


def from_example(now: Now, hole: Hole, example: NDArray[np.float32]) -> Start:
    """[x | latents of the picture without the hole | 1 outside of it]; branches [example, no example]. example
    (1, 3, H, W) in [-1, 1]."""
    encoder = now.plan.stage.traits["example"]
    x = pure_noise(now)
    outside = encoded(now, hole.image * (1 - hole.mask))
    kept = now.as_weights(resize(1 - hole.mask, x.shape[2:]))
    beside = namespace(x).concat([outside, expand(kept, len(x))], axis=1)
    tokens = [encoder.encode(hosted(example, x))] + ([encoder.nothing] if now.plan.guided else [])
    branches = [Branch(Cond(expand(now.as_weights(token), len(x))), beside) for token in tokens]
    return Start(x, now.noise, branches, finish=hole.finish)
