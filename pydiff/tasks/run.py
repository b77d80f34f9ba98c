"""A checked call, and its run: encode the words, walk the stages, keep what each made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Generator as Iterates
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from pydiff._version import __version__
from pydiff.arrays import Array, inference
from pydiff.cascade import Cascade, Leg, StagePlan, Start, State
from pydiff.diffusion import loop
from pydiff.diffusion.noise import Noise
from pydiff.heat import HeatMaps
from pydiff.images import check_output_type, to_output, to_pil, write_png
from pydiff.tasks.begin import Begin, Micro, Now
from pydiff.tasks.changes import Change
from pydiff.tasks.classifier import CLASSIFIER, ClassifierGuidance
from pydiff.tasks.perturbed import with_perturbed
from pydiff.tasks.plan import PRIOR, Options
from pydiff.tasks.words import READING, SECOND, Told, Words, encode_all
from pydiff.text.encoders import TextEncoder
from pydiff.walk import run

# The settings that `generate` takes again; the others (task, model, version) only say what was.
REPEATED = (
    *("prompt", "negative_prompt", *SECOND, "class_labels", "seed", "size", "height", "width"),
    *(*Options.__dataclass_fields__, *Micro.__dataclass_fields__, *READING, *PRIOR, *CLASSIFIER),
)
Watch = Callable[[State], object]
StepEnd = Callable[["Walk", int, float, dict[str, Array]], "dict[str, Array] | None"]


@dataclass(frozen=True)
class Result:
    """What a run made.

    images: the last stage's pictures (a list of PIL pictures, or an array or tensor, as output_type says). stages: the
    same for every stage that ran, small first. heat: where captured words looked, by word; empty unless asked for with
    `capture`. seeds: one per picture, None where the caller gave generators. timings: seconds of the text encoder, of
    each stage and of all. settings: per picture, what makes it again.
    """

    images: Any
    stages: tuple[Any, ...]
    seeds: list[int | None]
    timings: dict[str, Any]
    settings: list[dict[str, Any]]
    heat: HeatMaps = field(default_factory=HeatMaps)

    def save(self, path: str | Path, index: int = 0) -> Path:
        """Write picture `index` as a PNG that carries its settings. ValueError when there can be no such file."""
        path = Path(path)
        picture = self.images[index]
        if not isinstance(picture, Image.Image):
            raise ValueError("save() writes PIL pictures; generate with output_type='pil'")
        write_png(path, picture, self.settings[index])
        return path


class Preview(NamedTuple):
    """A state of the run as a caller sees it: where it is, and what the picture will be as far as is known."""

    state: State
    plan: StagePlan

    @property
    def images(self) -> list[Image.Image]:
        """The estimate of the finished pictures, one per picture of the batch; latents are decoded for it."""
        if self.state.picture is not None:
            return to_pil(self.state.picture)
        with inference(self.state.denoised):
            return to_pil(self.plan.decoded(self.state.denoised))

    @property
    def image(self) -> Image.Image:
        return self.images[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)


class Walk:
    """What callback_on_step_end holds of a run: set `interrupt` (or diffusers' `_interrupt`) to True to end it."""

    interrupt = False
    _interrupt = False

    @property
    def ends(self) -> bool:
        return self.interrupt or self._interrupt


@dataclass(frozen=True)
class Request:
    """A checked call: nothing in it can fail for the caller's sake any more. begins: one per plan; guided: whether the
    negative prompt is read; said: what else its settings hold; said_of: and those of each
    picture. changes: to the attention of the first stage; classifier: what leads it to classes."""

    task: str
    cascade: Cascade
    words: Words | None
    seeds: list[int | None]
    noise: Noise
    plans: tuple[StagePlan, ...]
    begins: tuple[Begin, ...]
    guided: bool = False
    micro: Micro = field(default_factory=Micro)
    labels: Array | None = None
    on_step_end: StepEnd | None = None
    said: Mapping[str, Any] = field(default_factory=dict)
    said_of: tuple[Mapping[str, Any], ...] = ()
    changes: tuple[Change, ...] = ()
    classifier: ClassifierGuidance | None = None

    @property
    def encoders(self) -> list[TextEncoder]:
        return [plan.stage.text for plan in self.plans if plan.stage.text is not None]


def states(wanted: Request, timings: dict[str, Any] | None = None, *, decode: bool = True) -> Iterator[State]:
    """The run: text first, then every step of every stage."""
    began = time.perf_counter()
    told: dict[int, Told] = {}
    if wanted.words is not None:
        encoders = wanted.encoders
        encoded = encode_all(wanted.words, encoders, wanted.guided)
        told = {id(encoder): words for encoder, words in zip(encoders, encoded, strict=True)}
    if timings is not None:
        timings["text"] = time.perf_counter() - began
    walk = Walk()
    legs = [_leg(wanted, index, told, walk) for index in range(len(wanted.plans))]
    yield from run(legs, decode=decode)


def _leg(wanted: Request, index: int, told: Mapping[int, Told], walk: Walk) -> Leg:
    plan, begin = wanted.plans[index], wanted.begins[index]

    def started(before: Array | None) -> Start:
        now = Now(plan, told.get(id(plan.stage.text)), wanted.noise, before, wanted.micro, wanted.labels)
        start = begin(now)
        for change in wanted.changes if index == 0 else ():
            start = change(start)
        if index == 0 and wanted.classifier is not None:
            start = wanted.classifier.applied(start)
        start = start if plan.perturbed is None else with_perturbed(start, plan.perturbed)
        return start if wanted.on_step_end is None else _watched(start, wanted.on_step_end, walk)

    return Leg(plan, started)


def _watched(start: Start, on_step_end: StepEnd, walk: Walk) -> Start:
    """The same, with diffusers' callback after each step: it may replace the latents and end the run."""

    def adjust(state: loop.State) -> Array:
        x = state.x if start.adjust is None else start.adjust(state)
        answer = on_step_end(walk, state.index, state.t, {"latents": x}) or {}
        return answer.get("latents", x)

    return start._replace(adjust=adjust, ended=lambda: walk.ends)


def finish(wanted: Request, output_type: str = "pil", watch: Watch | None = None) -> Result:
    """Run to the end. watch, when given, is called with every state."""
    check_output_type(output_type)
    if watch is not None and not callable(watch):
        raise ValueError(f"watch is {watch!r}; expected a function that takes a state")
    began = time.perf_counter()
    timings: dict[str, Any] = {"stages": [0.0] * len(wanted.plans)}
    finished: list[Array] = []
    heat = HeatMaps()
    for state in states(wanted, timings, decode=output_type != "latent"):
        timings["stages"][state.stage] += state.seconds
        if state.picture is not None:
            finished.append(state.picture)
        heat = heat if state.heat is None else state.heat
        if watch is not None:
            watch(state)
    stages = tuple(to_output(x, output_type) for x in finished)
    timings["total"] = time.perf_counter() - began
    settings = [settings_of(wanted, index) for index in range(len(wanted.seeds))]
    heat = heat.over(stages[-1]) if heat and output_type == "pil" else heat
    return Result(stages[-1], stages, wanted.seeds, timings, settings, heat)


def previews(wanted: Request) -> Iterates[Preview, None, None]:
    return (Preview(state, wanted.plans[state.stage]) for state in states(wanted))


def settings_of(wanted: Request, index: int) -> dict[str, Any]:
    """What makes picture `index` again: `pipe.generate(**settings)` but for model, version and task."""
    plans = wanted.plans
    height, width = plans[-1].size
    return {
        "task": wanted.task,
        **({"prompt": None, "negative_prompt": None} if wanted.words is None else wanted.words.said(index)),
        **({} if wanted.labels is None else {"class_labels": int(wanted.labels[index])}),
        "seed": wanted.seeds[index],
        "size": max(plans[-1].stage.size),
        "height": height,
        "width": width,
        **_per_stage([plan.said for plan in plans]),
        **wanted.said,
        **({} if wanted.classifier is None else wanted.classifier.said(index)),
        **(wanted.said_of[index] if wanted.said_of else {}),
        "model": wanted.cascade.name,
        "version": __version__,
    }


def _per_stage(said: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [one[name] for one in said] for name in said[0]}
