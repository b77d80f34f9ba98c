"""Fill holes: the mask's white is repainted, its black is kept.

Three methods. "model": a network that knows of holes, with the mask and what is kept beside x (9 channels). "blend":
after every step what is kept comes back at the level of the next one (Avrahami et al. 2022, Blended Latent Diffusion).
"repaint": the same, and the run goes back up again and again, so that what is made and what is kept come to agree
(Lugmayr et al. 2022, RePaint). The last two take any network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import hosted, is_array
from pydiff.cascade import INPAINT, PLAIN, Cascade, Stage
from pydiff.diffusion.repaint import COMPATS, resampled
from pydiff.images import pictures_from_user
from pydiff.tasks.begin import Begin
from pydiff.tasks.begin_hole import finished, from_hole, from_known, later
from pydiff.tasks.checks import integer, is_list, number, per_prompt, unusual
from pydiff.tasks.generate import HINTS
from pydiff.tasks.hole import Hole, hole_in
from pydiff.tasks.plan import stages_to
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request
from pydiff.tasks.sizes import Size
from pydiff.tasks.windows import MOST_OVERLAP, windowed

METHODS = ("repaint", "blend", "model")
MOST_FEATHER = 256
MOST_STEPS = 250  # of RePaint unless said, as in its authors' configurations
MOST_SAMPLES = 100  # of a jump
NOTHING: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class InpaintOptions:
    """How holes are filled. method: one of METHODS; by default "model" where the network knows of holes, "repaint"
    where it reads no words, which alone could make up for the bias of blending, else "blend".
    RePaint goes back up by jump_length steps, jump_n_sample - 1 times at each jump (a run of no more steps than the
    default jump_length never does), with the sampler ddpm and at most MOST_STEPS steps unless said. faithful: noise is
    drawn level by level, as the original code does, in place of once a jump. compat: "diffusers" jumps where its
    RePaintScheduler does and, where a model of pixels blends, keeps what is known free of noise as its IF pipelines do.

    feather: pixels over which what is made fades in, from the hole's edge inwards. soft_mask: the mask's grays are
    shares of what is made; else it is taken as white or black. padding_mask_crop: only the holes and so many pixels
    around them are run, at the model's own size, and laid back into the picture. window_overlap: a stage that attends
    to pixels sees a larger picture in windows of its own size, and the share of a side that they have in common with
    the next one, in [0, 0.9]; by default it sees the picture whole.
    """

    method: str | None = None
    jump_length: int = 10
    jump_n_sample: int = 10
    faithful: bool = False
    compat: str | None = None
    feather: float = 0.0
    soft_mask: bool = False
    padding_mask_crop: int | None = None
    window_overlap: float | None = None


OPTIONS = tuple(InpaintOptions.__dataclass_fields__)
OF_REPAINT = ("jump_length", "jump_n_sample", "faithful")


def inpaint(cascade: Cascade, image: Any, mask: Any, call: Call, *, size: int | None = None) -> Request:
    """The pictures keep their size. A cascade fills the hole in its first stage, at its scale, and in the others
    blends what the stage before made into what is kept; size: of the last of them, by default the one whose pictures
    are nearest to these in size. Raises ValueError for models and options that do not fit."""
    check_fills(cascade)
    options, call = read_options(cascade.stages[0], cascade.name, call)
    given = pictures_from_user(image)
    if size is None and options.padding_mask_crop is None:
        size = nearest_size(cascade, max(given.shape[2:]))
    stages = stages_for(cascade, size)
    return fill("inpaint", cascade, stages, _hole(stages, given, mask, options), options, call)


def fill(
    task: str,
    cascade: Cascade,
    stages: tuple[Stage, ...],
    hole: Hole,
    options: InpaintOptions,
    call: Call,
    said: Mapping[str, Any] = NOTHING,
) -> Request:
    """The hole filled. said: what else settings hold."""
    count = len(hole)
    hole, call = _batched(hole, call, any(stage.text is not None for stage in stages))
    repaints, clean = options.method == "repaint", options.compat is not None
    if repaints:
        stages = (_repainting(stages[0]), *stages[1:])
    first: Begin = partial(from_known, hole=hole, repaints=repaints, clean=clean)
    if options.method == "model":
        first = partial(from_hole, hole=hole)
    begins: list[Begin] = [first, *(partial(later, hole=hole, clean=clean) for _ in stages[1:])]
    begins[-1] = partial(finished, begin=begins[-1], hole=hole)
    sizes = [_scaled(hole.size, stages[-1], stage) for stage in stages]
    height, width = hole.given.shape[2:]
    said = {"method": options.method, **unusual(options), **said, "height": height, "width": width}
    parts = {"strength": None if repaints else 1.0}
    wanted = make_request(task, cascade, stages, begins, call, sizes, said, parts)
    if len(hole) not in (1, len(wanted.seeds)):
        prompts = len(wanted.seeds) // call.num_images_per_prompt
        raise ValueError(f"{count} pictures or masks are given for {prompts} prompts; give one prompt, or one for each")
    wanted = _resampled(wanted, options) if repaints else wanted
    return wanted if options.window_overlap is None else windowed(wanted, options.window_overlap)


def check_fills(cascade: Cascade) -> None:
    first = cascade.stages[0]
    if first.kind not in (INPAINT, PLAIN):
        raise ValueError(f"{cascade.name} fills no holes; {HINTS[first.kind]}")
    if "unclip" in first.traits:
        raise ValueError(f"{cascade.name} begins from an embedding of its own, not from a picture")


def nearest_size(cascade: Cascade, side: int) -> int | None:
    """That of the stage whose pictures are nearest to those of this larger side; None for a model of latents, whose
    first stage runs alone."""
    if cascade.stages[0].codec is not None:
        return None
    return min(cascade.sizes, key=lambda size: abs(math.log(size / side)))


def stages_for(cascade: Cascade, size: int | None) -> tuple[Stage, ...]:
    """Those that fill a hole in a picture of this size."""
    check_fills(cascade)
    first = cascade.stages[0]
    if first.codec is not None and size is None:
        return cascade.stages[:1]
    stages = stages_to(cascade, size)
    if any(stage.codec is not None for stage in stages[1:]) or (first.codec is not None and len(stages) > 1):
        raise ValueError(f"size is {size}, whose stage walks through latents of a picture; give {max(first.size)}")
    return stages


def read_options(stage: Stage, name: str, call: Call) -> tuple[InpaintOptions, Call]:
    """Checked options, and the call without them."""
    given = call.chosen(OPTIONS)
    options = InpaintOptions(**given)
    method = options.method if options.method is not None else _default_method(stage)
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if (method == "model") != (stage.kind == INPAINT):
        knows = "knows of holes" if stage.kind == INPAINT else "knows of no holes"
        fits = "model" if stage.kind == INPAINT else "repaint or blend"
        raise ValueError(f"method is {method!r}, but the network of {name} {knows}; give {fits}")
    for option in given:
        if (option in OF_REPAINT and method != "repaint") or (option == "compat" and method == "model"):
            raise ValueError(f"{option} is {given[option]!r}, but the method is {method!r}; leave it out")
    _check_values(options)
    others = {name: value for name, value in call.options.items() if name not in OPTIONS}
    return dataclasses.replace(options, method=method), dataclasses.replace(call, options=others)


def _default_method(stage: Stage) -> str:
    if stage.kind == INPAINT:
        return "model"
    return "repaint" if stage.text is None else "blend"


def _check_values(options: InpaintOptions) -> None:
    if options.compat is not None and (not isinstance(options.compat, str) or options.compat not in COMPATS):
        raise ValueError(f"compat is {options.compat!r}; expected None or 'diffusers'")
    for option in ("faithful", "soft_mask"):
        if not isinstance(getattr(options, option), bool):
            raise ValueError(f"{option} is {getattr(options, option)!r}; expected True or False")
    integer("jump_length", options.jump_length, 1)
    integer("jump_n_sample", options.jump_n_sample, 1, MOST_SAMPLES)
    number("feather", options.feather, 0, MOST_FEATHER)
    if options.padding_mask_crop is not None:
        integer("padding_mask_crop", options.padding_mask_crop, 0)
    if options.window_overlap is not None:
        number("window_overlap", options.window_overlap, 0, MOST_OVERLAP)


def _hole(stages: tuple[Stage, ...], given: NDArray[np.float32], mask: Any, options: InpaintOptions) -> Hole:
    """What is run is a multiple of what the stages can make."""
    step = step_of(stages)
    return hole_in(
        hosted(given, stages[0].unet.like),
        mask,
        (step, step),
        feather=options.feather,
        soft=options.soft_mask,
        crop=options.padding_mask_crop,
        crop_size=stages[-1].size,
    )


def step_of(stages: tuple[Stage, ...]) -> int:
    """What the sides of a picture must be multiples of, for each stage to make its part."""
    last = max(stages[-1].size)
    steps = [last * stage.factor // math.gcd(last * stage.factor, max(stage.size)) for stage in stages]
    return math.lcm(*steps)


def _batched(hole: Hole, call: Call, reads: bool) -> tuple[Hole, Call]:
    """A call for as many pictures as there are in the hole, where it says one prompt, one class, or none. reads:
    whether the model reads words."""
    count, each, labels = len(hole), per_prompt(call.num_images_per_prompt), call.class_labels
    if count == 1:
        return hole, call
    if reads:
        if isinstance(call.prompt, str):
            call = dataclasses.replace(call, prompt=[call.prompt] * count)
    elif labels is None:
        call = dataclasses.replace(call, num_images_per_prompt=count * each)
    elif not is_list(labels) and not (is_array(labels) and labels.ndim):
        call = dataclasses.replace(call, class_labels=[labels] * count)
    return hole.repeated(each), call


def _repainting(stage: Stage) -> Stage:
    """Its own way of sampling where RePaint's is another one."""
    steps = min(stage.defaults.num_inference_steps, MOST_STEPS)
    sampling = dataclasses.replace(stage.sampling, sampler="ddpm")
    return dataclasses.replace(stage, sampling=sampling, defaults=stage.defaults._replace(num_inference_steps=steps))


def _scaled(size: Size, last: Stage, stage: Stage) -> Size:
    """The size of a stage's picture when that of the last one is `size`."""
    height, width = (side * max(stage.size) // max(last.size) for side in size)
    return height, width


def _resampled(wanted: Request, options: InpaintOptions) -> Request:
    """The same with RePaint's rows in the first stage."""
    first, *others = wanted.plans
    if first.said["strength"] not in (None, 1):
        why = "RePaint begins from noise alone; leave it out, or give method='blend'"
        raise ValueError(f"strength is {first.said['strength']}, but {why}")
    steps, length = first.table.levels, options.jump_length
    if length >= steps and length != InpaintOptions.jump_length:
        raise ValueError(f"jump_length is {length}, but the run has {steps} steps and would never jump; give less")
    jumps = (length, options.jump_n_sample)
    table = resampled(first.table, *jumps, faithful=options.faithful, compat=options.compat)
    return dataclasses.replace(wanted, plans=(first._replace(table=table), *others))
