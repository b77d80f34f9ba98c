"""Cross-frame attention: the pictures are those that diffusers' processor of Text2Video-Zero makes, the first one is as
it would be alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import CrossFrameAttnProcessor

import pydiff
from tests.checkpoints import makers

WORDS = ["the red cat on a table", "a cat", "a red table on the cat"]
SEEDS = [3, 4, 3]
SAID = ("task", "model", "version")


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_pictures_are_those_of_diffusers(tmp_path: Path, guidance: float) -> None:
    theirs = makers.stable_diffusion(tmp_path, sampler="ddim").to(torch.float64)
    makers.widened(theirs.scheduler)
    ours = pydiff.load(tmp_path, dtype=torch.float64)
    call: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": guidance, "output_type": "latent"}
    plain = ours.generate(WORDS, seed=SEEDS, **call).images
    theirs.unet.set_attn_processor(CrossFrameAttnProcessor(batch_size=2 if guidance > 1 else 1))
    expected = theirs(WORDS, generator=makers.generators(SEEDS), **call).images
    made = ours.generate(WORDS, seed=SEEDS, cross_frame=True, **call).images
    assert (made - expected).abs().max() < 1e-6
    assert (made[0] - plain[0]).abs().max() < 1e-6
    assert (made[1:] - plain[1:]).abs().amax((1, 2, 3)).min() > 1e-3


def test_in_joint_attention_the_first_is_as_it_would_be_alone(pipe: pydiff.Pipeline) -> None:
    """The others repeat from their settings, and equal pictures stay so."""
    how: dict[str, Any] = {"size": 64, "num_inference_steps": 4, "output_type": "np"}
    words = ["a red circle", "a blue ring left of a green star", "a red circle"]
    made = pipe.generate(words, seed=[5, 6, 5], negative_prompt="a star", cross_frame=True, **how)
    plain = pipe.generate(words, seed=[5, 6, 5], negative_prompt="a star", **how).images
    change = np.abs(made.images - plain).max(axis=(1, 2, 3))
    assert change[0] < 1e-4
    assert change[1] > 0.05
    assert change[2] < 1e-4
    first, second = made.settings[:2]
    assert (first["task"], first["prompt"], "cross_frame" in first) == ("generate", words[0], False)
    assert (second["task"], second["prompt"], second["seed"]) == ("cross_frame", words[:2], [5, 6])
    again = pipe.generate(**{name: value for name, value in second.items() if name not in SAID}, output_type="np")
    assert np.abs(again.images[1] - made.images[1]).max() < 1e-4
    assert again.settings[1] == second


def test_a_file_says_what_it_shows(pipe: pydiff.Pipeline, tmp_path: Path) -> None:
    made = pipe.generate(["a red circle", "a blue ring"], seed=5, size=64, num_inference_steps=1, cross_frame=True)
    path = made.save(tmp_path / "a.png", 1)
    assert pydiff.images.read_settings(path)["prompt"] == ["a red circle", "a blue ring"]
    line = pydiff.images.parameters_line(made.settings[1])
    assert line.startswith("a blue ring\n")
    assert "Seed: 6," in line


def test_one_picture_is_itself_and_streams_too(pipe: pydiff.Pipeline) -> None:
    how: dict[str, Any] = {"seed": 5, "size": 64, "num_inference_steps": 2}
    alone, other = (pipe.generate("a red circle", cross_frame=on, output_type="np", **how) for on in (False, True))
    assert np.abs(alone.images - other.images).max() < 1e-4
    assert alone.settings == other.settings
    both = ["a red circle", "a blue ring"]
    last = [state.x for state in pipe.stream(both, cross_frame=True, **how)][-1]
    made = pipe.generate(both, cross_frame=True, output_type="pt", **how).images
    torch.testing.assert_close((last.clamp(-1, 1) + 1) / 2, made, atol=1e-5, rtol=0)


def test_with_perturbed_attention(tmp_path: Path) -> None:
    """Every branch takes the first row's pixels, the perturbed one but in its layers."""
    theirs = makers.stable_diffusion(tmp_path, sampler="ddim")
    ours = pydiff.load(tmp_path)
    del theirs
    how: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 4.0, "pag_scale": 2.0, "output_type": "latent"}
    same = ours.generate([WORDS[0], WORDS[0]], seed=[3, 3], cross_frame=True, **how).images
    alone = ours.generate(WORDS[0], seed=3, **how).images
    assert (same - alone).abs().max() < 5e-4


@pytest.mark.parametrize("given", [1, "yes", None, [True]])
def test_what_is_no_bool_is_refused(pipe: pydiff.Pipeline, idle: None, given: Any) -> None:
    for run in (pipe.generate, pipe.stream):
        with pytest.raises(ValueError, match=r"cross_frame is .*; expected True or False"):
            run(["a red circle", "a blue ring"], cross_frame=given)
