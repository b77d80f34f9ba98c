"""Image to image on the embedded cascade: its laws. tests/checkpoints compares the pictures with those of diffusers."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pydiff
from pydiff.cascade import Cascade
from pydiff.tasks.image_to_image import image_to_image
from pydiff.tasks.plan import Options
from pydiff.tasks.request import Call
from pydiff.tasks.run import states

SMALL = {"size": 64, "num_inference_steps": 4, "output_type": "np"}


@pytest.fixture(scope="module")
def picture(pipe: pydiff.Pipeline) -> Image.Image:
    made: Image.Image = pipe.generate("a red ring on a white background", seed=7, size=64).images[0]
    return made


def test_a_request_does_no_work(pipe: pydiff.Pipeline, picture: Image.Image, idle: None) -> None:
    wanted = image_to_image(pipe.cascade, picture, Call("a blue ring", options={"num_inference_steps": 10}), size=256)
    assert [plan.said["strength"] for plan in wanted.plans] == [0.8, None]
    assert len(wanted.plans[0].table.rows) == 8
    with pytest.raises(AssertionError, match="work was begun"):
        next(states(wanted))


def test_little_strength_changes_little(pipe: pydiff.Pipeline, picture: Image.Image) -> None:
    """The first step of twenty backwards keeps the picture; all twenty make another one, whatever the network knows."""
    pixels = np.asarray(picture, float) / 255
    options = {**SMALL, "num_inference_steps": 20, "seed": 1}
    little, all_of_it = (
        np.abs(pipe.image_to_image(picture, "a blue ring", strength=strength, **options).images[0] - pixels).mean()
        for strength in (0.05, 1.0)
    )
    assert little < 0.5 * all_of_it


def test_same_seed_same_picture_alone_or_in_a_batch(pipe: pydiff.Pipeline, picture: Image.Image) -> None:
    prompts = ["a blue ring", "three green stars"]
    batch = pipe.image_to_image(picture, prompts, seed=[5, 9], **SMALL)
    for index, (prompt, seed) in enumerate(zip(prompts, [5, 9], strict=True)):
        alone = pipe.image_to_image(picture, prompt, seed=seed, **SMALL)
        assert np.allclose(batch.images[index], alone.images[0], rtol=0, atol=1e-5)
        assert batch.settings[index] == alone.settings[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strength": np.float32(0.5)},
        {"strength": [0.5, 0.5], "size": 256, "num_inference_steps": [4, 2]},
        {"strength": [None, 0.5], "size": 256, "num_inference_steps": [4, 2]},
        {"denoising_start": 0.5},
        {"strength": 0.75, "denoising_end": 0.9, "sampler": "ddim", "eta": 1.0},
    ],
    ids=lambda options: "-".join(options),
)
def test_settings_repeat_the_run(pipe: pydiff.Pipeline, picture: Image.Image, options: dict[str, Any]) -> None:
    made = pipe.image_to_image(picture, "a blue ring", seed=3, **{**SMALL, **options})
    settings = json.loads(json.dumps(made.settings[0], allow_nan=False))
    assert settings["task"] == "image_to_image"
    repeated = {
        name: settings[name] for name in ("prompt", "negative_prompt", "seed", "size", *Options.__annotations__)
    }
    again = pipe.image_to_image(picture, output_type="np", **repeated)
    assert np.array_equal(made.images, again.images)
    assert again.settings == made.settings


def test_what_another_run_left_is_taken_as_it_is(pipe: pydiff.Pipeline, picture: Image.Image) -> None:
    """It is noisy already: no noise is added. Tests of checkpoints hand latents over."""
    made = [
        pipe.image_to_image(picture, "a red ring", seed=seed, sampler="ddim", **part, **SMALL).images
        for part in ({"denoising_start": 0.5}, {"strength": 0.5})
        for seed in (7, 8)
    ]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[2], made[3])


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("image", "call", "message"),
    [
        (None, {}, "image is a NoneType"),
        (np.full((8, 8, 3), 9.0), {}, r"image has values outside \[0, 1\]"),
        (torch.zeros(2, 3, 64, 64), {}, r"image has shape \(2, 3, 64, 64\); expected one RGB picture"),
        (torch.zeros(1, 4, 64, 64), {}, r"image has shape \(1, 4, 64, 64\)"),
        (np.zeros((64, 64, 3)), {"strength": 0}, r"strength is 0.0; expected a number in \(0, 1\]"),
        (np.zeros((64, 64, 3)), {"strength": 0.01}, "leaves none"),
        (np.zeros((64, 64, 3)), {"strength": [0.5, 0.5]}, "strength lists 2 values, but 1 stages run"),
        (np.zeros((64, 64, 3)), {"denoising_end": [None, 0.5], "size": 256}, "denoising_end is 0.5 for stage 2"),
        (np.zeros((64, 64, 3)), {"prompt": None}, "prompt is None; expected a string"),
        (np.zeros((64, 64, 3)), {"latents": torch.zeros(1)}, "unknown option latents"),
        (np.zeros((64, 64, 3)), {"output_type": "gif"}, "output_type is 'gif'"),
        (np.zeros((64, 64, 3)), {"watch": 5}, "watch is 5; expected a function"),
        (np.zeros((64, 64, 3)), {"callback_on_step_end": 5}, "callback_on_step_end is 5; expected a function"),
    ],
)
def test_refused(pipe: pydiff.Pipeline, image: Any, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.image_to_image(image, **{"prompt": "a", "size": 64, "num_inference_steps": 5, **call})


def test_a_model_that_begins_from_an_embedding_takes_no_picture(pipe: pydiff.Pipeline) -> None:
    stage = dataclasses.replace(pipe.cascade.stages[0], traits={"unclip": None})
    with pytest.raises(ValueError, match="other begins from an embedding of its own, not from a picture"):
        image_to_image(Cascade("other", (stage,), 64), np.zeros((8, 8, 3)), Call("a"))


@pytest.mark.usefixtures("idle")
def test_tasks_of_other_models_say_what_this_one_does(pipe: pydiff.Pipeline) -> None:
    image, larger = np.zeros((8, 8, 3)), dataclasses.replace(pipe.cascade, stages=pipe.cascade.stages[1:])
    for task, message in [
        (lambda: pipe.instruct(image, "a"), r"follows no instructions; it makes pictures of prompts: pipe.generate\("),
        (lambda: pipe.variations(image), "pydiff-embedded makes no variations; that takes an unCLIP model"),
        (lambda: image_to_image(larger, image, Call("a")), r"does not begin from a noised picture; .* pipe.upscale\("),
        (lambda: pydiff.Pipeline(larger).inpaint(image, image, "a"), r"fills no holes; .* pipe.upscale\("),
        (lambda: pydiff.Pipeline(larger).instruct(image, "a"), r"follows no instructions; .* pipe.upscale\("),
    ]:
        with pytest.raises(ValueError, match=message):
            task()


def test_pixels_keep_their_proportions(pipe: pydiff.Pipeline) -> None:
    wide = Image.new("RGB", (200, 100), "white")
    made = pipe.image_to_image(wide, "a red circle", seed=1, size=256, num_inference_steps=[2, 1])
    assert [stage[0].size for stage in made.stages] == [(64, 32), (256, 128)]
