"""MasaCtrl and plug-and-play against their published formulas, typed here as processors of diffusers' attention and a
patched residual block, in every branch of guidance."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import pydiff
from pydiff.models.unet import UNet, UNetConfig
from pydiff.tasks.mutual import MutualOptions
from pydiff.tasks.plug_and_play import PlugOptions
from tests.checkpoints import makers
from tests.tasks.junk import junk

SOURCE, TARGETS = "the red cat on a table", ["a dog", "the big red cat on a small table"]
STEPS = 6
LEVELS = {  # of which two in the decoder have attention, as three of Stable Diffusion's have
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


def of_source(x: Tensor) -> Tensor:
    """The first row of each half, for all rows of that half."""
    return torch.cat([half[:1].expand_as(half) for half in x.chunk(2)])


class Clock:
    """Which step the pipeline is at."""

    step = 0

    def tick(self, pipe: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        self.step = step + 1
        return {}


class PixelProcessor:
    """Self-attention of which some of q, k and v are the source's while `on` says so."""

    def __init__(self, borrowed: str, clock: Clock, on: Callable[[int], bool]) -> None:
        self.borrowed, self.clock, self.on = borrowed, clock, on

    def __call__(self, attn: Any, hidden_states: Tensor, **_: Any) -> Tensor:
        parts = {name: getattr(attn, f"to_{name}")(hidden_states) for name in "qkv"}
        if self.on(self.clock.step):
            parts |= {name: of_source(parts[name]) for name in self.borrowed}
        q, k, v = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in parts.values())
        maps = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))


def process(unet: Any, layers: list[str], processor: PixelProcessor) -> None:
    made = dict(unet.attn_processors)
    named = [name for name in made if "attn1" in name and name.startswith(tuple(layers))]
    assert len(named) >= len(layers)
    unet.set_attn_processor({**made, **dict.fromkeys(named, processor)})


def run_both(folder: Path, prepare: Callable[[Any, Clock], None], guidance: float = 5.0, **edit: Any) -> float:
    """The largest difference, having checked that the source is as it would be alone and the targets are not."""
    theirs = makers.stable_diffusion(folder, sampler="ddim", unet=LEVELS).to(torch.float64)
    makers.widened(theirs.scheduler)
    ours = pydiff.load(folder, dtype=torch.float64)
    clock = Clock()
    prepare(theirs.unet, clock)
    prompts = [SOURCE, *TARGETS]
    call: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": guidance, "output_type": "latent"}
    generators = makers.generators([3] * len(prompts))
    expected = theirs(prompts, generator=generators, callback_on_step_end=clock.tick, **call).images
    made = ours.edit(SOURCE, TARGETS, seed=3, **call, **edit).images
    plain = ours.generate(prompts, seed=[3] * len(prompts), **call).images
    assert (made[0] - plain[0]).abs().max() < 1e-6
    assert (made[1:] - plain[1:]).abs().amax((1, 2, 3)).min() > 1e-3
    return float((made - expected).abs().max())


@pytest.mark.parametrize("options", [{}, {"mutual_start": 0.5, "mutual_layers": ["up_blocks.1.*", "mid*"]}], ids=str)
def test_masactrl(tmp_path: Path, options: dict[str, Any]) -> None:
    """Keys and values of the source from a step on: by default 0.08 * 6 up, in the second level with attention."""
    first = 3 if options else 1
    layers = ["up_blocks.1.", "mid_block."] if options else ["up_blocks.2."]

    def prepare(unet: Any, clock: Clock) -> None:
        process(unet, layers, PixelProcessor("kv", clock, lambda step: step >= first))

    assert run_both(tmp_path, prepare, method="masactrl", **options) < 1e-6


PLUGGED: dict[str, Any] = {
    "feature_share": (0.3, 0.9), "attention_share": 1.0, "feature_layers": ["down_blocks.0.resnets.0"],
    "attention_layers": "*up_blocks.2.attentions.0*",
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, PLUGGED], ids=["default", "given"])
def test_plug_and_play(tmp_path: Path, options: dict[str, Any]) -> None:
    """What the second convolution of a residual block makes, for 0.8 of the steps; queries and keys for half."""

    def prepare(unet: Any, clock: Clock) -> None:
        resnet = unet.down_blocks[0].resnets[0] if options else unet.up_blocks[1].resnets[1]
        inside = range(2, 6) if options else range(5)
        plain = resnet.conv2.forward
        resnet.conv2.forward = lambda x: of_source(plain(x)) if clock.step in inside else plain(x)
        layers = ["up_blocks.2.attentions.0."] if options else ["up_blocks.1.attentions.1.", "up_blocks.2."]
        process(unet, layers, PixelProcessor("qk", clock, lambda step: bool(options) or step < 3))

    assert run_both(tmp_path, prepare, method="plug_and_play", **options) < 1e-6


