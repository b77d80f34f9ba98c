"""DeepFloyd IF: T5, learned variance, dynamic thresholding, and a cascade put together from several folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import pydiff
from tests.checkpoints import makers
from tests.checkpoints.test_pictures import picture

WORDS = ["the red cat on a table", "a cat"]
SEEDS = [1, 2]
EXACT = 2e-5  # in float64; some numbers of diffusers' steps are float32


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, *kinds: str) -> tuple[list[Any], Any, dict[str, Any]]:
    """diffusers' pipelines, ours of the same folders, and the words as both take them: all in float64, since the
    learned variance of few steps amplifies rounding."""
    theirs, folders = [], [folder / kind for kind in kinds]
    for kind, place in zip(kinds, folders, strict=True):
        made = makers.deepfloyd(place, kind, upscales="SuperResolution" in kind).to(torch.float64)
        makers.widened(made.scheduler)
        makers.widened(getattr(made, "image_noising_scheduler", None))
        theirs.append(made)
    embeds, null = theirs[0].encode_prompt(WORDS, clean_caption=False)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # diffusers pools the text in float32
    ours = pydiff.load(folders, dtype=torch.float64)
    return theirs, ours, {"prompt_embeds": embeds, "negative_prompt_embeds": null}


def run(pipeline: Any, **call: Any) -> torch.Tensor:
    generators = call.pop("generator", None) or makers.generators(SEEDS)
    made: torch.Tensor = pipeline(generator=generators, output_type="pt", **call).images
    return made


def test_checkpoints_words(tmp_path: Path) -> None:
    theirs, ours = makers.deepfloyd(tmp_path), pydiff.load(tmp_path)
    embeds, null = theirs.encode_prompt(WORDS, negative_prompt=["red", "a table"], clean_caption=False)
    made = ours.cascade.stages[0].text.encode_pair(WORDS, ["red", "a table"])
    for mine, expected in zip(made, (embeds, null), strict=True):
        assert (mine.states - expected).abs().max() < 1e-5


@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize("size", [(16, 16), (20, 12)])
def test_checkpoints_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guidance: float, size: tuple[int, int]
) -> None:
    (theirs,), ours, words = opened(tmp_path, monkeypatch, "IFPipeline")
    call = {"num_inference_steps": 4, "guidance_scale": guidance, "height": size[0], "width": size[1], **words}
    made = ours.generate(seed=SEEDS, output_type="latent", **call).images
    assert (made - run(theirs, **call)).abs().max() < EXACT


@pytest.mark.parametrize("sampler", ["ddim"])
def test_checkpoints_other_samplers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    """A sampler that has no use for the variance drops it."""
    (theirs,), ours, words = opened(tmp_path, monkeypatch, "IFPipeline")
    kinds = {"ddim": diffusers.DDIMScheduler}
    levels = {name: value for name, value in makers.IF_LEVELS.items() if name != "variance_type"}
    theirs.register_modules(scheduler=makers.widened(kinds[sampler](**levels, timestep_spacing="leading")))
    theirs.scheduler.register_to_config(variance_type=None)
    call = {"num_inference_steps": 4, "guidance_scale": 5.0, **words}
    made = ours.generate(seed=SEEDS, output_type="latent", sampler=sampler, **call).images
    assert (made - run(theirs, **call)).abs().max() < EXACT


def test_checkpoints_respaced_timesteps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (theirs,), ours, words = opened(tmp_path, monkeypatch, "IFPipeline")
    times = [999, 700, 350, 20]
    made = ours.generate(timesteps=times, seed=SEEDS, output_type="latent", **words).images
    assert (made - run(theirs, timesteps=times, **words)).abs().max() < EXACT


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_checkpoints_image_to_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    (theirs,), ours, words = opened(tmp_path, monkeypatch, "IFImg2ImgPipeline")
    image = (picture(16, 16) * 256).round() / 256  # whatever type it is read in
    call = {"num_inference_steps": 6, "guidance_scale": 5.0, "strength": strength, **words}
    made = ours.image_to_image(image, seed=SEEDS, output_type="latent", **call).images
    given = torch.cat([image, image]).double() * 2 - 1
    assert (made - run(theirs, image=given, **call)).abs().max() < EXACT


def test_checkpoints_a_cascade_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, second), ours, words = opened(tmp_path, monkeypatch, "IFPipeline", "IFSuperResolutionPipeline")
    assert ours.sizes == (16, 32)
    assert ours.cascade.stages[1].text is ours.cascade.stages[0].text
    shared = {**words, "generator": makers.generators(SEEDS)}
    small = run(first, num_inference_steps=4, guidance_scale=6.0, **shared)
    made = ours.generate(
        seed=SEEDS,
        num_inference_steps=[4, 3],
        guidance_scale=[6.0, 4.0],
        noise_level=100,
        output_type="latent",
        **words,
    )
    assert (made.stages[0] - small).abs().max() < EXACT
    small = made.stages[0]  # its last digits would be amplified again
    large = run(second, image=small, num_inference_steps=3, guidance_scale=4.0, noise_level=100, **shared)
    assert (made.images - large).abs().max() < EXACT


def test_checkpoints_image_to_image_of_two_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stage may begin from the picture too, at its own strength."""
    kinds = ("IFImg2ImgPipeline", "IFImg2ImgSuperResolutionPipeline")
    (first, second), ours, words = opened(tmp_path, monkeypatch, *kinds)
    image = picture(32, 32)
    made = ours.image_to_image(
        image, seed=SEEDS, num_inference_steps=[6, 4], guidance_scale=[5.0, 4.0], strength=[0.5, 0.75],
        noise_level=60, output_type="latent", **words,
    )  # fmt: skip
    large = torch.cat([image, image]) * 2 - 1  # pictures are read in float32
    halved = torch.nn.functional.interpolate(large, size=(16, 16), mode="bicubic", antialias=True).clamp(-1, 1)
    large, halved = large.double(), halved.double()
    shared = {**words, "generator": makers.generators(SEEDS)}
    small = run(first, image=halved, num_inference_steps=6, guidance_scale=5.0, strength=0.5, **shared)
    assert (made.stages[0] - small).abs().max() < EXACT
    small = made.stages[0]
    second_call = {"num_inference_steps": 4, "guidance_scale": 4.0, "strength": 0.75, "noise_level": 60, **shared}
    assert (made.images - run(second, image=small, original_image=large, **second_call)).abs().max() < EXACT
