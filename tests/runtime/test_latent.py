"""A tiny Stable Diffusion, exported: the autoencoder, CLIP's text network, and what is asked of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import pydiff
from pydiff.export import export
from pydiff.runtime.codecs import OnnxAutoencoder
from tests.checkpoints import makers

CALL, RUN = 1e-4, 5e-4
PROMPT, TARGET = "the red cat", "the cat on the red"
FAST: dict[str, Any] = {"seed": 3, "num_inference_steps": 3, "output_type": "np"}
Pair = tuple[pydiff.Pipeline, pydiff.Pipeline]


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """By torch, and exported."""
    folder = tmp_path_factory.mktemp("latent")
    makers.stable_diffusion(folder / "weights")
    export(folder / "weights", folder / "exported")
    return pydiff.load(folder / "weights"), pydiff.load(folder / "exported")


def codecs(pipes: Pair) -> tuple[Any, OnnxAutoencoder]:
    ours, exported = (pipe.cascade.stages[0].codec for pipe in pipes)
    assert isinstance(exported, OnnxAutoencoder)
    return ours, exported


@pytest.mark.parametrize(
    "how",
    [{}, {"clip_skip": 1}, {"chunks": True, "weighting": True}, {"height": 40, "width": 72}, {"sampler": "euler"}],
    ids=str,
)
def test_generate(pipes: Pair, how: dict[str, Any]) -> None:
    prompt = "the (red:1.3) cat" if "weighting" in how else PROMPT
    expected, made = (pipe.generate(prompt, **FAST, **how) for pipe in pipes)
    assert np.abs(made.images - expected.images).max() <= RUN


def test_edit_with_heat(pipes: Pair) -> None:
    expected, made = (pipe.edit(PROMPT, TARGET, **FAST, capture=["cat"], local_blend="cat") for pipe in pipes)
    assert np.abs(made.images - expected.images).max() <= RUN
    assert np.abs(made.heat.attention("cat") - expected.heat.attention("cat")).max() <= CALL


def test_from_a_picture(pipes: Pair) -> None:
    image = np.random.default_rng(0).random((64, 64, 3))
    expected, made = (pipe.image_to_image(image, PROMPT, **FAST) for pipe in pipes)
    assert np.abs(made.images - expected.images).max() <= RUN


@pytest.mark.parametrize("how", [{}, {"slicing": True}, {"tiling": True}, {"tiling": True, "slicing": True}], ids=str)
def test_the_autoencoder(pipes: Pair, how: dict[str, bool]) -> None:
    random = np.random.default_rng(1)
    ours, exported = codecs(pipes)
    factor, channels = ours.factor, ours.config.latent_channels
    latents = random.standard_normal((2, channels, 40, 24)).astype(np.float32)
    pictures = random.uniform(-1, 1, (2, 3, 40 * factor, 24 * factor)).astype(np.float32)
    with torch.inference_mode():
        decoded = ours.decode(torch.from_numpy(latents), **how).numpy()
        encoded = ours.encode(torch.from_numpy(pictures), torch.from_numpy(latents), **how).numpy()
    assert np.abs(exported.decode(latents, **how) - decoded).max() <= CALL
    assert np.abs(exported.encode(pictures, latents, **how) - encoded).max() <= CALL
    assert np.array_equal(exported.scaled(latents), ours.scaled(torch.from_numpy(latents)).numpy())
    assert np.array_equal(exported.unscaled(latents), ours.unscaled(torch.from_numpy(latents)).numpy())


def test_pictures_that_the_autoencoder_does_not_take(pipes: Pair) -> None:
    _, exported = codecs(pipes)
    with pytest.raises(ValueError, match="expected a height and width that"):
        exported.encode(np.zeros((1, 3, exported.factor, exported.factor + 1), np.float32))
    with pytest.raises(ValueError, match="latents is float32"):
        exported.decode(np.zeros((1, 5, 8, 8), np.float32))
