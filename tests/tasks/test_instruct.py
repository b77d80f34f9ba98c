"""Instructions to models of pixels against the paper's formula with diffusers' network; cascades; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pydiff
from pydiff.images import from_user
from tests.checkpoints import makers

SIZE = (12, 16)
SCALES = (4.0, 1.7)
STEPS = 5
LEVELS = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")


def named(folder: Path) -> Path:
    """A tiny InstructPix2Pix of pixels."""
    makers.deepfloyd(folder, in_channels=6)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "InstructPix2PixPipeline"}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return named(tmp_path_factory.mktemp("instruct"))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))


def followed(folder: Path, picture: Tensor, states: tuple[Tensor, Tensor], seed: int) -> Tensor:
    """Brooks et al. 2023, equation 3, with DDIM: e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, T) - e(I, 0))."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").double()
    levels = {name: value for name, value in makers.IF_LEVELS.items() if name in LEVELS}
    scheduler = diffusers.DDIMScheduler(**levels, clip_sample=False)
    makers.widened(scheduler)
    scheduler.set_timesteps(STEPS)
    x = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    text, null = states

    def eps(states: Tensor, image: Tensor, t: Tensor) -> Tensor:
        return unet(torch.cat([x, image], dim=1), t, encoder_hidden_states=states).sample[:, :3]

    for t in scheduler.timesteps:
        both, pictured, nothing = eps(text, picture, t), eps(null, picture, t), eps(null, picture * 0, t)
        e = nothing + SCALES[1] * (pictured - nothing) + SCALES[0] * (both - pictured)
        x = scheduler.step(e, t, x).prev_sample
    return x


def test_it_is_the_papers_guidance(folder: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # diffusers pools the text in float32
    given = torch.from_numpy(from_user(picture)).double()
    ours = pydiff.load(folder, dtype=torch.float64)
    call: dict[str, Any] = {"guidance_scale": SCALES[0], "image_guidance_scale": SCALES[1], "sampler": "ddim"}
    call |= {"num_inference_steps": STEPS, "thresholding": "none", "output_type": "latent"}
    made = ours.instruct(picture, ["the red cat", "a dog"], seed=[3, 9], **call).images
    encoder = ours.cascade.stages[0].text
    with torch.no_grad():
        for index, (words, seed) in enumerate((("the red cat", 3), ("a dog", 9))):
            states = (encoder.encode([words]).states, encoder.encode([""]).states)
            expected = followed(folder, given, states, seed)
            assert (made[index] - expected[0]).abs().max() < 1e-8


def test_scales_of_one_are_no_guidance(folder: Path, picture: Image.Image) -> None:
    ours = pydiff.load(folder)
    calls = []
    ours.cascade.stages[0].unet.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    call = {"num_inference_steps": 2, "seed": 1}
    ours.instruct(picture, "a cat", guidance_scale=1.0, image_guidance_scale=1.0, **call)
    assert calls == [1, 1]
    ours.instruct(picture, "a cat", **call)
    assert calls[2:] == [3, 3]
    assert ours.instruct(picture, "a cat", **call).settings[0]["image_guidance_scale"] == [1.5]


@pytest.mark.parametrize(
    ("given", "size", "made"),
    [
        ((64, 64), None, (64, 64)),
        ((256, 256), None, (256, 256)),
        ((300, 200), None, (256, 172)),
        ((64, 48), 256, (256, 192)),
    ],
)
def test_a_cascade_makes_it_as_large_as_the_picture(
    given: tuple[int, int], size: int | None, made: tuple[int, int]
) -> None:
    follower = pydiff.load("pydiff-instruct")
    picture = Image.new("RGB", given[::-1], "white")
    how = {"num_inference_steps": [1] * (2 if max(made) == 256 else 1)}
    result = follower.instruct(picture, "make the circle green", seed=1, size=size, **how)
    assert result.images[0].size == made[::-1]


def test_refusals(folder: Path, pipe: pydiff.Pipeline, picture: Image.Image, idle: None) -> None:
    with pytest.raises(ValueError, match=r"follows no instructions; .* The model pydiff-instruct follows some"):
        pipe.instruct(picture, "make it green")
    ours = pydiff.load(folder)
    with pytest.raises(ValueError, match="size is 99, which no stage"):
        ours.instruct(picture, "a cat", size=99)
    with pytest.raises(ValueError, match=r"it follows instructions: pipe.instruct\(image, prompt\)"):
        ours.generate("a cat")
    with pytest.raises(ValueError, match="image_guidance_scale"):
        ours.instruct(picture, "a cat", image_guidance_scale="x")
