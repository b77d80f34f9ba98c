"""What a model says that it runs, runs; what it says that it refuses, it refuses for the reason it says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest

import pydiff
from pydiff.cascade import EXAMPLE
from pydiff.diffusion import SAMPLERS
from pydiff.tasks.choices import SAMPLINGS, STEPS, TASKS, WORDS, Choice, Example, arguments, example
from pydiff.tasks.restore import MASKED
from tests.checkpoints import broken, makers
from tests.checkpoints.test_pixels import unet2d
from tests.tasks.test_families import MAKERS
from tests.tasks.test_restore import reading, wordless

README = Path(__file__).parents[2] / "README.md"
EXHAUSTIVE = ("pixels", "sd", "inpaint")  # whose every algorithm is run; of the others a few


def plain(folder: Path) -> None:
    makers.saved(diffusers.DDPMPipeline(unet2d(), diffusers.DDPMScheduler()), folder)


def cascade(folder: Path) -> list[Path]:
    makers.deepfloyd(folder / "1")
    makers.deepfloyd(folder / "2", "IFSuperResolutionPipeline", upscales=True)
    return [folder / "1", folder / "2"]


MODELS: dict[str, Callable[[Path], Any]] = {
    "pixels": plain,
    "classes": MAKERS["pixels"],
    "sd": MAKERS["sd"],
    "inpaint": MAKERS["inpaint"],
    "example": makers.paint_by_example,
    "instruct": MAKERS["instruct"],
    "upscaler": MAKERS["upscaler"],
    "if": cascade,
    "palette": wordless,
    "palette that reads": reading,
    "unclip": broken.unclip,
    "variation": broken.variation,
}
NAMES = {  # in the README
    "pixels": "DDPMPipeline, DDIMPipeline",
    "classes": "the same with classes",
    "sd": "StableDiffusionPipeline",
    "inpaint": "StableDiffusionInpaintPipeline",
    "example": "PaintByExamplePipeline",
    "instruct": "StableDiffusionInstructPix2PixPipeline",
    "upscaler": "StableDiffusionUpscalePipeline",
    "if": "IFPipeline with IFSuperResolutionPipeline",
    "palette": "PalettePipeline",
    "unclip": "UnCLIPPipeline",
    "variation": "UnCLIPImageVariationPipeline",
}
METHODS: dict[str, Callable[[pydiff.Pipeline, Example], dict[str, Any]]] = {
    "generate": lambda pipe, of: {},
    "edit": lambda pipe, of: {"source": WORDS[0], "target": WORDS[1]},
    "inpaint": lambda pipe, of: {
        "image": of.picture,
        "mask": of.mask,
        "example": of.picture if pipe.cascade.stages[0].kind == EXAMPLE else None,
    },
    "outpaint": lambda pipe, of: {"image": of.picture, "left": of.picture.shape[2]},
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pydiff.Pipeline]:
    made: dict[str, pydiff.Pipeline] = {}

    def open_(name: str) -> pydiff.Pipeline:
        if name not in made:
            folder = tmp_path_factory.mktemp("model")
            whole = pydiff.load(MODELS[name](folder) if name == "if" else _made(MODELS[name], folder)).cascade
            first, *others = whole.stages
            later = (dataclasses.replace(one, defaults=one.defaults._replace(num_inference_steps=2)) for one in others)
            made[name] = pydiff.Pipeline(dataclasses.replace(whole, name="model", stages=(first, *later)))
        return made[name]

    return open_


def _made(make: Callable[[Path], Any], folder: Path) -> Path:
    make(folder)
    return folder


def run(pipe: pydiff.Pipeline, choice: Choice, condition: str, **options: Any) -> Any:
    """The call that stands for a cell, by the pipeline's own method."""
    of = example(pipe.cascade)
    method, _, kind = choice.task.partition(" ")
    given = METHODS.get(method, lambda *_: {"image": of.picture})(pipe, of)
    if kind:
        given |= {"task": kind, "mask": of.mask if kind in MASKED else None}
    call = arguments(pipe.cascade, choice.task, choice.sampling, condition, **options)
    return getattr(pipe, method)(**given, **call, seed=1, output_type="pt").images


@pytest.mark.parametrize("name", MODELS)
def test_what_is_said_to_run_runs(opened: Callable[[str], pydiff.Pipeline], name: str) -> None:
    """Every condition, algorithm and thresholding once, in combinations."""
    pipe = opened(name)
    rows = [choice for choice in pipe.choices() if choice.runs]
    assert rows
    for choice in rows:
        algorithms = choice.algorithms if name in EXHAUSTIVE else choice.algorithms[:3]
        axes = choice.conditions, algorithms, choice.thresholdings
        for index in range(max(map(len, axes))):
            condition, algorithm, thresholding = (axis[index % len(axis)] for axis in axes)
            images = run(pipe, choice, condition, sampler=algorithm, thresholding=thresholding)
            assert images.isfinite().all(), (choice, condition, algorithm, thresholding)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("idle")
def test_what_is_said_to_be_refused_is(opened: Callable[[str], pydiff.Pipeline], name: str) -> None:
    pipe = opened(name)
    for choice in pipe.choices():
        for what, why in choice.refused.items():
            axis, _, value = what.partition(" ")
            if what in ("condition none", "condition image") and choice.runs and "give class_labels" not in why:
                continue  # no argument asks for it
            condition = value if axis == "condition" else next(iter(choice.conditions), "none")
            options = {"algorithm": {"sampler": value}, "thresholding": {"thresholding": value}}.get(axis, {})
            with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
                run(pipe, choice, condition, **options)


def test_every_task_and_way_of_sampling_has_a_row(opened: Callable[[str], pydiff.Pipeline]) -> None:
    rows = opened("sd").choices()
    assert [(row.task, row.sampling) for row in rows] == [(task, sampling) for task in TASKS for sampling in SAMPLINGS]
    assert STEPS == 4
    latent = next(row for row in rows if row.runs)
    assert latent.thresholdings == ("none",)
    assert "walks through latents" in latent.refused["thresholding dynamic"]


def line(name: str, rows: list[Choice]) -> str:
    """Of the README's table."""
    reverse = [row for row in rows if row.runs and row.sampling == "reverse"]
    tasks: dict[tuple[str, ...], list[str]] = {}
    for row in reverse:
        same = tasks.setdefault(row.conditions, [])
        same.append(row.task.removeprefix("restore ") if same and same[0].startswith("restore") else row.task)
    told = "; ".join(f"{', '.join(names)}: {', '.join(conditions)}" for conditions, names in tasks.items())
    (thresholdings,) = {row.thresholdings for row in reverse}
    resampled = [row.task for row in rows if row.runs and row.sampling == "resampling"]
    return f"| {NAMES[name]} | {told} | {', '.join(thresholdings)} | {', '.join(resampled) or 'none'} |"


def test_the_table_of_the_readme(opened: Callable[[str], pydiff.Pipeline]) -> None:
    lines = README.read_text().splitlines()
    for name in NAMES:
        rows = opened(name).choices()
        assert line(name, rows) in lines, line(name, rows)
        for row in (row for row in rows if row.runs):
            few = ("ddpm", "ddim", "euler", "euler_ancestral")
            assert row.algorithms == (few if row.sampling == "resampling" else tuple(SAMPLERS))
