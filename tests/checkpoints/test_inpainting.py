"""Holes filled by models of pixels, by Stable Diffusion XL and in crops, against diffusers."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pydiff
from tests.checkpoints import makers
from tests.checkpoints.test_deepfloyd import EXACT, SEEDS, opened
from tests.checkpoints.test_pictures import RUN, WORDS, picture

FIRST, SECOND = "IFInpaintingPipeline", "IFInpaintingSuperResolutionPipeline"


def hole(side: int) -> Tensor:
    """(1, 1, side, side), its edges even."""
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 4 : side // 2 + 4, side // 8 : side // 2] = 1
    return mask


def exact(image: Tensor) -> Tensor:
    """Numbers that are the same in float32, in which pictures are read, and in float64, scaled to [-1, 1] too."""
    return (image * 256).round() / 256


def smaller(part: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(part, 2)


@pytest.mark.parametrize(("strength", "guidance"), [(1.0, 6.0), (0.6, 1.0)])
def test_checkpoints_blend_clean_pixels_as_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: float, guidance: float
) -> None:
    (theirs,), ours, words = opened(tmp_path, monkeypatch, FIRST)
    image, mask = exact(picture(16, 16)), hole(16)
    call = {"num_inference_steps": 5, "guidance_scale": guidance, "strength": strength, **words}
    made = ours.inpaint(image, mask, compat="diffusers", seed=SEEDS, output_type="latent", **call).images
    pictures = torch.cat([image, image]).double() * 2 - 1
    expected = theirs(
        image=pictures, mask_image=mask.double(), generator=makers.generators(SEEDS), output_type="pt", **call
    ).images
    assert (made - expected).abs().max() < EXACT


def test_checkpoints_blend_clean_pixels_in_two_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, second), ours, words = opened(tmp_path, monkeypatch, FIRST, SECOND)
    image, mask = exact(picture(32, 32)), hole(32)
    made = ours.inpaint(
        image, mask, compat="diffusers", seed=SEEDS, num_inference_steps=[4, 5], guidance_scale=[6.0, 4.0],
        strength=[1.0, 0.8], noise_level=100, output_type="latent", **words,
    )  # fmt: skip
    shared = {**words, "generator": makers.generators(SEEDS), "output_type": "pt"}
    large = torch.cat([image, image]).double() * 2 - 1
    kept, white = smaller(large), (smaller(mask) > 0).double()
    small = first(image=kept, mask_image=white, num_inference_steps=4, guidance_scale=6.0, **shared).images
    assert (made.stages[0] - small).abs().max() < EXACT
    expected = second(
        image=made.stages[0], original_image=large, mask_image=mask.double(), num_inference_steps=5,
        guidance_scale=4.0, strength=0.8, noise_level=100, **shared,
    ).images  # fmt: skip
    assert (made.images - expected).abs().max() < EXACT


def test_checkpoints_blend_noised_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What diffusers' pipelines of latents do, with its network and scheduler of pixels: what is kept has the level of
    the next step."""
    (theirs,), ours, words = opened(tmp_path, monkeypatch, FIRST)
    image, mask = exact(picture(16, 16)), hole(16).double()
    made = ours.inpaint(
        image, mask, seed=SEEDS, num_inference_steps=5, guidance_scale=6.0, output_type="latent", **words
    ).images
    x0, drawn_from, scheduler = image.double() * 2 - 1, makers.generators(SEEDS), theirs.scheduler
    drawn = torch.cat([torch.randn(1, 3, 16, 16, generator=g, dtype=torch.float64) for g in drawn_from])
    scheduler.set_timesteps(5)
    times, x = scheduler.timesteps, drawn
    told = torch.cat([words["negative_prompt_embeds"], words["prompt_embeds"]])
    with torch.no_grad():
        for index, t in enumerate(times):
            null, text = theirs.unet(torch.cat([x, x]), t, encoder_hidden_states=told).sample.chunk(2)
            guided = torch.cat([null[:, :3] + 6.0 * (text[:, :3] - null[:, :3]), text[:, 3:]], dim=1)
            x = scheduler.step(guided, t, x, generator=drawn_from).prev_sample
            known = x0 if index == 4 else scheduler.add_noise(x0, drawn, times[index + 1])
            x = mask * x + (1 - mask) * known
    assert (made - x).abs().max() < EXACT


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("strength", [0.6, 0.9999])
def test_checkpoints_inpainting_xl(tmp_path: Path, channels: int, strength: float) -> None:
    parts = makers.xl(tmp_path / "plain", in_channels=channels).components
    theirs = makers.saved(diffusers.StableDiffusionXLInpaintPipeline(**parts), tmp_path / "inpaint")
    image, mask = picture(24, 32), torch.zeros(1, 1, 24, 32)
    mask[..., 5:17, 9:25] = 1
    call = {"num_inference_steps": 5, "strength": strength, "output_type": "np"}
    expected = theirs(
        WORDS[0], image=image, mask_image=mask, height=24, width=32, generator=makers.generators([1]), **call
    ).images
    made = pydiff.load(tmp_path / "inpaint").inpaint(image, mask, WORDS[0], seed=1, **call).images
    white = mask[0, 0].bool().numpy()
    assert np.abs(made - expected)[:, white].max() < RUN
    assert np.abs(made - image.permute(0, 2, 3, 1).numpy())[:, ~white].max() < 1e-6


def test_checkpoints_inpainting_in_a_crop(tmp_path: Path) -> None:
    """diffusers scales with another filter and in 8 bits."""
    theirs = makers.stable_diffusion(tmp_path, "StableDiffusionInpaintPipeline", unet={"in_channels": 9})
    pixels = (picture(40, 56)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    mask = np.zeros((40, 56), np.uint8)
    mask[10:22, 30:44] = 255
    call = {"prompt": WORDS[0], "num_inference_steps": 4, "padding_mask_crop": 5}
    expected = theirs(
        image=Image.fromarray(pixels), mask_image=Image.fromarray(mask), height=32, width=32,
        generator=makers.generators([1]), **call,
    ).images[0]  # fmt: skip
    made = np.asarray(pydiff.load(tmp_path).inpaint(pixels, mask, seed=1, **call).images[0])
    assert np.array_equal(made[mask == 0], pixels[mask == 0])
    differences = np.abs(made.astype(int) - np.asarray(expected).astype(int))[mask > 0]
    assert differences.mean() < 6
    assert np.abs(made.astype(int) - pixels.astype(int))[mask > 0].mean() > 4 * differences.mean()
