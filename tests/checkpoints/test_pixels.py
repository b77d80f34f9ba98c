"""Models of pixels that read no words: DDPMPipeline, DDIMPipeline, class labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import pydiff
from tests.checkpoints import makers

RUN = 5e-4


def unet2d(**changes: Any) -> diffusers.UNet2DModel:
    torch.manual_seed(5)
    fields = {
        "sample_size": (12, 16), "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
    }  # fmt: skip
    return makers.lively(diffusers.UNet2DModel(**{**fields, **changes}))


@pytest.mark.parametrize("count", [1, 3])
def test_checkpoints_ddpm(tmp_path: Path, count: int) -> None:
    theirs = makers.saved(diffusers.DDPMPipeline(unet2d(), diffusers.DDPMScheduler()), tmp_path)
    ours = pydiff.load(tmp_path)
    seeds = list(range(count))
    call = {"num_inference_steps": 5, "output_type": "np"}
    expected = theirs(batch_size=count, generator=makers.generators(seeds), **call).images
    made = ours.generate(num_images_per_prompt=count, seed=seeds, **call).images
    assert np.abs(made - expected).max() < RUN
    assert ours.cascade.stages[0].defaults.num_inference_steps == 1000


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_checkpoints_ddim(tmp_path: Path, eta: float) -> None:
    theirs = makers.saved(diffusers.DDIMPipeline(unet2d(), diffusers.DDIMScheduler()), tmp_path)
    call = {"num_inference_steps": 5, "eta": eta, "output_type": "np"}
    expected = theirs(batch_size=2, generator=makers.generators([1, 2]), **call).images
    made = pydiff.load(tmp_path).generate(num_images_per_prompt=2, seed=[1, 2], **call).images
    assert np.abs(made - expected).max() < RUN


def test_checkpoints_classes(tmp_path: Path) -> None:
    """diffusers has no pipeline for these: its network and its scheduler, step by step."""
    network, scheduler = unet2d(num_class_embeds=10), diffusers.DDIMScheduler()
    makers.saved(diffusers.DDIMPipeline(network, scheduler), tmp_path)
    ours = pydiff.load(tmp_path)
    labels, seeds = [3, 9], [1, 2]
    x = torch.cat([torch.randn(1, 3, 12, 16, generator=generator) for generator in makers.generators(seeds)])
    scheduler.set_timesteps(4)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t, class_labels=torch.tensor(labels)).sample, t, x).prev_sample
    made = ours.generate(class_labels=labels, seed=seeds, num_inference_steps=4, output_type="latent").images
    assert (made - x).abs().max() < RUN


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "give class_labels"),
        ({"class_labels": 10}, "class_labels is 10; expected an integer from 0 to 9"),
        ({"class_labels": "cat"}, "class_labels is 'cat'"),
        ({"class_labels": 1, "prompt": "a cat"}, "this model reads no words"),
        ({"class_labels": 1, "clip_skip": 1}, "clip_skip is given, but this model reads no words"),
        ({"class_labels": 1, "guidance_scale": 3.0}, "guidance_scale"),
    ],
)
def test_checkpoints_of_classes_refuse(tmp_path: Path, call: dict[str, Any], message: str) -> None:
    makers.saved(diffusers.DDIMPipeline(unet2d(num_class_embeds=10), diffusers.DDIMScheduler()), tmp_path)
    with pytest.raises(ValueError, match=message):
        pydiff.load(tmp_path).generate(**call)
