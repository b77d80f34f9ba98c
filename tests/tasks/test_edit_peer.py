"""Prompt-to-Prompt without maps against maps that are formed, edited and multiplied, in diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pydiff
from pydiff.diffusion.edits import EditTable
from pydiff.tasks.edit import EditOptions, borrowing, prompt_columns
from pydiff.tasks.request import Call
from tests.checkpoints import makers

SOURCE = "the red cat on a table"
SWAP = "the red dog on a table"
LONGER = "the big red cat on a small table"
STEPS = 6
GUIDANCE = 5.0


class Maps:
    """Edits the maps of the conditional half of a batch, at the level that the callback counts."""

    def __init__(self, table: EditTable, pixels: str) -> None:
        self.table, self.pixels, self.level = table, pixels, 0

    def step(self, pipe: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        self.level = step + 1
        return {}

    def edited(self, maps: Tensor, text: int) -> Tensor:
        """maps (2B, heads, N, M), of which the first `text` columns are words; those of the null prompts come first."""
        row = self.table.at(self.level)
        null, own = maps.chunk(2)
        source = own[row.source]
        words, pixels = own[..., :text], own[..., text:]
        borrows = row.self_source is not None and maps.shape[2] <= self.table.self_max_pixels
        if text and row.borrows:
            moved = torch.einsum("bhni,bij->bhnj", source[..., :text], row.transfer.to(maps))
            edited = moved + words * row.keep.to(maps)[:, None, None]
            if pixels.shape[-1] and self.pixels == "rescale" and not borrows:
                pixels = pixels * (1 - edited.sum(-1, keepdim=True)) / pixels.sum(-1, keepdim=True)
            words = torch.cat([own[:1, ..., :text], edited[1:]])
            pixels = torch.cat([own[:1, ..., text:], pixels[1:]])
        if borrows:
            pixels = own[row.self_source][..., text:]
        return torch.cat([null, torch.cat([words, pixels], dim=-1)])


class Processor:
    """Both families of diffusers' attention, with the maps formed."""

    def __init__(self, maps: Maps) -> None:
        self.maps = maps

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        x, words = hidden_states, encoder_hidden_states
        joint = x.ndim == 4
        if joint:
            assert words is not None
            words = attn.norm_encoder_hidden_states(words)
            x = attn.group_norm(x.flatten(2)).mT
            k = torch.cat([attn.add_k_proj(words), attn.to_k(x)], dim=1)
            v = torch.cat([attn.add_v_proj(words), attn.to_v(x)], dim=1)
            text = words.shape[1]
        else:
            text = 0 if words is None else words.shape[1]
            k, v = (project(x if words is None else words) for project in (attn.to_k, attn.to_v))
        q, k, v = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in (attn.to_q(x), k, v))
        maps = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        out = attn.to_out[0]((self.maps.edited(maps, text) @ v).transpose(1, 2).flatten(2))
        return out.mT.reshape(hidden_states.shape) + hidden_states if joint else out


def compare(theirs: Any, ours: Any, targets: list[str], tolerance: float, **edit: Any) -> None:
    prompts = [SOURCE, *targets]
    options = EditOptions(**edit)
    stage = ours.cascade.stages[0]
    maps = Maps(borrowing(prompt_columns(stage, prompts, Call()), STEPS, options).table, options.pixels)
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
