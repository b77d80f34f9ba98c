"""The embedded cascade against diffusers' IF pipelines on the same folders: same seed, same picture."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pydiff
from pydiff.pipeline import EMBEDDED
from pydiff.tasks.words import Told
from pydiff.text.encoders import Encoded

WEIGHTS = Path(pydiff.__file__).parent / "embedded" / "weights"
PROMPTS = ["a red circle left of a blue square on a white background", "three green stars"]
SEEDS = [7, 8]
STEPS = [4, 2]
LEVEL = 60


@pytest.fixture(scope="module")
def peers() -> tuple[Any, Any]:
    from diffusers import IFPipeline, IFSuperResolutionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = IFPipeline.from_pretrained(WEIGHTS / EMBEDDED[0])
        larger = IFSuperResolutionPipeline.from_pretrained(WEIGHTS / EMBEDDED[1])
    for pipeline in (base, larger):
        pipeline.set_progress_bar_config(disable=True)
    return base, larger


def theirs(peers: tuple[Any, Any], text: Told, guidance: float) -> list[Tensor]:
    """Both stages' pictures, in [-1, 1]."""
    base, larger = peers
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    common = {"generator": generators, "output_type": "pt", "prompt_embeds": text.prompt.states}
    assert text.null is not None
    small = base(
        negative_prompt_embeds=text.null.states, num_inference_steps=STEPS[0], guidance_scale=guidance, **common
    ).images
    large = larger(image=small, num_inference_steps=STEPS[1], guidance_scale=1.0, noise_level=LEVEL, **common).images
    return [small, large]


def ours(pipe: pydiff.Pipeline, guidance: float, **words: Any) -> tuple[Tensor, ...]:
    """Of words or embeddings."""
    options = {"num_inference_steps": STEPS, "guidance_scale": [guidance, 1.0], "noise_level": LEVEL, "size": 256}
    return pipe.generate(seed=SEEDS, output_type="latent", **options, **words).stages


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_are_those_of_diffusers(peers: tuple[Any, Any], guidance: float) -> None:
    embeds, null = peers[0].encode_prompt(PROMPTS, clean_caption=False)
    expected = theirs(peers, Told(Encoded(embeds), Encoded(null)), guidance)
    for made, wanted in zip(ours(pydiff.load(), guidance, prompt=PROMPTS), expected, strict=True):
        assert (made - wanted).abs().max() < 5e-4


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_ddpm_with_learned_variance(peers: tuple[Any, Any], guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64: few steps of the learned variance amplify rounding."""
    from diffusers import DDPMScheduler

    base, larger = peers
    pipe = pydiff.load(dtype=torch.float64)
    scheduler = base.scheduler
    base.scheduler = DDPMScheduler.from_config(scheduler.config, variance_type="learned_range")
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # diffusers pools the text in float32
    for network in (base.unet, base.text_encoder, larger.unet):
        network.double()
    try:
        encoder = pipe.cascade.stages[0].text
        assert encoder is not None
        text = Told(*(Encoded(encoder.encode(prompts).states.clone()) for prompts in (PROMPTS, ["", ""])))
        expected = theirs(peers, text, guidance)
        assert text.null is not None
        words = {"prompt_embeds": text.prompt.states, "negative_prompt_embeds": text.null.states}
        for made, wanted in zip(ours(pipe, guidance, sampler="ddpm", **words), expected, strict=True):
            assert made.dtype == torch.float64
            assert (made - wanted).abs().max() < 1e-5  # diffusers' tables are float32
    finally:
        base.scheduler = scheduler
        for network in (base.unet, base.text_encoder, larger.unet):
            network.to(torch.float32)
