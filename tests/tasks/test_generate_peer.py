"""The embedded cascade against diffusers' IF pipelines on the same folders: same seed, same picture."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import pydiff
from pydiff.pipeline import EMBEDDED
from pydiff.tasks.generate import states

WEIGHTS = Path(pydiff.__file__).parent / "embedded" / "weights"
PROMPTS = ["a red circle left of a blue square on a white background", "three green stars"]
TOLERANCE = 5e-4


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


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("sampler", [None, "ddpm"])
def test_pictures_are_those_of_diffusers(peers: tuple[Any, Any], guidance: float, sampler: str | None) -> None:
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

    base, larger = peers
    kind = DPMSolverMultistepScheduler if sampler is None else DDPMScheduler
    variance = None if sampler is None else "learned_range"
    base.scheduler = kind.from_config(base.scheduler.config, variance_type=variance)
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    small = base(
        PROMPTS,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=generators,
        output_type="pt",
        clean_caption=False,
    ).images
    embeds = base.encode_prompt(PROMPTS, do_classifier_free_guidance=False, clean_caption=False)[0]
    large = larger(
        image=small,
        prompt_embeds=embeds,
        num_inference_steps=2,
        guidance_scale=1.0,
        noise_level=60,
        generator=generators,
        output_type="pt",
    ).images
    pipe = pydiff.load()
    wanted = pipe._request(
        PROMPTS,
        seed=[7, 8],
        size=256,
        options={
            "num_inference_steps": [4, 2],
            "guidance_scale": [guidance, 1.0],
            "noise_level": 60,
            "sampler": sampler,
        },
    )
    made = [state.x for state in states(wanted) if state.stage_done]
    assert (made[0] - small).abs().max() < TOLERANCE
    assert (made[1] - large).abs().max() < TOLERANCE