@pytest.mark.parametrize("method", ["masactrl", "plug_and_play"])
def test_in_joint_attention_an_identity_changes_nothing(pipe: pydiff.Pipeline, method: str) -> None:
    """With perturbed attention too, whose branch takes part; and settings repeat each picture."""
    how: dict[str, Any] = {"seed": 5, "size": 64, "num_inference_steps": 4, "pag_scale": 1.0, "output_type": "np"}
    words = ["a red circle", "a red circle", "a blue ring"]
    made = pipe.edit(words[0], words[1:], method=method, **how)
    plain = pipe.generate(words, **{**how, "seed": [5] * 3}).images
    change = np.abs(made.images - plain).max(axis=(1, 2, 3))
    assert change[:2].max() < 1e-4
    assert change[2] > 0.02
    said = made.settings[2]
    assert (said["task"], said["method"], said["source"]) == ("edit", method, words[0])
    kept = {name: value for name, value in said.items() if name not in ("task", "model", "version", "prompt")}
    again = pipe.edit(kept.pop("source"), said["prompt"], **kept, output_type="np")
    assert np.abs(again.images[1] - made.images[2]).max() < 1e-4
    assert again.settings[1] == said


def test_layers_are_by_default_those_of_the_papers(pipe: pydiff.Pipeline) -> None:
    """In Stable Diffusion, whose decoder has attention from its second level on; elsewhere by the same rule."""
    fields = {"block_out_channels": (8,) * 4, "norm_num_groups": 2, "attention_head_dim": 2, "cross_attention_dim": 8}
    stage = dataclasses.replace(pipe.cascade.stages[0], unet=UNet(UNetConfig.from_dict(fields)))
    blocks = [f"up_blocks.{block}.attentions.{index}" for block in (1, 2, 3) for index in range(3)]
    own = [f"{block}.transformer_blocks.0.attn1" for block in blocks]
    assert MutualOptions().layers(stage).names == set(own[3:])
    features, attention = PlugOptions().layers(stage)
    assert (features.names, attention.names) == ({"up_blocks.1.resnets.1"}, set(own[1:]))
    embedded = pipe.cascade.stages[0]
    assert MutualOptions().layers(embedded).names == {"up_blocks.1.attentions.0", "up_blocks.1.attentions.1"}
    features, attention = PlugOptions().layers(embedded)
    assert features.names == {"up_blocks.0.resnets.1"}
    assert "up_blocks.0.attentions.1" in (attention.names or ())
    assert "up_blocks.0.attentions.0" not in (attention.names or ())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"method": "pnp"}, "method is 'pnp'; expected one of prompt_to_prompt, masactrl, plug_and_play"),
    ({"method": None}, "method is None"),
    ({"method": ["masactrl"]}, "method is "),
    ({"method": "masactrl", "mutual_start": 1.5}, "mutual_start is 1.5; expected a number from 0 to 1"),
    ({"method": "masactrl", "mutual_start": (0.1, 0.5)}, "mutual_start is "),
    ({"method": "masactrl", "mutual_layers": "*.resnets.*"}, "mutual_layers has '.*', which fits no layer"),
    ({"method": "masactrl", "mutual_layers": []}, r"mutual_layers is \[\]"),
    ({"method": "masactrl", "cross_replace": 0.5}, "cross_replace is an option of the method 'prompt_to_prompt'"),
    ({"method": "masactrl", "function": max}, "function is an option of the method 'prompt_to_prompt', but the method"),
    ({"method": "masactrl", "feature_share": 0.5}, "feature_share is an option of the method 'plug_and_play'"),
    ({"mutual_start": 0.1}, "mutual_start is an option of the method 'masactrl', but the method is 'prompt_to_prompt'"),
    ({"method": "plug_and_play", "feature_share": 2}, "feature_share is 2; expected shares of the run"),
    ({"method": "plug_and_play", "attention_share": "half"}, "attention_share"),
    ({"method": "plug_and_play", "feature_layers": "up_blocks.0.attentions.0"}, "feature_layers has '.*', which fits"),
    ({"method": "plug_and_play", "feature_layers": "*upsamplers*"}, "feature_layers has '.*', which fits no layer"),
    ({"method": "plug_and_play", "attention_layers": 3}, "attention_layers is 3"),
    ({"method": "masactrl", "target": None}, "give reweight, or a target"),
    ({"method": "masactrl", "seed": [1, 2]}, "seed is"),
    ({"method": "masactrl", "steps": 3}, "unknown option steps"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=str)
def test_what_does_not_fit_is_refused_before_work(
    pipe: pydiff.Pipeline, idle: None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.edit("a red circle", **{"target": "a blue circle", **options})


@pytest.mark.parametrize(
    "name", ["mutual_start", "mutual_layers", "feature_share", "feature_layers", "attention_share"]
)
@given(value=junk)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_raises_nothing_but_value_errors(pipe: pydiff.Pipeline, name: str, value: Any) -> None:
    stage = pipe.cascade.stages[0]
    with contextlib.suppress(ValueError):
        (MutualOptions if "mutual" in name else PlugOptions)(**{name: value}).change(stage, 10)
