"""Prompt-to-Prompt without maps against maps that are formed, edited and multiplied, in diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pydiff
from benchmarks.materialised import Maps, Processor
from pydiff.tasks.columns import prompt_columns
from pydiff.tasks.edit import borrowing
from pydiff.tasks.edit_options import EditOptions
from pydiff.tasks.words import make_words
from tests.checkpoints import makers

SOURCE = "the red cat on a table"
SWAP = "the red dog on a table"
LONGER = "the big red cat on a small table"
STEPS = 6
GUIDANCE = 5.0


def compare(theirs: Any, ours: Any, targets: list[str], tolerance: float, **edit: Any) -> None:
    prompts = [SOURCE, *targets]
    stage = ours.cascade.stages[0]
    options = EditOptions(**edit)
    maps = Maps(
        borrowing(prompt_columns(stage.text, make_words(prompts), True), STEPS, [options] * (len(prompts) - 1)).table,
        options.pixels,
    )
    theirs.unet.set_attn_processor(Processor(maps))
    call: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    generators = makers.generators([3] * len(prompts))
    extra: dict[str, Any] = {"output_type": "latent", "callback_on_step_end": maps.step}
    if not hasattr(theirs, "vae"):
        made = stage.text.encode_pair(prompts, [None] * len(prompts))  # positions of diffusers' T5 are in float32
        words = {"prompt_embeds": made[0].states.clone(), "negative_prompt_embeds": made[1].states.clone()}
        extra = {"output_type": "pt", "callback": lambda step, t, x: maps.step(None, step, t, {}), **words}
        expected = theirs(generator=generators, **call, **extra).images
    else:
        expected = theirs(prompts, generator=generators, **call, **extra).images
    made = ours.edit(SOURCE, targets, seed=3, output_type="latent", **call, **edit).images
    plain = ours.generate(prompts, seed=[3] * len(prompts), output_type="latent", **call).images
    assert (made - expected).abs().max() < tolerance
    assert (made[0] - plain[0]).abs().max() < tolerance  # the source is as it would be alone
    assert (made[1:] - plain[1:]).abs().max() > 10 * tolerance  # and the targets are not


EDITS: list[dict[str, Any]] = [
    {"targets": [SWAP]},
    {"targets": [LONGER]},
    {"targets": [SWAP, LONGER], "cross_replace": {"default_": 1.0, "red": 0.4}, "self_replace": (0.2, 0.7)},
    {"targets": [SOURCE], "reweight": {"red": -1.5}},
    {"targets": [LONGER, SWAP], "reweight": {"table": 3.0}, "self_replace": 0.0},
    {"targets": [SWAP], "cross_replace": 0.0, "self_replace": 1.0, "self_replace_max_size": 8},
    {"targets": [SWAP], "compat": "google"},
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: "-".join(f"{k}={v}" for k, v in edit.items())[:60])
def test_separate_attention(tmp_path: Path, edit: dict[str, Any]) -> None:
    theirs = makers.stable_diffusion(tmp_path, sampler="ddim").to(torch.float64)
    makers.widened(theirs.scheduler)
    compare(theirs, pydiff.load(tmp_path, dtype=torch.float64), tolerance=1e-6, **edit)


@pytest.mark.parametrize("pixels", ["rescale", "keep"])
@pytest.mark.parametrize("edit", EDITS[:5], ids=lambda edit: "-".join(f"{k}={v}" for k, v in edit.items())[:60])
def test_joint_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: dict[str, Any], pixels: str) -> None:
    theirs = makers.deepfloyd(tmp_path).to(torch.float64)
    makers.widened(theirs.scheduler)
    ours = pydiff.load(tmp_path, dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # diffusers pools the text in float32
    compare(theirs, ours, tolerance=2e-5, pixels=pixels, **edit)
