"""Stable Diffusion XL and its refiner: two encoders, sizes and crops, and the hand-over from one to the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pydiff
from tests.checkpoints import makers
from tests.checkpoints.test_pictures import picture

WORDS = ["the red cat on a table", "a cat"]
RUN = 5e-4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("base")
    return makers.xl(folder), pydiff.load(folder)


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("refiner")
    return makers.xl(folder, refiner=True), pydiff.load(folder)


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"guidance_scale": 1.0},
        {"prompt_2": ["on a red table", "the table"], "negative_prompt": "a cat", "negative_prompt_2": "red"},
        {"negative_prompt": ["", "a"]},
        {"original_size": (64, 48), "crops_coords_top_left": (3, 7), "target_size": (40, 24)},
        {
            "prompt": WORDS[0],  # of several, diffusers gives every other row the negative sizes, prompts or not
            "negative_original_size": (8, 9),
            "negative_target_size": (10, 12),
            "negative_crops_coords_top_left": (1, 2),
        },
        {"clip_skip": 1, "guidance_rescale": 0.5},
        {"num_images_per_prompt": 3, "height": 24, "width": 40},
    ],
    ids=str,
)
def test_checkpoints_xl(base: Any, call: dict[str, Any]) -> None:
    theirs, ours = base
    call = {"prompt": WORDS, **call}
    prompts = 1 if isinstance(call["prompt"], str) else len(call["prompt"])
    seeds = list(range(prompts * call.get("num_images_per_prompt", 1)))
    call = {"num_inference_steps": 3, "output_type": "np", **call}
    expected = theirs(generator=makers.generators(seeds), **call).images
    assert np.abs(ours.generate(seed=seeds, **call).images - expected).max() < RUN


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m"])
def test_checkpoints_xl_hands_over_to_its_refiner(tmp_path_factory: pytest.TempPathFactory, sampler: str) -> None:
    folders = [tmp_path_factory.mktemp(name) for name in ("base", "refiner")]
    theirs = makers.xl(folders[0], sampler), makers.xl(folders[1], sampler, refiner=True)
    ours = [pydiff.load(folder) for folder in folders]
    first = {"prompt": WORDS[0], "num_inference_steps": 8, "denoising_end": 0.6, "output_type": "latent"}
    second = {"prompt": WORDS[0], "num_inference_steps": 8, "denoising_start": 0.6, "output_type": "np"}
    latents = theirs[0](generator=makers.generators([4]), **first).images
    mine = ours[0].generate(seed=4, **first).images
    if sampler == "euler":  # diffusers keeps x / alpha there; ours is alpha x0 + sigma noise for every sampler
        scheduler = theirs[0].scheduler
        assert (mine * (1 + scheduler.sigmas[scheduler.step_index] ** 2) ** 0.5 - latents).abs().max() < RUN * 10
    else:
        assert (mine - latents).abs().max() < RUN * 10  # latents are not within [0, 1]
    expected = theirs[1](image=latents, generator=makers.generators([5]), **second).images
    assert np.abs(ours[1].image_to_image(mine, seed=5, **second).images - expected).max() < RUN


def test_checkpoints_xl_refiner(refiner: Any) -> None:
    theirs, ours = refiner
    call = {"prompt": WORDS[0], "num_inference_steps": 6, "strength": 0.5, "output_type": "np", "aesthetic_score": 4.0}
    image = picture(24, 32)
    expected = theirs(image=image, generator=makers.generators([5]), **call).images
    assert np.abs(ours.image_to_image(image, seed=5, **call).images - expected).max() < RUN


def test_checkpoints_xl_embeddings_need_their_pooled_ones(base: Any) -> None:
    theirs, ours = base
    prompt, negative, pooled, negative_pooled = theirs.encode_prompt(WORDS[0])
    call = {"prompt_embeds": prompt, "negative_prompt_embeds": negative, "num_inference_steps": 3}
    with pytest.raises(ValueError, match="pooled_prompt_embeds"):
        ours.generate(**call)
    call |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": negative_pooled, "output_type": "np"}
    expected = theirs(generator=makers.generators([1]), **call).images
    assert np.abs(ours.generate(seed=1, **call).images - expected).max() < RUN
