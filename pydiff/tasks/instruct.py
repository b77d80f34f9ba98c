"""Follow an instruction: the picture stands beside the latents, and two guidance scales weigh text and picture
(Brooks et al. 2023, InstructPix2Pix)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pydiff.cascade import INSTRUCT, Branch, Cascade, Start
from pydiff.images import from_user
from pydiff.tasks.begin import Begin, Now, branches, pure_noise
from pydiff.tasks.generate import HINTS
from pydiff.tasks.image_to_image import resized
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request


def instruct(cascade: Cascade, image: Any, call: Call) -> Request:
    """The picture is changed at its own size, cut down to a multiple of the autoencoder's factor."""
    stage = cascade.stages[0]
    if stage.kind != INSTRUCT:
        hint = HINTS.get(stage.kind, "it makes pictures of prompts: pipe.generate(prompt)")
        raise ValueError(f"{cascade.name} follows no instructions; {hint}")
    picture = from_user(image)
    height, width = (side // stage.factor * stage.factor for side in picture.shape[2:])
    begins: list[Begin] = [partial(from_instruction, image=picture)]
    return make_request("instruct", cascade, [stage], begins, call, [(height, width)])


def from_instruction(now: Now, image: Tensor) -> Start:
    """Branches [text and picture, picture, nothing]; the picture's latents are the posterior's mean, unscaled."""
    latents = now.plan.encoded(now.as_weights(resized(image, now.plan))).expand(len(now.noise), -1, -1, -1)
    told = branches(now)
    if not now.plan.guided:
        made = [Branch(told[0].cond, latents)]
    else:
        text, null = (branch.cond for branch in told)
        made = [Branch(text, latents), Branch(null, latents), Branch(null, torch.zeros_like(latents))]
    return Start(pure_noise(now), now.noise, made)
