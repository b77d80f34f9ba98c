"""From a prompt to a picture: encode the words, walk the stages, keep what each made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from pydiff._version import __version__
from pydiff.cascade import Cascade, Stage, StagePlan, State, Text, run
from pydiff.diffusion.noise import Noise
from pydiff.images import from_user, to_output, to_pil, write_png
from pydiff.tasks.plan import Options, check_output_type, generators, plan_stages, prompt_pairs, stages_to

# The settings that `generate` takes again; the others (task, model, version) only say what was.
REPEATED = ("prompt", "negative_prompt", "seed", "size", *Options.__dataclass_fields__)


@dataclass(frozen=True)
class Result:
    """What a run made.

    images: the last stage's pictures (a list of PIL pictures, or an array or tensor, as output_type says). stages: the
    same for every stage that ran, small first. heat: captured attention by word. seeds: one per picture, None where the
    caller gave generators. timings: seconds of the text encoder, of each stage and of all. settings: per picture, what
    makes it again.
    """

    images: Any
    stages: tuple[Any, ...]
    seeds: list[int | None]
    timings: dict[str, Any]
    settings: list[dict[str, Any]]
    heat: dict[str, Any] = field(default_factory=dict)

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

    @property
    def images(self) -> list[Image.Image]:
        """The estimate of the finished pictures, one per picture of the batch."""
        return to_pil(self.state.denoised)

    @property
    def image(self) -> Image.Image:
        return self.images[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.state, name)


@dataclass(frozen=True)
class Request:
    """A checked call: nothing in it can fail for the caller's sake any more."""

    cascade: Cascade
    prompts: list[str]
    negatives: list[str]
    seeds: list[int | None]
    noise: Noise
    plans: tuple[StagePlan, ...]
    low_res: Tensor | None = None

    @property
    def guided(self) -> bool:
        return any(len(plan.guidance.weights[0]) > 1 for plan in self.plans)


def request(
    cascade: Cascade,
    prompt: str | Sequence[str],
    *,
    negative_prompt: str | Sequence[str] | None = "",
    seed: int | Sequence[int] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    num_images_per_prompt: int = 1,
    size: int | None = None,
    image: Any = None,
    options: Options = Options(),
) -> Request:
    """Check everything; raise ValueError before any work. With an image, only super-resolution stages run on it."""
    prompts, negatives = prompt_pairs(prompt, negative_prompt, num_images_per_prompt)
    stages = stages_to(cascade, size)
    low_res = None
    if image is not None:
        low_res = _square(from_user(image)).repeat(len(prompts), 1, 1, 1)
        stages = _stages_above(stages, low_res.shape[-1])
    plans = plan_stages(stages, options)
    cascade.text.check([*prompts, *negatives])
    seeds, drawn = generators(seed, generator, len(prompts))
    return Request(cascade, prompts, negatives, seeds, Noise(drawn), plans, low_res)


def _stages_above(stages: Sequence[Stage], side: int) -> tuple[Stage, ...]:
    """The super-resolution stages that make a picture of that side larger."""
    larger = [stage for stage in stages if stage.noising is not None]
    if not larger:
        raise ValueError(f"size is {stages[-1].size}, which no super-resolution stage makes: nothing would be upscaled")
    if larger[-1].size <= side:
        raise ValueError(f"image is {side}x{side}; expected one smaller than {larger[-1].size}x{larger[-1].size}")
    return tuple(stage for stage in larger if stage.size > side)


def _square(picture: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    if height != width:
        raise ValueError(f"image is {width}x{height}; expected a square picture: crop or pad it")
    return picture


def states(wanted: Request, timings: dict[str, Any] | None = None) -> Iterator[State]:
    """The run: text first, then every step of every stage."""
    began = time.perf_counter()
    prompt = wanted.cascade.text.encode(wanted.prompts)
    text = Text(prompt, wanted.cascade.text.encode(wanted.negatives) if wanted.guided else prompt)
    if timings is not None:
        timings["text"] = time.perf_counter() - began
    yield from run(wanted.plans, text, wanted.noise, wanted.low_res)


def generate(wanted: Request, output_type: str = "pil", watch: Callable[[State], object] | None = None) -> Result:
    """Run to the end. watch, when given, is called with every state."""
    check_output_type(output_type)
    began = time.perf_counter()
    timings: dict[str, Any] = {"stages": [0.0] * len(wanted.plans)}
    finished = []
    for state in states(wanted, timings):
        timings["stages"][state.stage] += state.seconds
        if state.stage_done:
            finished.append(state.x)
        if watch is not None:
            watch(state)
    stages = tuple(to_output(x, output_type) for x in finished)
    timings["total"] = time.perf_counter() - began
    settings = [settings_of(wanted, index) for index in range(len(wanted.prompts))]
    return Result(stages[-1], stages, wanted.seeds, timings, settings)


def settings_of(wanted: Request, index: int) -> dict[str, Any]:
    """What makes picture `index` again: `pipe.generate(**settings)` but for model, version and task."""
    plans = wanted.plans
    return {
        "task": "generate" if wanted.low_res is None else "upscale",
        "prompt": wanted.prompts[index],
        "negative_prompt": wanted.negatives[index],
        "seed": wanted.seeds[index],
        "size": plans[-1].stage.size,
        **{name: [plan.said[name] for plan in plans] for name in plans[0].said},
        "model": wanted.cascade.name,
        "version": __version__,
    }
