"""Requests for pictures of prompts and for larger pictures: which stages run, at which sizes, from what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pydiff
from pydiff.tasks.generate import generate, upscale
from pydiff.tasks.request import Call
from pydiff.tasks.run import states


def test_a_request_does_no_work(pipe: pydiff.Pipeline, idle: None) -> None:
    wanted = generate(pipe.cascade, Call("a red ring", seed=7), size=256)
    assert wanted.words is not None
    assert (wanted.words.prompts, wanted.words.negatives, wanted.seeds) == (("a red ring",), (None,), [7])
    assert [plan.size for plan in wanted.plans] == [plan.stage.size for plan in wanted.plans] == [(64, 64), (256, 256)]
    iterator = states(wanted)  # nor does asking for the run
    with pytest.raises(AssertionError, match="work was begun"):
        next(iterator)


def test_asking_for_a_larger_picture_does_no_work(pipe: pydiff.Pipeline, idle: None) -> None:
    iterator = states(upscale(pipe.cascade, Image.new("RGB", (64, 64)), Call(), size=256))
    with pytest.raises(AssertionError, match="work was begun"):
        next(iterator)


def test_the_default_size_is_the_models_own(pipe: pydiff.Pipeline) -> None:
    assert generate(pipe.cascade, Call("")).plans[-1].stage.size == (pipe.cascade.default_size,) * 2


@pytest.mark.parametrize(
    ("size", "height", "width", "sizes"),
    [
        (64, None, None, [(64, 64)]),
        (64, 40, None, [(40, 64)]),
        (64, 9, 1000, [(9, 1000)]),
        (256, None, 384, [(64, 96), (256, 384)]),
        (256, 36, 256, [(9, 64), (36, 256)]),
        (1024, 512, 2048, [(32, 128), (128, 512), (512, 2048)]),
        (None, 128, None, [(32, 64), (128, 256)]),
    ],
)
def test_height_and_width_are_those_of_the_last_picture(
    pipe: pydiff.Pipeline, size: int | None, height: int | None, width: int | None, sizes: list[tuple[int, int]]
) -> None:
    wanted = generate(pipe.cascade, Call(""), size=size, height=height, width=width)
    assert [plan.size for plan in wanted.plans] == sizes


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"height": 0}, "height is 0; expected an integer of at least 1"),
        ({"width": -64}, "width is -64"),
        ({"width": 64.0}, "width is 64.0"),
        ({"width": "64"}, "width is '64'"),
        ({"height": True}, "height is True"),
        ({"height": [64]}, r"height is \[64\]"),
        ({"height": 255}, "height is 255; expected a multiple of 4"),
        ({"width": 258, "size": 256}, "width is 258; expected a multiple of 4"),
        ({"width": 1032, "size": 1024}, "width is 1032; expected a multiple of 16"),
        ({"height": 16}, "the picture is 64x4; expected sides of at least 8 pixels"),
        ({"width": 7, "size": 64}, "the picture is 7x64; expected sides of at least 8 pixels"),
        ({"latents": torch.zeros(1, 3, 64, 65)}, r"latents are torch.float32 \(1, 3, 64, 65\); expected floats"),
        ({"latents": torch.zeros(2, 3, 64, 64)}, r"expected floats \(1, 3, 64, 64\), one per picture"),
        ({"latents": torch.zeros(1, 3, 64, 64, dtype=torch.long)}, "latents are torch.int64"),
        ({"latents": np.zeros((1, 3, 64, 64), int)}, "latents are int64"),
        ({"latents": "noise"}, "latents are str"),
    ],
)
def test_sizes_and_latents_that_do_not_fit(pipe: pydiff.Pipeline, given: dict[str, Any], message: str) -> None:
    for call in (pipe.generate, pipe.stream):
        with pytest.raises(ValueError, match=message):
            call("a red ring", **given)


def test_odd_sizes_are_made(pipe: pydiff.Pipeline) -> None:
    made = pipe.generate("a red ring", seed=1, height=36, width=76, size=256, num_inference_steps=[2, 1])
    assert [pictures[0].size for pictures in made.stages] == [(19, 9), (76, 36)]


@pytest.mark.parametrize(
    ("side", "size", "sides"),
    [(1, 256, [256]), (64, 256, [256]), (255, 256, [256]), (64, 1024, [256, 1024]), (256, 1024, [1024])],
)
def test_upscaling_runs_the_stages_that_make_it_larger(
    pipe: pydiff.Pipeline, idle: None, side: int, size: int, sides: list[int]
) -> None:
    plans = upscale(pipe.cascade, Image.new("RGB", (side, side)), Call(""), size=size).plans
    assert [plan.stage.size for plan in plans] == [(each, each) for each in sides]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("image", "call", "message"),
    [
        (Image.new("RGB", (256, 256)), {}, "image is 256x256; expected one smaller than 256 pixels"),
        (Image.new("RGB", (32, 32)), {"size": 64}, "size is 64, which no super-resolution stage makes"),
        (Image.new("RGB", (32, 32)), {"size": 65}, "size is 65, which no stage of pydiff-embedded makes"),
        (Image.new("RGB", (32, 16)), {}, "image is 32x16; expected a square"),
        (3.5, {}, "image is a float"),
        (np.zeros((8, 8, 3)), {"prompt": "a red ring"}, "prompt is given, but this model reads no words; leave it out"),
        (np.zeros((8, 8, 3)), {"prompt": []}, "prompt is given, but this model reads no words"),
        (np.zeros((8, 8, 3)), {"prompt": torch.zeros(2)}, "prompt is given, but this model reads no words"),
        (np.zeros((8, 8, 3)), {"negative_prompt": "a ring"}, "negative_prompt is given, but this model reads no words"),
        (np.zeros((8, 8, 3)), {"prompt_embeds": torch.zeros(1, 1, 8)}, "prompt_embeds is given, but this model reads"),
        (np.zeros((8, 8, 3)), {"weighting": True}, "weighting is given, but this model reads no words"),
        (np.zeros((8, 8, 3)), {"guidance_scale": 2.0}, "guidance_scale is 2.0, but that stage reads no words; give 1"),
        (np.zeros((8, 8, 3)), {"strength": 0.5}, "strength is 0.5 for stage 1 of a task that takes none there"),
        (np.zeros((8, 8, 3)), {"height": 256}, "unknown option height"),
        (np.zeros((8, 8, 3)), {"seed": [1, 2]}, "seed lists 2 numbers for 1 pictures"),
    ],
)
def test_upscaling_refuses(pipe: pydiff.Pipeline, image: Any, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.upscale(image, **{"size": 256, **call})


def test_several_larger_pictures_of_one(pipe: pydiff.Pipeline) -> None:
    picture = Image.effect_noise((64, 64), 90)
    call = {"size": 256, "num_inference_steps": 1, "output_type": "np"}
    both = pipe.upscale(picture, seed=[1, 2], num_images_per_prompt=2, **call).images
    assert np.allclose(both[1], pipe.upscale(picture, seed=2, **call).images[0], rtol=0, atol=1e-5)
