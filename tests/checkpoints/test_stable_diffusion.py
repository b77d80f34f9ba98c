"""Stable Diffusion 1 and 2 checkpoints: the picture is the one that StableDiffusionPipeline makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPTextModel

import pydiff
from tests.checkpoints import makers

WORDS = ["the red cat on a table", "a cat"]
RUN = 5e-4


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(diffusers' pipeline, ours) by sampler and prediction type, made once."""
    made: dict[tuple[str, str], Any] = {}

    def open_(sampler: str, kind: str = "epsilon") -> Any:
        if (sampler, kind) not in made:
            folder = tmp_path_factory.mktemp("checkpoint")
            theirs = makers.stable_diffusion(folder, sampler=sampler, scheduler={"prediction_type": kind})
            made[sampler, kind] = theirs, pydiff.load(folder)
        return made[sampler, kind]

    return open_


def compare(pair: Any, tolerance: float = RUN, **call: Any) -> np.ndarray:
    theirs, ours = pair
    seeds = call.pop("seeds", [3])
    expected = theirs(**call, generator=makers.generators(seeds), output_type="np").images
    made = ours.generate(**call, seed=seeds, output_type="np").images
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() < tolerance
    return made


@pytest.mark.parametrize("sampler", sorted(makers.LATENT_SCHEDULERS))
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_checkpoints_same_seed_same_picture(opened: Any, sampler: str, guidance: float) -> None:
    compare(opened(sampler), prompt=WORDS[0], num_inference_steps=4, guidance_scale=guidance)


@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
def test_checkpoints_v_prediction(opened: Any, sampler: str) -> None:
    compare(opened(sampler, "v_prediction"), prompt=WORDS[0], num_inference_steps=5, guidance_scale=4.0)


def test_checkpoints_batches(opened: Any) -> None:
    """Prompts of unequal length, three pictures of each."""
    compare(
        opened("ddim"),
        prompt=WORDS,
        num_images_per_prompt=3,
        seeds=list(range(6)),
        num_inference_steps=3,
        guidance_scale=4.0,
        negative_prompt=["a table", ""],
    )


@pytest.mark.parametrize("size", [(24, 40), (36, 20)])
def test_checkpoints_odd_sizes(opened: Any, size: tuple[int, int]) -> None:
    height, width = size
    call = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": height, "width": width}
    theirs, ours = opened("euler")
    theirs.check_inputs = lambda *_: None  # diffusers takes multiples of 8 alone, whatever the autoencoder's factor
    made = compare((theirs, ours), prompt=WORDS[0], **call)
    assert made.shape[1:3] == size


@pytest.mark.parametrize(
    "call",
    [
        {"clip_skip": 1},
        {"clip_skip": 2},
        {"guidance_rescale": 0.7},
        {"negative_prompt": "a red table"},
        {"eta": 0.8},
        {"timesteps": [900, 640, 200, 3], "num_inference_steps": None},
        {"guidance_scale": 0.0},
    ],
    ids=str,
)
def test_checkpoints_options(opened: Any, call: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # diffusers' clip_skip asks for a module that transformers 5 took away
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    sampler = "ddpm" if "timesteps" in call else "ddim"
    compare(opened(sampler), **{"prompt": WORDS[0], "num_inference_steps": 4, "guidance_scale": 5.0, **call})


def test_checkpoints_latents_and_embeddings_given(opened: Any) -> None:
    theirs, ours = opened("ddim")
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    prompt, negative = theirs.encode_prompt(WORDS, "cpu", 1, True)
    call = {"prompt_embeds": prompt, "negative_prompt_embeds": negative, "latents": latents, "num_inference_steps": 3}
    made = compare((theirs, ours), seeds=[1, 2], **call)
    same = ours.generate(WORDS, latents=latents, seed=[1, 2], num_inference_steps=3, output_type="np").images
    assert np.abs(made - same).max() < 1e-5


@pytest.mark.parametrize("output", ["latent", "pt", "pil"])
def test_checkpoints_output_types(opened: Any, output: str) -> None:
    theirs, ours = opened("ddim")
    call = {"prompt": WORDS[0], "num_inference_steps": 3, "output_type": output}
    expected = theirs(**call, generator=makers.generators([3])).images
    made = ours.generate(**call, seed=3).images
    if output == "pil":
        made, expected = (np.asarray(pictures[0], np.float32) for pictures in (made, expected))
        assert np.abs(made - expected).max() <= 1
    else:
        assert (made - expected).abs().max() < RUN


def test_checkpoints_every_network_call(opened: Any) -> None:
    """U-Net and autoencoder, call by call."""
    theirs, ours = opened("ddim")
    stage = ours.cascade.stages[0]
    x, text = torch.randn(3, 4, 10, 14), torch.randn(3, 9, 32)
    from pydiff.nn.cond import Cond

    with torch.no_grad():
        expected = theirs.unet(x, torch.tensor([3, 500, 999]), text).sample
        made = stage.unet(x, torch.tensor([3, 500, 999]), Cond(text))
        assert (made - expected).abs().max() < 1e-4
        picture = theirs.vae.decode(x).sample
        assert (stage.codec.decode(x) - picture).abs().max() < 1e-4
        mode = theirs.vae.encode(picture).latent_dist.mode()
        assert (stage.codec.encode(picture) - mode).abs().max() < 1e-4


def test_checkpoints_a_callback_changes_latents_and_ends_the_run(opened: Any) -> None:
    def halve(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 2
        return {"latents": tensors["latents"] * 0.5}

    made = compare(opened("ddim"), prompt=WORDS[0], num_inference_steps=5, callback_on_step_end=halve)
    whole = opened("ddim")[1].generate(WORDS[0], seed=3, num_inference_steps=5, output_type="np").images
    assert np.abs(made - whole).max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_checkpoints_in_another_type(tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = makers.stable_diffusion(tmp_path).to(dtype)
    ours = pydiff.load(tmp_path, dtype=dtype)
    assert {p.dtype for p in ours.cascade.stages[0].unet.parameters()} == {dtype}
    tolerance = {torch.float16: 0.03, torch.bfloat16: 0.2, torch.float64: 1e-6}[dtype]  # np pictures are float32
    compare((theirs, ours), tolerance, prompt=WORDS[0], num_inference_steps=3, guidance_scale=3.0)


def test_checkpoints_a_picture_does_not_depend_on_its_batch(opened: Any) -> None:
    ours = opened("euler_ancestral")[1]
    call = {"num_inference_steps": 3, "output_type": "np"}
    batch = ours.generate(WORDS, seed=[4, 9], **call).images
    alone = ours.generate(WORDS[1], seed=9, **call).images
    assert np.abs(batch[1] - alone[0]).max() < 1e-5
