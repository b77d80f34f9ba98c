"""Every family that opens, against its pipeline in diffusers: two samplers, with and without guidance, one picture and
three, sides that are not equal. What a family has of its own is in the test module of its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import pytest
import torch

import pydiff
from tests.checkpoints import makers
from tests.checkpoints.test_pictures import picture
from tests.checkpoints.test_pixels import unet2d

WORDS = "the red cat on a table"
STEPS = {"num_inference_steps": 4, "output_type": "np"}
HEIGHT, WIDTH = 24, 40
RUN = 5e-4
IMAGE = picture(HEIGHT, WIDTH)
MASK = torch.zeros(1, 1, HEIGHT, WIDTH)
MASK[..., 5:17, 9:25] = 1


class Family(NamedTuple):
    """make(folder, sampler) saves and returns diffusers' pipeline; theirs and ours run it and ours with a guidance
    scale, a number of pictures and the seeds' generators."""

    make: Callable[[Path, str], Any]
    theirs: Callable[..., Any]
    ours: Callable[..., Any]
    guided: bool = True
    tolerance: float = RUN


def latent(kind: str, **unet: Any) -> Callable[[Path, str], Any]:
    return lambda folder, sampler: makers.stable_diffusion(folder, kind, sampler, unet=unet)


def pixels(folder: Path, sampler: str) -> Any:
    scheduler = diffusers.DDPMScheduler() if sampler == "ddpm" else diffusers.DDIMScheduler()
    kind = diffusers.DDPMPipeline if sampler == "ddpm" else diffusers.DDIMPipeline
    return makers.saved(kind(unet2d(), scheduler), folder)


def sized(pipe: Any, **call: Any) -> Any:
    return pipe(WORDS, height=HEIGHT, width=WIDTH, **call)


def many(pipe: Any, *, num_images_per_prompt: int, **call: Any) -> Any:
    """Pipelines that are right for one picture per prompt alone."""
    return pipe(prompt=[WORDS] * num_images_per_prompt, **call)


def filled(pipe: Any, *, num_images_per_prompt: int, **call: Any) -> Any:
    """Of one picture and several seeds diffusers draws the latents with the first seed: give it several pictures. What
    is kept is laid over what it makes of that."""
    count = num_images_per_prompt
    images, masks = torch.cat([IMAGE] * count), torch.cat([MASK] * count)
    made = pipe([WORDS] * count, image=images, mask_image=masks, height=HEIGHT, width=WIDTH, **call)
    white, kept = (part.permute(0, 2, 3, 1).numpy() for part in (masks, images))
    made.images = np.where(white == 1, made.images, kept)
    return made


FAMILIES = {
    "Stable Diffusion": Family(
        latent("StableDiffusionPipeline"),
        sized,
        lambda pipe, **call: pipe.generate(WORDS, height=HEIGHT, width=WIDTH, **call),
    ),
    "Stable Diffusion XL": Family(
        lambda folder, sampler: makers.xl(folder, sampler),
        sized,
        lambda pipe, **call: pipe.generate(WORDS, height=HEIGHT, width=WIDTH, **call),
    ),
    "XL refiner": Family(
        lambda folder, sampler: makers.xl(folder, sampler, refiner=True),
        lambda pipe, **call: pipe(WORDS, image=IMAGE, strength=0.7, **call),
        lambda pipe, **call: pipe.image_to_image(IMAGE, WORDS, strength=0.7, **call),
    ),
    "x4 upscaler": Family(
        lambda folder, sampler: makers.upscaler(folder, sampler),
        lambda pipe, **call: many(pipe, image=torch.cat([IMAGE] * call["num_images_per_prompt"]), **call),
        lambda pipe, **call: pipe.upscale(IMAGE, WORDS, **call),
    ),
    "InstructPix2Pix": Family(
        latent("StableDiffusionInstructPix2PixPipeline", in_channels=8),
        lambda pipe, **call: pipe(WORDS, image=IMAGE, **call),
        lambda pipe, **call: pipe.instruct(IMAGE, WORDS, **call),
    ),
    "inpainting": Family(
        latent("StableDiffusionInpaintPipeline", in_channels=9),
        filled,
        lambda pipe, **call: pipe.inpaint(IMAGE, MASK, WORDS, **call),
    ),
    "pixels": Family(
        pixels,
        lambda pipe, **call: pipe(batch_size=call.pop("num_images_per_prompt"), **unguided(call)),
        lambda pipe, **call: pipe.generate(**unguided(call)),
        guided=False,
    ),
}
SAMPLERS = {"pixels": ("ddpm", "ddim"), "XL refiner": ("euler", "dpmpp_2m")}


def unguided(call: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name != "guidance_scale"}


CASES = [
    (name, sampler, guidance)
    for name, family in FAMILIES.items()
    for sampler in SAMPLERS.get(name, ("ddim", "euler"))
    for guidance in ((1.0, 5.0) if family.guided else (1.0,))
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    made: dict[tuple[str, str], Any] = {}

    def open_(name: str, sampler: str) -> Any:
        if (name, sampler) not in made:
            folder = tmp_path_factory.mktemp("family")
            theirs = FAMILIES[name].make(folder, sampler)
            if hasattr(theirs, "check_inputs") and name != "x4 upscaler":
                theirs.check_inputs = lambda *_: None  # multiples of 8 alone, whatever the autoencoder's factor
            made[name, sampler] = theirs, pydiff.load(folder)
        return made[name, sampler]

    return open_


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("name", "sampler", "guidance"), CASES)
def test_checkpoints_make_the_picture_of_diffusers(
    opened: Callable[[str, str], Any], name: str, sampler: str, guidance: float, count: int
) -> None:
    family, (theirs, ours) = FAMILIES[name], opened(name, sampler)
    seeds = list(range(5, 5 + count))
    call = {**STEPS, "guidance_scale": guidance, "num_images_per_prompt": count}
    expected = family.theirs(theirs, generator=makers.generators(seeds), **call).images
    made = family.ours(ours, seed=seeds, **call).images
    assert made.shape == expected.shape
    assert np.ptp(made) > 0.05
    assert np.abs(made - expected).max() < family.tolerance
    again = family.ours(ours, seed=seeds, **call).images
    assert np.array_equal(made, again)
