"""From a real picture to the noise that leads to it, so that it can be edited like one that was made.

The picture is walked backwards with DDIM and its prompt, unguided (Dhariwal and Nichol 2021, appendix F). A guided run
forward strays from that path, unless the null prompt is the prompt itself (Miyake et al. 2023, negative-prompt
inversion), or was optimised at every level (Mokady et al. 2023, null-text inversion).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pydiff.arrays import Array, inference, is_torch, like, namespace, placed, wide
from pydiff.cascade import Cascade, Leg, StagePlan, Start, State
from pydiff.diffusion.guidance import unguided
from pydiff.diffusion.inversion import OnInner, Tuning, inverted, null_text
from pydiff.images import to_unit
from pydiff.networks import UnexportedError
from pydiff.nn.cond import Cond
from pydiff.tasks.begin import Now, branches
from pydiff.tasks.checks import integer, number, otherwise
from pydiff.tasks.classifier import CLASSIFIER
from pydiff.tasks.columns import prompt_columns
from pydiff.tasks.edit import check_editable
from pydiff.tasks.image_to_image import Given, encoded, picture_of, resized
from pydiff.tasks.inverted import METHODS, NEGATIVE_PROMPT, NULL_TEXT, Inverted
from pydiff.tasks.plan import stages_to
from pydiff.tasks.reconstruct import WALK, reconstruct, walked
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request, finish
from pydiff.tasks.words import encode_all
from pydiff.walk import run

STEPS = 50
MOST_PSNR = 100.0  # dB; of pictures that are the same
UNUSED = {  # arguments of other tasks, and what they are when left out
    "seed": None,
    "generator": None,
    "num_images_per_prompt": 1,
    "callback_on_step_end": None,
}


@dataclasses.dataclass(frozen=True)
class InvertOptions:
    """How a picture is inverted.

    method: "negative_prompt", whose null prompt is the prompt, so that a guided run forward is as the unguided way
    back (Miyake et al. 2023); "null_text", whose null prompt is optimised at every level for this guidance_scale, in
    minutes (Mokady et al. 2023); or "ddim" alone, which strays where the run is guided. refinements: how often every
    step backwards is found again from its own result, 0 being diffusers' DDIMInverseScheduler; each takes as long as
    the first. measure: the picture is made again, and compared, as `Inverted.psnr`. Of null_text: inner_steps, changes
    at every level; early_stop, the loss that is small enough at the first; callback_on_inner_step(level, inner step,
    loss), called after each change, whose exception ends the inversion.
    """

    method: str = NEGATIVE_PROMPT
    refinements: int = 1
    measure: bool = False
    inner_steps: int = 10
    early_stop: float = 1e-5
    callback_on_inner_step: OnInner | None = None

    def check(self) -> None:
        if not isinstance(self.method, str) or self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; expected one of {', '.join(METHODS)}")
        if not isinstance(self.measure, bool):
            raise ValueError(f"measure is {self.measure!r}; expected True or False")
        integer("refinements", self.refinements, 0)
        integer("inner_steps", self.inner_steps, 1)
        number("early_stop", self.early_stop, 0)
        if self.callback_on_inner_step is not None and not callable(self.callback_on_inner_step):
            raise ValueError(f"callback_on_inner_step is {self.callback_on_inner_step!r}; expected a function")


class Inversion(NamedTuple):
    """A checked call of `invert`. wanted: of the run forward; picture (1, 3, H, W), or latents."""

    wanted: Request
    picture: Given
    options: InvertOptions

    @property
    def plan(self) -> StagePlan:
        """Of the run forward."""
        return self.wanted.plans[0]


def invert(cascade: Cascade, image: Any, call: Call, *, size: int | None = None) -> Inversion:
    """Check everything; raise ValueError before any work. size: of the last stage that will run on the result."""
    stages = stages_to(cascade, size)
    check_editable(cascade, stages[0])
    names = [field.name for field in dataclasses.fields(InvertOptions)]
    how = InvertOptions(**{name: call.options[name] for name in names if name in call.options})
    how.check()
    _check_call(call, how.method)
    given, sizes = picture_of(image, stages)
    if len(given) != 1:
        raise ValueError(f"image holds latents of {len(given)} pictures; give those of one")
    options = walked({name: value for name, value in call.options.items() if name not in names}, WALK, 1)
    if options.get("timesteps") is None:
        options["num_inference_steps"] = otherwise(options.get("num_inference_steps"), STEPS)
    call = dataclasses.replace(call, options=options)
    wanted = make_request("invert", cascade, stages[:1], (), call, sizes[:1])
    assert stages[0].text is not None
    assert wanted.words is not None
    prompt_columns(stages[0].text, wanted.words, wanted.guided)  # refuses words that cannot be edited
    if how.method == NULL_TEXT and not wanted.guided:
        scale = wanted.plans[0].said["guidance_scale"]
        raise ValueError(f"guidance_scale is {scale}, but null_text is for runs that are guided; give more than 1")
    if how.method == NULL_TEXT and not is_torch(stages[0].unet.like):
        raise UnexportedError("method is 'null_text', which needs torch weights; give another one")
    return Inversion(wanted, given, how)


def _check_call(call: Call, method: str) -> None:
    if not isinstance(call.prompt, str):
        raise ValueError(f"prompt is {call.prompt!r}; expected a string that says what the picture shows")
    for name, usual in UNUSED.items():
        if getattr(call, name) != usual:
            raise ValueError(f"{name} is given, but an inversion draws nothing and is followed by watch; leave it out")
    if call.negative_prompt is not None and method != NULL_TEXT:
        raise ValueError(f"negative_prompt is {call.negative_prompt!r}, but {method} reads none; leave it out")
    for name in call.chosen(("guidance_rescale", "guidance_interval", "pag_scale", "merge_tokens", *CLASSIFIER)):
        raise ValueError(f"{name} is given, but an inversion has no use for it; say it of the edit")


def find(inversion: Inversion, watch: Callable[[State], object] | None = None) -> Inverted:
    """Run it. watch is called with every state: of stage 0, the run backwards, and for null_text of stage 1, the
    optimisation."""
    if watch is not None and not callable(watch):
        raise ValueError(f"watch is {watch!r}; expected a function that takes a state")
    wanted, plan = inversion.wanted, inversion.plan
    start = _start(inversion)
    trajectory, rows = [start.x], 1 + inversion.options.refinements
    for state in run([_backwards(inversion, start)], decode=False):
        if (state.step + 1) % rows == 0:
            trajectory.append(_copy(state.x))  # an ordinary tensor, not one of inference mode
        if watch is not None:
            watch(state._replace(stages=2 if inversion.options.method == NULL_TEXT else 1))
    null = None
    if inversion.options.method == NULL_TEXT:
        found = []
        for state, states in _tuned(inversion, start, trajectory):
            found.append(states)
            if watch is not None:
                watch(state)
        null = namespace(*found).stack(found)
    assert wanted.words is not None
    said = {name: plan.said[name] for name in ("num_inference_steps", "timesteps", "guidance_scale")}
    settings = {**{name: value for name, value in said.items() if value is not None}, **wanted.said}
    prompt = wanted.words.prompts[0]
    made = Inverted(trajectory[-1], prompt, inversion.options.method, settings, wanted.cascade.name, null)
    return dataclasses.replace(made, psnr=_psnr(inversion, made)) if inversion.options.measure else made


def _start(inversion: Inversion) -> Start:
    """The picture's x (1, C, h, w), clean, and the branches of the run forward. Ordinary tensors, not inference mode's,
    so that null states can be optimised with them."""
    wanted, plan = inversion.wanted, inversion.plan
    assert wanted.words is not None
    told = encode_all(wanted.words, wanted.encoders, wanted.guided)[0]
    now = Now(plan, told, wanted.noise, None, wanted.micro)
    with inference(now.weight):
        x, made = encoded(now, inversion.picture, drawn=False), branches(now)
    return Start(_copy(x), wanted.noise, [branch._replace(cond=_cloned(branch.cond)) for branch in made])


def _cloned(cond: Cond) -> Cond:
    text, mask, labels = (None if part is None else _copy(part) for part in (cond.text, cond.mask, cond.labels))
    added = cond.added and {name: _copy(value) for name, value in cond.added.items()}
    return Cond(text, mask, labels, added)


def _copy(x: Array) -> Array:
    copied: Array = namespace(x).asarray(x, copy=True)
    return copied


def _backwards(inversion: Inversion, start: Start) -> Leg:
    plan, how = inversion.plan, inversion.options
    table = inverted(plan.table, plan.stage.sampling.prediction_type, refinements=how.refinements)
    plan = plan._replace(table=table, guidance=unguided(table.levels))
    return Leg(plan, lambda _: start._replace(branches=start.branches[:1]))


def _tuned(inversion: Inversion, start: Start, trajectory: list[Array]) -> Iterator[tuple[State, Array]]:
    """The states of null-text optimisation, each with the null states (1, T, D) of its level."""
    plan, unet, how = inversion.plan, inversion.plan.stage.unet, inversion.options
    text, null = (branch.cond for branch in start.branches)
    assert null.text is not None

    def predict(x: Array, t: float, states: Array | None) -> Array:
        return unet(x, placed(t, x), text if states is None else null._replace(text=states))

    began, steps = time.perf_counter(), plan.table.levels
    for level, t, x, denoised, states, _ in null_text(
        predict,
        plan.table,
        plan.guidance,
        trajectory,
        wide(null.text),
        prediction_type=plan.stage.sampling.prediction_type,
        tuning=Tuning(how.inner_steps, how.early_stop, how.callback_on_inner_step),
    ):
        yield State(1, 2, level, steps, t, x, denoised, time.perf_counter() - began), states
        began = time.perf_counter()


def _psnr(inversion: Inversion, made: Inverted) -> float:
    """Of the picture made again against the one that came, -10 log10 of the mean square of differences in [0, 1]."""
    wanted, plan = inversion.wanted, inversion.plan
    coding = {f"vae_{name}": on for name, on in plan.coding.items()}
    request = reconstruct(wanted.cascade, made, Call(options=coding), size=max(plan.stage.size))
    kept = is_torch(made.latents)
    images = finish(request, "pt" if kept else "np").images
    again = images if kept else images.transpose(0, 3, 1, 2)
    picture = inversion.picture
    if picture.shape[1] == 3:
        picture = resized(picture, plan)
    else:
        with inference(made.latents):
            picture = plan.decoded(like(picture, made.latents))
    error = ((again - like(to_unit(picture), again)) ** 2).mean().item()
    return min(-10 * math.log10(max(error, 1e-12)), MOST_PSNR)
