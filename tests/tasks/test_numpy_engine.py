"""Host code over NumPy's arrays makes what it makes over torch's."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pydiff
from pydiff.cli.choices import described
from tests.checkpoints import makers
from tests.tasks.numpy_engine import numpy_pipeline

CLOSE = 5e-4
WORDS = "a red circle left of a blue square"
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
LARGE = np.random.default_rng(1).integers(0, 256, (96, 80, 3), np.uint8)
MASK = np.zeros((64, 64), np.float32)
MASK[10:30, 20:50], MASK[12, 21] = 1, 0.4
HOLE = np.zeros((96, 80), bool)
HOLE[10:40, 20:50] = True
TARGETS = [WORDS.replace("red", "green"), WORDS.replace("circle", "star")]

# The model, the task, its arguments, and options.
RUNS: dict[str, tuple[str, str, tuple[Any, ...], dict[str, Any]]] = {
    "generate": ("pydiff-embedded", "generate", (WORDS,), {"size": 256, "num_inference_steps": [3, 2]}),
    "a batch": ("pydiff-embedded", "generate", ([WORDS, ""],), {"size": 64, "negative_prompt": "blue"}),
    "capture": ("pydiff-embedded", "generate", (WORDS,), {"size": 64, "capture": True, "heat_every_step": True}),
    "truncated": ("pydiff-embedded", "generate", (WORDS,),
        {"size": 256, "num_inference_steps": [8, 2], "conditioning": "truncated"}),
    "edit": ("pydiff-embedded", "edit", (WORDS, TARGETS),
        {"size": 64, "num_inference_steps": 5, "local_blend": ["circle", "star"], "excluded": "blue",
         "self_replace": 0.6, "spatial_replace": 0.2, "capture": ["circle"]}),
    "reweight": ("pydiff-embedded", "edit", (WORDS,), {"size": 64, "reweight": {"red": [-1.0, 2.0]}}),
    "image_to_image": ("pydiff-embedded", "image_to_image", (LARGE, WORDS),
        {"size": 256, "strength": [0.6, 0.9], "num_inference_steps": [4, 2]}),
    "blend": ("pydiff-embedded", "inpaint", (PICTURE, MASK, WORDS), {"size": 64, "feather": 2.5, "soft_mask": True}),
    "crop": ("pydiff-embedded", "inpaint", (LARGE, HOLE, WORDS), {"size": 64, "padding_mask_crop": 4}),
    "repaint": ("pydiff-embedded", "inpaint", ([PICTURE, PICTURE], MASK, WORDS),
        {"size": 64, "method": "repaint", "jump_length": 1, "jump_n_sample": 2}),
    "outpaint": ("pydiff-embedded", "outpaint", (PICTURE, WORDS), {"left": 20, "top": 7}),
    "upscale": ("pydiff-embedded", "upscale", (PICTURE,), {"size": 256, "num_inference_steps": 2}),
    "instruct": ("pydiff-instruct", "instruct", (LARGE, "make the circle green"), {"num_inference_steps": [3]}),
    "colorize": ("pydiff-palette", "restore", (PICTURE, "colorize"), {}),
    "restore": ("pydiff-palette", "restore", (PICTURE, "inpaint", MASK), {}),
}  # fmt: skip


@cache
def models(name: str) -> tuple[pydiff.Pipeline, pydiff.Pipeline]:
    pipe = pydiff.load(name)
    return pipe, numpy_pipeline(pipe)


def compare(pipes: tuple[pydiff.Pipeline, pydiff.Pipeline], task: str, given: Any, options: dict[str, Any]) -> None:
    options = {"num_inference_steps": 3, "seed": 7, "output_type": "np", **options}
    expected, made = (getattr(pipe, task)(*given, **options) for pipe in pipes)
    assert made.settings == expected.settings
    for ours, torchs in zip(made.stages, expected.stages, strict=True):
        np.testing.assert_allclose(ours, torchs, atol=CLOSE, rtol=0)
    assert list(made.heat) == list(expected.heat)
    for word in made.heat:
        np.testing.assert_allclose(made.heat.attention(word), expected.heat.attention(word), atol=1e-5, rtol=0)
        np.testing.assert_allclose(made.heat[word], expected.heat[word], atol=1e-4, rtol=0)


@pytest.mark.parametrize("run", RUNS)
def test_shipped_models(run: str) -> None:
    name, task, given, options = RUNS[run]
    compare(models(name), task, given, options)


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> tuple[pydiff.Pipeline, pydiff.Pipeline]:
    folder = tmp_path_factory.mktemp("latent")
    makers.stable_diffusion(folder)
    pipe = pydiff.load(folder)
    return pipe, numpy_pipeline(pipe)


@pytest.mark.parametrize(
    ("task", "given", "options"),
    [
        ("generate", ("a red cat",), {"capture": True}),
        ("edit", ("a red cat", "a red dog"), {"local_blend": ["cat", "dog"]}),
        ("image_to_image", (LARGE, "a red cat"), {}),
        ("inpaint", (LARGE, HOLE, "a red cat"), {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_latents(latent: Any, task: str, given: Any, options: dict[str, Any]) -> None:
    compare(latent, task, given, options)


def test_latents_of_either_kind_come_and_go(latent: Any) -> None:
    call: dict[str, Any] = {"num_inference_steps": 3, "output_type": "latent"}
    expected, made = (pipe.generate("a red cat", seed=3, **call).images for pipe in latent)
    assert isinstance(made, np.ndarray)
    np.testing.assert_allclose(made, expected.numpy(), atol=CLOSE, rtol=0)
    for pipe in latent:
        first, *others = (pipe.generate("a red cat", latents=one, **call).images for one in (expected, made))
        np.testing.assert_allclose(others[0], first, atol=CLOSE, rtol=0)


def test_streams_and_previews() -> None:
    for expected, made in zip(*(pipe.stream("a star", size=64, seed=1, num_inference_steps=3)
                                for pipe in models("pydiff-embedded")), strict=True):  # fmt: skip
        assert np.abs(np.asarray(made.image, int) - np.asarray(expected.image, int)).max() <= 1


def test_inversions() -> None:
    how: dict[str, Any] = {"size": 64, "num_inference_steps": 3, "measure": True}
    expected, made = (pipe.invert(PICTURE, WORDS, **how) for pipe in models("pydiff-embedded"))
    np.testing.assert_allclose(made.latents, expected.latents, atol=CLOSE, rtol=0)
    assert made.psnr == pytest.approx(expected.psnr, abs=1e-2)


def test_choices_are_the_same() -> None:
    expected, made = (described(pipe.choices()) for pipe in models("pydiff-embedded"))
    assert made == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifier": lambda x, t: x, "classifier_labels": 1}, "gradient needs torch weights, not an exported model"),
        ({"capture": ["circle"], "heat_heads": True}, "heat_heads is not in an exported model"),
        ({"generator": torch.Generator()}, "generator is given, but an exported model draws without torch; give seed"),
    ],
)
def test_what_needs_torch_is_refused(options: dict[str, Any], message: str, idle: None) -> None:
    with pytest.raises(ValueError, match=message):
        models("pydiff-embedded")[1].generate(WORDS, size=64, **options)


def test_null_text_needs_torch(idle: None) -> None:
    with pytest.raises(ValueError, match="method is 'null_text', which needs torch weights"):
        models("pydiff-embedded")[1].invert(PICTURE, WORDS, size=64, method="null_text")


def test_inversions_of_either_kind_have_one_file(tmp_path: Path) -> None:
    made = models("pydiff-embedded")[1].invert(PICTURE, WORDS, size=64, num_inference_steps=2)
    again = pydiff.Inverted.load(made.save(tmp_path / "made.safetensors"))
    assert np.array_equal(again.latents, made.latents)
