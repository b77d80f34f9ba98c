"""Restore a damaged picture: colour a grey one, fill its holes, extend it, clean it of JPEG's traces.

Palette (Saharia et al. 2022): the damaged picture stands beside x in the network's channels, and sampling begins from
noise. Where a mask says that something is missing, the damaged picture holds noise in the hole, and what is known is
put back into x, clean, after every step. The paper tells its network gamma, the share of signal in x; a network in the
diffusers layout is told t, and as gamma = alphas_cumprod[t] falls strictly with t, the one says what the other does.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import namespace
from pydiff.cascade import RESTORE, Cascade, Start
from pydiff.diffusion import loop
from pydiff.images import from_user, mask_from_user
from pydiff.tasks.begin import Begin, Now, branches, pure_noise
from pydiff.tasks.generate import HINTS
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request
from pydiff.tasks.words import EMBEDDINGS, READING, SECOND

MASKED = ("inpaint", "uncrop")
TASKS = ("colorize", *MASKED, "jpeg")


class Damaged(NamedTuple):
    """image (1, 3, H, W) in [-1, 1]; mask (1, 1, H, W), 1 = missing, 0 = known, or None where nothing is missing."""

    image: NDArray[np.float32]
    mask: NDArray[np.float32] | None


def restore(cascade: Cascade, image: Any, task: Any, mask: Any, call: Call) -> Request:
    """The picture is restored at its own size. No words are read: a network that expects some gets the empty prompt."""
    stage = cascade.stages[0]
    if stage.kind != RESTORE:
        hint = HINTS.get(stage.kind, "it makes pictures of prompts: pipe.generate(prompt)")
        raise ValueError(f"{cascade.name} restores no pictures; {hint}. The model pydiff-palette restores some")
    if not isinstance(task, str) or task not in TASKS:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    damaged = _damaged(image, task, mask)
    _check_wordless(call)
    if stage.text is not None:
        call = dataclasses.replace(call, prompt="")
    height, width = damaged.image.shape[2:]
    begins: list[Begin] = [partial(from_damaged, damaged=damaged)]
    wanted = make_request("restore", cascade, [stage], begins, call, [(height, width)], {"restores": task})
    if wanted.guided:
        raise ValueError("guidance_scale is more than 1, but no words guide a restoration; leave it out")
    return wanted


def _damaged(image: Any, task: str, mask: Any) -> Damaged:
    picture = from_user(image)
    if task not in MASKED:
        if mask is not None:
            raise ValueError(f"a mask is given, but the task {task!r} takes none; leave it out")
        return Damaged(picture, None)
    if mask is None:
        raise ValueError(f"the task {task!r} needs a mask, white where the picture is to be made")
    hole = mask_from_user(mask, (picture.shape[2], picture.shape[3]))
    if hole.all() or not hole.any():
        raise ValueError(f"mask is {'white' if hole.any() else 'black'} everywhere; expected white on what is missing")
    if task == "uncrop" and not _keeps_a_rectangle(hole):
        raise ValueError("mask keeps more than one rectangle, which is no crop of a picture; give task='inpaint'")
    return Damaged(picture, hole)


def _keeps_a_rectangle(hole: NDArray[np.float32]) -> bool:
    rows, columns = (hole[0, 0] == 0).nonzero()
    sides = [int(places.max() - places.min()) + 1 for places in (rows, columns)]
    return len(rows) == sides[0] * sides[1]


def _check_wordless(call: Call) -> None:
    given = call.chosen((*SECOND, *EMBEDDINGS, *READING))
    words = next(iter(given), None if call.negative_prompt is None else "negative_prompt")
    if words is not None:
        raise ValueError(f"{words} is given, but a restoration reads no words; leave it out")


def from_damaged(now: Now, damaged: Damaged) -> Start:
    """Noise, beside it the damaged picture; with a mask both hold noise in the hole and the picture outside (x does so
    after every step)."""
    x = pure_noise(now)
    xp = namespace(x)
    known = xp.broadcast_to(now.as_weights(damaged.image), x.shape)
    if damaged.mask is None:
        return Start(x, now.noise, branches(now, known))
    mask = now.as_weights(damaged.mask)
    beside = xp.where(mask > 0, now.draw(tuple(x.shape[1:])), known)
    kept = loop.Known(known, mask, clean=True)
    return Start(xp.where(mask > 0, x, known), now.noise, branches(now, beside), known=kept)
