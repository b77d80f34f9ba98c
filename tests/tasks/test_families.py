"""The laws of a request and its run on tiny models of every kind: nothing begins before all is checked, streaming is
generating, a batch is its pictures alone, settings repeat the run, junk is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pydiff
from pydiff.tasks.begin import Micro
from pydiff.tasks.plan import PRIOR, Options
from pydiff.tasks.run import Preview
from pydiff.tasks.words import EMBEDDINGS, READING, SECOND
from tests.checkpoints import makers
from tests.checkpoints.test_pictures import picture
from tests.checkpoints.test_pixels import unet2d
from tests.idle import WorkBeganError
from tests.tasks.junk import junk

WORDS = ["the red cat on a table", "a cat"]
IMAGE, MASK = picture(24, 32), torch.zeros(24, 32)
MASK[5:17, 9:25] = 1


def kin(kind: str, channels: int) -> Callable[[Path], Any]:
    return lambda folder: makers.stable_diffusion(folder, kind, "euler_ancestral", unet={"in_channels": channels})


def pixels(folder: Path) -> Any:
    return makers.saved(diffusers.DDIMPipeline(unet2d(num_class_embeds=10), diffusers.DDIMScheduler()), folder)


MAKERS: dict[str, Callable[[Path], Any]] = {
    "sd": kin("StableDiffusionPipeline", 4),
    "instruct": kin("StableDiffusionInstructPix2PixPipeline", 8),
    "inpaint": kin("StableDiffusionInpaintPipeline", 9),
    "xl": makers.xl,
    "refiner": lambda folder: makers.xl(folder, refiner=True),
    "upscaler": makers.upscaler,
    "if": makers.deepfloyd,
    "pixels": pixels,
}
# Folders, the task, what it is given, and an option or two of its own.
RUNS: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = [
    ("sd", "generate", (), {"height": 24, "width": 40, "clip_skip": 1, "vae_tiling": False}),
    ("sd", "image_to_image", (IMAGE,), {"strength": 0.7}),
    ("sd", "inpaint", (IMAGE, MASK), {"strength": 0.7}),
    ("inpaint", "inpaint", (IMAGE, MASK), {}),
    ("sd", "outpaint", (IMAGE,), {"left": 5, "right": 12}),
    ("instruct", "instruct", (IMAGE,), {"image_guidance_scale": 1.3}),
    ("xl", "generate", (), {"original_size": (20, 30), "prompt_2": "on a table", "weighting": True}),
    ("refiner", "image_to_image", (IMAGE,), {"aesthetic_score": 4}),
    ("upscaler", "upscale", (picture(8, 12),), {"noise_level": 30}),
    ("if", "generate", (), {"eta": 0.0, "sampler": "ddim"}),
    ("pixels", "generate", (), {"class_labels": [4, 7]}),
]
CASES = pytest.mark.parametrize(("folder", "task", "given_", "own"), RUNS, ids=[f"{run[0]}-{run[1]}" for run in RUNS])


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pydiff.Pipeline]:
    made: dict[str, pydiff.Pipeline] = {}

    def open_(name: str) -> pydiff.Pipeline:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            MAKERS[name](folder)
            made[name] = pydiff.load(folder, dtype=torch.float64)  # random networks amplify rounding
        return made[name]

    return open_


def call(own: dict[str, Any], **more: Any) -> dict[str, Any]:
    words = {} if "class_labels" in own else {"prompt": WORDS}
    return {**words, "num_inference_steps": 3, "seed": [3, 9], "output_type": "np", **own, **more}


@CASES
def test_nothing_begins_before_all_is_checked(
    opened: Callable[[str], Any], folder: str, task: str, given_: tuple[Any, ...], own: dict[str, Any], idle: None
) -> None:
    run = getattr(opened(folder), task)
    with pytest.raises(AssertionError, match="work was begun"):
        run(*given_, **call(own))
    for name, value in [
        *(("seed", "x"), ("num_inference_steps", 0), ("other", 1), ("watch", 3), ("callback_on_step_end", 3)),
        *(("prior_guidance_scale", 2.0), ("prompt_embeds", 3), ("eta", 2), ("latents", 3), ("timesteps", [3, 5])),
    ]:
        with pytest.raises(ValueError, match=name):
            run(*given_, **call(own, **{name: value}))


@CASES
def test_a_batch_is_its_pictures_alone_and_settings_repeat_them(
    opened: Callable[[str], Any], folder: str, task: str, given_: tuple[Any, ...], own: dict[str, Any]
) -> None:
    run = getattr(opened(folder), task)
    made = run(*given_, **call(own))
    assert not np.array_equal(made.images[0], made.images[1])
    for index in (0, 1):
        told = json.loads(json.dumps(made.settings[index], allow_nan=False))
        assert told["task"] == task
        assert (told["height"], told["width"]) == made.images.shape[1:3]
        passed = ("task", "model", "version", *(() if task == "generate" else ("height", "width")))
        takes_size = task in ("generate", "image_to_image", "upscale")
        passed = passed if takes_size else (*passed, "size")
        alone = run(*given_, output_type="np", **{name: value for name, value in told.items() if name not in passed})
        assert np.abs(alone.images[0] - made.images[index]).max() < 1e-6  # np pictures are float32
        assert alone.settings[0] == made.settings[index]


@CASES
def test_watching_a_run_changes_nothing(
    opened: Callable[[str], Any], folder: str, task: str, given_: tuple[Any, ...], own: dict[str, Any]
) -> None:
    pipe, seen = opened(folder), list[Any]()
    made = getattr(pipe, task)(*given_, **call(own, watch=seen.append))
    assert np.array_equal(made.images, getattr(pipe, task)(*given_, **call(own)).images)
    assert [state.picture is None for state in seen] == [True] * (len(seen) - 1) + [False]
    assert [state.done for state in seen] == [False] * (len(seen) - 1) + [True]
    latent = getattr(pipe, task)(*given_, **call(own, output_type="latent")).images
    assert torch.equal(latent, seen[-1].x)
    assert torch.equal(latent.mul_(0), torch.zeros_like(latent))  # an ordinary tensor
    assert sum(made.timings["stages"]) <= made.timings["total"]


@pytest.mark.parametrize("folder", ["sd", "xl", "if", "pixels"])
def test_streaming_is_generating(opened: Callable[[str], Any], folder: str) -> None:
    own = next(run[3] for run in RUNS if run[:2] == (folder, "generate"))
    arguments = {name: value for name, value in call(own).items() if name != "output_type"}
    made = opened(folder).generate(**arguments).images
    previews: list[Preview] = list(opened(folder).stream(**arguments))
    assert [preview.step for preview in previews] == [0, 1, 2]
    for preview in previews:  # pictures, where the run walks latents too
        assert [image.size for image in preview.images] == [image.size for image in made]
    assert all(np.array_equal(image, other) for image, other in zip(previews[-1].images, made, strict=True))


@pytest.mark.parametrize(
    ("folder", "task", "given_", "own", "message"),
    [
        ("sd", "generate", (), {"height": 25}, "height is 25; expected a multiple of 2"),
        ("sd", "generate", (), {"width": 2}, "the picture is 2x32; expected sides of at least 4 pixels"),
        ("sd", "generate", (), {"strength": 0.5}, "strength is 0.5 for stage 1 of a task that takes none"),
        ("sd", "generate", (), {"denoising_start": 0.5}, "denoising_start is 0.5 for stage 1 of a task"),
        ("sd", "generate", (), {"aesthetic_score": 4}, "aesthetic_score is for Stable Diffusion XL"),
        ("sd", "generate", (), {"prompt_2": "a"}, "this model has one text encoder; leave prompt_2 out"),
        ("sd", "generate", (), {"prompt_embeds": torch.zeros(2, 3, 31), "prompt": None}, "of width 32"),
        ("sd", "generate", (), {"prompt_embeds": torch.zeros(2, 3, 32), "prompt": None}, "without negative_prompt_emb"),
        ("sd", "generate", (), {"class_labels": 3, "prompt": WORDS}, "this model knows no classes"),
        ("sd", "image_to_image", (picture(1, 8),), {}, "the picture is 8x0; expected sides of at least 4 pixels"),
        ("sd", "image_to_image", (torch.zeros(3, 4, 8, 8),), {}, "latents of 3 pictures for 2; give one, or one per"),
        ("sd", "image_to_image", (torch.zeros(1, 4, 8, 8).long(),), {}, "image holds latents of torch.int64"),
        ("sd", "image_to_image", (torch.full((1, 4, 8, 8), torch.nan),), {}, "image holds .* expected finite floats"),
        ("sd", "image_to_image", (torch.zeros(1, 4, 1, 8),), {}, "the picture is 16x2; expected sides of at least 4"),
        ("sd", "inpaint", (IMAGE, MASK), {"strength": 0}, r"strength is 0.0; expected a number in \(0, 1\]"),
        ("sd", "inpaint", (IMAGE, MASK), {"denoising_start": 0.5}, "denoising_start is 0.5 for stage 1 of a task"),
        ("sd", "inpaint", (IMAGE, MASK), {"denoising_end": 0.5}, "denoising_end is 0.5 for stage 1 of a task"),
        ("sd", "inpaint", (IMAGE, MASK[1:]), {}, r"mask has shape \(23, 32\); expected the picture's height and width"),
        ("sd", "inpaint", (picture(1, 1), torch.ones(1, 1)), {}, "the picture is 2x2; expected sides of at least 4"),
        ("instruct", "instruct", (IMAGE,), {"strength": 0.5}, "strength is 0.5 for stage 1 of a task"),
        ("instruct", "instruct", (IMAGE,), {"image_guidance_scale": "x"}, "image_guidance_scale is 'x'"),
        ("instruct", "instruct", (picture(1, 1),), {}, "the picture is 0x0"),
        ("upscaler", "upscale", (picture(1, 2),), {}, "the picture is 4x2; expected sides of at least 4 pixels"),
        (
            "upscaler",
            "upscale",
            (IMAGE,),
            {"noise_level": 351},
            "noise_level is 351; expected an integer from 0 to 350",
        ),
        ("xl", "generate", (), {"prompt_2": ["a"] * 3}, "prompt_2 lists 3 for 2 prompts"),
        ("pixels", "generate", (), {"class_labels": [4, 7], "prompt": "a"}, "prompt is given, but this model reads no"),
    ],
)
@pytest.mark.usefixtures("idle")
def test_refused(
    opened: Callable[[str], Any], folder: str, task: str, given_: tuple[Any, ...], own: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(opened(folder), task)(*given_, **call(own))


NAMES = [
    *("negative_prompt", "num_images_per_prompt", "generator", "class_labels", "size", "height"),
    *(*Options.__dataclass_fields__, *Micro.__dataclass_fields__, *EMBEDDINGS, *SECOND, *READING, *PRIOR),
]


@given(st.sampled_from(RUNS), st.dictionaries(st.sampled_from(NAMES), junk, max_size=3))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("idle")
def test_junk_raises_nothing_but_value_errors_before_work(
    opened: Callable[[str], Any], run: Any, arguments: dict[str, Any]
) -> None:
    folder, task, given_, own = run
    with contextlib.suppress(ValueError, WorkBeganError):  # what is sound begins work
        getattr(opened(folder), task)(*given_, **call({**own, **arguments}))
