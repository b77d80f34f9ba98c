"""unCLIP: first an embedding of the picture, drawn by the prior or taken from a picture given; then the picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import Array, expand, hosted
from pydiff.cascade import Branch, Cascade, Stage, Start
from pydiff.diffusion.guidance import Guidance
from pydiff.diffusion.rows import StepTable
from pydiff.images import from_user
from pydiff.nn.cond import Cond
from pydiff.tasks.begin import Begin, Now, from_low_res, pure_noise
from pydiff.tasks.checks import integer, number, otherwise
from pydiff.tasks.guided import make_guidance
from pydiff.tasks.plan import stages_to
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request
from pydiff.text.encoders import Encoded

if TYPE_CHECKING:
    from pydiff.unclip import UnCLIP

PRIOR_STEPS, PRIOR_GUIDANCE = 25, 4.0


class PriorPlan(NamedTuple):
    """How the prior is sampled, and the same in the caller's terms."""

    table: StepTable
    guidance: Guidance
    said: dict[str, Any]


def plan_prior(unclip: UnCLIP, call: Call) -> PriorPlan:
    """Options prior_num_inference_steps (25) and prior_guidance_scale (4)."""
    if unclip.sampling is None:
        raise ValueError("this model makes variations of pictures; use pipe.variations(image)")
    steps = integer(
        "prior_num_inference_steps", otherwise(call.options.get("prior_num_inference_steps"), PRIOR_STEPS), 1
    )
    scale = number("prior_guidance_scale", otherwise(call.options.get("prior_guidance_scale"), PRIOR_GUIDANCE))
    table = unclip.sampling.table(steps)
    said = {"prior_num_inference_steps": steps, "prior_guidance_scale": scale}
    return PriorPlan(table, make_guidance(scale, None, table.levels, 0.0), said)


def from_prior(now: Now, unclip: UnCLIP, prior: PriorPlan) -> Start:
    """The embedding of the picture is drawn first, then the picture's noise."""
    from pydiff.unclip import draw_embedding

    assert now.told is not None
    sides = (now.told.prompt,) if now.told.null is None else (now.told.prompt, now.told.null)
    embeds = draw_embedding(unclip, sides, prior.table, prior.guidance, now.noise)
    return _decoding(now, unclip, embeds)


def from_variation(now: Now, unclip: UnCLIP, image: NDArray[np.float32]) -> Start:
    """The embedding is that of a picture (1, 3, H, W)."""
    assert unclip.vision is not None
    embeds = expand(now.as_weights(unclip.vision.encode(hosted(image, now.weight))), len(now.noise))
    return _decoding(now, unclip, embeds)


def _decoding(now: Now, unclip: UnCLIP, embeds: Array) -> Start:
    """Branches [words and embedding, negative words and the learned embedding of no picture]."""
    assert now.told is not None
    branches = [_branch(unclip, now.told.prompt, embeds)]
    if now.plan.guided and now.told.null is not None:
        branches.append(_branch(unclip, now.told.null, None))
    return Start(pure_noise(now), now.noise, branches)


def _branch(unclip: UnCLIP, words: Encoded, embeds: Array | None) -> Branch:
    assert words.pooled is not None
    assert words.mask is not None
    states, labels = unclip.projection(embeds, words.pooled, words.states)
    return Branch(Cond(states, unclip.projection.widen_mask(words.mask), labels))


def variations(cascade: Cascade, image: Any, call: Call, *, size: int | None = None) -> Request:
    """Pictures that CLIP finds like the one given."""
    stages = stages_to(cascade, size)
    unclip = stages[0].traits.get("unclip")
    if unclip is None or unclip.vision is None:
        raise ValueError(f"{cascade.name} makes no variations; that takes an unCLIP model with an image encoder")
    picture = from_user(image)
    begins: list[Begin] = [partial(from_variation, unclip=unclip, image=picture), *(from_low_res for _ in stages[1:])]
    return make_request("variations", cascade, stages, begins, call)


def first_begin(stage: Stage, call: Call) -> tuple[Begin, dict[str, Any], bool]:
    """How a stage with a prior begins, what settings say of it, and whether the prior is guided."""
    unclip = stage.traits["unclip"]
    prior = plan_prior(unclip, call)
    return partial(from_prior, unclip=unclip, prior=prior), prior.said, len(prior.guidance.weights[0]) > 1
