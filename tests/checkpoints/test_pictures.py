"""Tasks that start from a picture, on Stable Diffusion checkpoints: image to image, instructions, holes, x4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pydiff
from tests.checkpoints import makers

WORDS = ["the red cat on a table", "a cat"]
RUN = 5e-4


def picture(height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1], smooth."""
    small = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear").clamp(0, 1)


def same(made: Any, expected: Any, tolerance: float = RUN) -> None:
    assert made.images.shape == expected.images.shape
    assert np.abs(made.images - expected.images).max() < tolerance


@pytest.mark.parametrize("sampler", sorted(makers.LATENT_SCHEDULERS))
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_checkpoints_image_to_image(tmp_path: Path, sampler: str, strength: float) -> None:
    theirs = makers.stable_diffusion(tmp_path, "StableDiffusionImg2ImgPipeline", sampler)
    ours = pydiff.load(tmp_path)
    image = picture(24, 40)
    call = {"prompt": WORDS, "num_inference_steps": 6, "guidance_scale": 4.0, "strength": strength}
    expected = theirs(image=image, generator=makers.generators([1, 2]), output_type="np", **call)
    same(ours.image_to_image(image, seed=[1, 2], output_type="np", **call), expected)


def test_checkpoints_image_to_image_of_latents(tmp_path: Path) -> None:
    theirs = makers.stable_diffusion(tmp_path, "StableDiffusionImg2ImgPipeline")
    latents = torch.randn(1, 4, 12, 20, generator=torch.Generator().manual_seed(0))
    call = {"prompt": WORDS[0], "num_inference_steps": 5, "strength": 0.6, "output_type": "np"}
    expected = theirs(image=latents, generator=makers.generators([1]), **call)
    same(pydiff.load(tmp_path).image_to_image(latents, seed=1, **call), expected)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "pndm"])
@pytest.mark.parametrize("scales", [(6.0, 1.5), (1.0, 1.5), (6.0, 0.5)])
def test_checkpoints_instructions(tmp_path: Path, sampler: str, scales: tuple[float, float]) -> None:
    theirs = makers.stable_diffusion(
        tmp_path, "StableDiffusionInstructPix2PixPipeline", sampler, unet={"in_channels": 8}
    )
    image = picture(24, 32)
    call = {"prompt": WORDS, "num_inference_steps": 4, "output_type": "np"}
    call |= dict(zip(("guidance_scale", "image_guidance_scale"), scales, strict=True))
    expected = theirs(image=image, generator=makers.generators([1, 2]), **call)
    same(pydiff.load(tmp_path).instruct(image, seed=[1, 2], **call), expected)


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_checkpoints_inpainting(tmp_path: Path, channels: int, sampler: str, strength: float) -> None:
    theirs = makers.stable_diffusion(
        tmp_path, "StableDiffusionInpaintPipeline", sampler, unet={"in_channels": channels}
    )
    image, mask = picture(24, 32), torch.zeros(1, 1, 24, 32)
    mask[..., 5:17, 9:25] = 1
    call = {"prompt": WORDS[0], "num_inference_steps": 5, "strength": strength, "output_type": "np"}
    expected = theirs(image=image, mask_image=mask, height=24, width=32, generator=makers.generators([1]), **call)
    made = pydiff.load(tmp_path).inpaint(image, mask, seed=1, **call)
    white = mask[0, 0].bool().numpy()
    assert np.abs(made.images - expected.images)[:, white].max() < RUN
    assert np.abs(made.images - image.permute(0, 2, 3, 1).numpy())[:, ~white].max() < 1e-6  # diffusers' is decoded


@pytest.fixture
def upscaler(tmp_path: Path) -> Any:
    return makers.upscaler(tmp_path), tmp_path


@pytest.mark.parametrize(("level", "guidance"), [(20, 1.0), (300, 5.0)])
def test_checkpoints_x4_upscaler(upscaler: Any, level: int, guidance: float) -> None:
    theirs, folder = upscaler
    image = picture(8, 12)
    call = {"num_inference_steps": 4, "guidance_scale": guidance, "noise_level": level, "output_type": "np"}
    expected = theirs(prompt=WORDS[0], image=image, generator=makers.generators([1]), **call)
    same(pydiff.load(folder).upscale(image, WORDS[0], seed=1, **call), expected)


def test_checkpoints_the_upscaler_takes_no_more_noise_than_it_knows(upscaler: Any) -> None:
    with pytest.raises(ValueError, match="noise_level is 351; expected an integer from 0 to 350"):
        pydiff.load(upscaler[1]).upscale(picture(8, 8), "a cat", noise_level=351)


@pytest.mark.parametrize(
    ("kind", "unet", "task", "message"),
    [
        ("StableDiffusionInstructPix2PixPipeline", {"in_channels": 8}, "generate", r"pipe.instruct\(image, prompt\)"),
        ("StableDiffusionInpaintPipeline", {"in_channels": 9}, "generate", r"pipe.inpaint\(image, mask, prompt\)"),
        ("StableDiffusionPipeline", {}, "instruct", "follows no instructions"),
        ("StableDiffusionInstructPix2PixPipeline", {"in_channels": 8}, "inpaint", "fills no holes"),
        ("StableDiffusionPipeline", {}, "upscale", "nothing would be upscaled"),
    ],
)
def test_checkpoints_refuse_what_they_cannot_do(
    tmp_path: Path, kind: str, unet: dict[str, Any], task: str, message: str
) -> None:
    makers.stable_diffusion(tmp_path, kind, unet=unet)
    pipe, image = pydiff.load(tmp_path), picture()
    calls = {
        "generate": lambda: pipe.generate("a cat"),
        "instruct": lambda: pipe.instruct(image, "a cat"),
        "inpaint": lambda: pipe.inpaint(image, torch.ones(32, 32), "a cat"),
        "upscale": lambda: pipe.upscale(image, "a cat"),
    }
    with pytest.raises(ValueError, match=message):
        calls[task]()


def test_checkpoints_tiles_and_slices(tmp_path: Path) -> None:
    """Encoding and decoding tile by tile, picture by picture, as diffusers' switches do."""
    theirs = makers.stable_diffusion(tmp_path, "StableDiffusionImg2ImgPipeline")
    theirs.vae.enable_tiling()
    theirs.vae.enable_slicing()
    image = picture(48, 80)
    call = {"prompt": WORDS, "num_inference_steps": 4, "strength": 0.5, "output_type": "np"}
    expected = theirs(image=image, generator=makers.generators([1, 2]), **call)
    ours = pydiff.load(tmp_path)
    same(ours.image_to_image(image, seed=[1, 2], vae_tiling=True, vae_slicing=True, **call), expected)
    plain = ours.image_to_image(image, seed=[1, 2], **call)
    assert np.abs(plain.images - expected.images).max() > RUN
    with pytest.raises(ValueError, match="vae_tiling is 1; expected True or False"):
        ours.generate("a cat", vae_tiling=1)
