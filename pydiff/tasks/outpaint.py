"""A picture on a larger canvas: the margins are a hole, which is filled in overlapping windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from pydiff.arrays import Array, hosted
from pydiff.cascade import Cascade
from pydiff.images import MAX_PIXELS, pictures_from_user
from pydiff.ops.resize import pad_edges
from pydiff.tasks.checks import integer
from pydiff.tasks.hole import Hole, whole_hole
from pydiff.tasks.inpaint import check_fills, fill, nearest_size, read_options, stages_for, step_of
from pydiff.tasks.request import Call
from pydiff.tasks.run import Request
from pydiff.tasks.sizes import Size

SIDES = ("left", "right", "top", "bottom")
OF_MASKS = ("feather", "soft_mask", "padding_mask_crop")  # options of inpaint that have no meaning here
OVERLAP = 0.75


def outpaint(
    cascade: Cascade, image: Any, call: Call, margins: Mapping[str, Any], *, size: int | None = None
) -> Request:
    """The pictures with margins, in pixels, at some of SIDES; what was given comes back to the bit at its place.

    Takes the options of `inpaint` but for OF_MASKS; window_overlap is OVERLAP unless said: with less, windows that see
    nothing of the picture are surer to draw things of their own. The prompt describes the whole: every window reads all
    of it. size: of the last stage that runs, by default the one whose pictures are nearest to these in size. Raises
    ValueError for no margin, for a canvas of more than MAX_PIXELS, and for models that fill no holes.
    """
    check_fills(cascade)
    for name in OF_MASKS:
        if call.options.get(name) is not None:
            raise ValueError(f"{name} is {call.options[name]!r}, but the hole is the margin; leave it out")
    options, call = read_options(cascade.stages[0], cascade.name, call)
    if options.window_overlap is None:
        options = dataclasses.replace(options, window_overlap=OVERLAP)
    sides = {name: integer(name, margins.get(name, 0), 0, MAX_PIXELS) for name in SIDES}
    if not any(sides.values()):
        raise ValueError("left, right, top and bottom are all 0; give at least one, in pixels")
    given = pictures_from_user(image)
    stages = stages_for(cascade, nearest_size(cascade, max(given.shape[2:])) if size is None else size)
    step = step_of(stages)
    hole = canvas(hosted(given, stages[0].unet.like), sides, (step, step))
    return fill("outpaint", cascade, stages, hole, options, call, sides)


def canvas(given: Array, sides: Mapping[str, int], step: Size) -> Hole:
    """The pictures (B, 3, H, W), their edges repeated in the margins, which are to be made. What is run begins where
    their corner falls on a multiple of step."""
    left, right, top, bottom = (sides[name] for name in SIDES)
    height, width = given.shape[2:]
    tall, wide = top + height + bottom, left + width + right
    if tall * wide > MAX_PIXELS:
        raise ValueError(f"the canvas is {wide}x{tall} pixels; expected at most {MAX_PIXELS} in all")
    margin = np.ones((1, 1, tall, wide), np.float32)
    margin[..., top : top + height, left : left + width] = 0
    padded, weight = pad_edges(given, (left, right, top, bottom)), hosted(margin, given)
    return whole_hole(padded, weight, weight, step, (-top % step[0], -left % step[1]))
