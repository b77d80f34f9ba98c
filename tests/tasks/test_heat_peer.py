"""Captured attention against maps that are formed in diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pydiff
from pydiff.diffusion.edits import EditTable
from pydiff.tasks.columns import prompt_columns
from pydiff.tasks.edit import borrowing
from pydiff.tasks.edit_options import EditOptions
from pydiff.tasks.words import make_words
from tests.checkpoints import makers
from tests.tasks.test_edit_peer import Maps, Processor

PROMPTS = ["the red cat on a table", "the big red cat on a small table"]
STEPS = 3
CALL: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 4.0}
BOTH = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
JOINT = {"down_block_types": ("SimpleCrossAttnDownBlock2D",) * 2, "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 2}


class Recorder(Maps):
    """Keeps (level, maps (B, heads, N, T)) of attention to the prompts, edited if there is a table."""

    def __init__(self, table: EditTable | None) -> None:
        self.kept: list[tuple[int, Tensor]] = []
        self.level, self.plain = 0, table is None
        if table is not None:
            super().__init__(table, "rescale")

    def edited(self, maps: Tensor, text: int) -> Tensor:
        made = maps if self.plain else super().edited(maps, text)
        if text:
            self.kept.append((self.level, made.chunk(2)[1][..., :text]))
        return made

    def heat(
        self, columns: Sequence[Sequence[int]], sizes: dict[int, tuple[int, int]], levels: Sequence[int], apart: bool
    ) -> np.ndarray:
        """The mean over levels and layers of these sizes, enlarged to the largest: (B, [heads,] H, W)."""
        made = []
        for level, maps in self.kept:
            if level in levels and maps.shape[2] in sizes:
                words = torch.stack([own[..., list(place)].sum(-1) for own, place in zip(maps, columns, strict=True)])
                words = (words if apart else words.mean(1, keepdim=True)).unflatten(-1, sizes[maps.shape[2]])
                made.append(F.interpolate(words, size=sizes[max(sizes)], mode="bilinear"))
        mean = torch.stack(made).mean(0)
        return (mean if apart else mean[:, 0]).numpy()


def compare(
    theirs: Any, ours: pydiff.Pipeline, edits: bool, size: dict[str, int], sizes: list[tuple[int, int]]
) -> None:
    encoder = ours.cascade.stages[0].text
    assert encoder is not None
    columns = prompt_columns(encoder, make_words(PROMPTS), True)
    options = [EditOptions(cross_replace=0.5)] * (len(PROMPTS) - 1)
    recorder = Recorder(borrowing(columns, STEPS, options).table if edits else None)
    theirs.unet.set_attn_processor(Processor(recorder))
    extra: dict[str, Any] = {"prompt": PROMPTS, "output_type": "latent", "callback_on_step_end": recorder.step}
    if not hasattr(theirs, "vae"):
        told = encoder.encode_pair(PROMPTS, [None] * 2)
        words = {"prompt_embeds": told[0].states.clone(), "negative_prompt_embeds": told[1].states.clone()}
        extra = {"output_type": "pt", "callback": lambda step, t, x: recorder.step(None, step, t, {}), **words}
    theirs(generator=makers.generators([3, 3]), **size, **CALL, **extra)

    def made(**capture: Any) -> pydiff.Result:
        call = {**CALL, **size, "output_type": "latent", "capture": ["red", "small table"], **capture}
        if edits:
            return ours.edit(*PROMPTS, seed=3, cross_replace=0.5, **call)
        return ours.generate(PROMPTS, seed=[3, 3], **call)

    all_sizes = {height * width: (height, width) for height, width in sizes}
    few = {max(all_sizes): all_sizes[max(all_sizes)]}
    cases: list[tuple[dict[str, Any], Any, Any, bool]] = [
        ({}, all_sizes, range(STEPS), False),
        ({"heat_size": max(few[max(few)])}, few, range(STEPS), False),
        ({"heat_size": [max(sizes[-1])], "heat_heads": True}, {min(all_sizes): sizes[-1]}, range(STEPS), True),
        ({"heat_steps": (0.3, 0.7), "heat_every_step": True}, all_sizes, [1, 2], False),
    ]
    for options, expected_sizes, levels, apart in cases:
        heat = made(**options).heat
        for word in heat:
            theirs_heat = recorder.heat([one.find(word) for one in columns], expected_sizes, levels, apart)
            assert heat.attention(word).shape == theirs_heat.shape
            assert np.abs(heat.attention(word) - theirs_heat).max() < 1e-6
            most = theirs_heat.reshape(2, -1).max(1).reshape(2, *[1] * (theirs_heat.ndim - 1))
            assert np.abs(heat[word] - theirs_heat / np.where(most > 0, most, 1)).max() < 2e-5
    assert (heat["small table"][0] == 0).all()  # which that prompt does not have
    for level, own in zip((1, 2), heat.steps("red"), strict=True):
        one = recorder.heat([prompt.find("red") for prompt in columns], all_sizes, [level], False)
        assert np.abs(own / own.max((1, 2), keepdims=True) - one / one.max((1, 2), keepdims=True)).max() < 2e-5


@pytest.mark.parametrize("edits", [False, True], ids=["plain", "edited"])
def test_separate_attention(tmp_path: Path, edits: bool) -> None:
    theirs = makers.stable_diffusion(tmp_path, sampler="ddim", unet=BOTH).to(torch.float64)
    makers.widened(theirs.scheduler)
    compare(theirs, pydiff.load(tmp_path, dtype=torch.float64), edits, {"height": 16, "width": 24}, [(8, 12), (4, 6)])


@pytest.mark.parametrize("edits", [False, True], ids=["plain", "edited"])
def test_joint_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edits: bool) -> None:
    theirs = makers.deepfloyd(tmp_path, **JOINT).to(torch.float64)
    makers.widened(theirs.scheduler)
    ours = pydiff.load(tmp_path, dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # diffusers pools the text in float32
    compare(theirs, ours, edits, {"height": 8, "width": 12}, [(8, 12), (4, 6)])
