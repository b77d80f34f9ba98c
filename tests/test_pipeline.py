"""The laws of a pipeline: the same seed the same picture, alone or in a batch, streamed or not, in any thread."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pydiff
from pydiff.diffusion.guidance import limited, oscillating
from pydiff.diffusion.samplers import SAMPLERS
from pydiff.tasks.generate import generate
from pydiff.tasks.request import Call
from pydiff.tasks.run import REPEATED

PROMPT = "a red circle left of a blue square on a white background"
SMALL = {"size": 64, "num_inference_steps": 2, "output_type": "np"}
CASCADE = {"size": 256, "num_inference_steps": [2, 1], "output_type": "np"}


def test_same_seed_same_picture(pipe: pydiff.Pipeline) -> None:
    first, again, other = (pipe.generate(PROMPT, seed=seed, **CASCADE).images for seed in (7, 7, 8))
    assert first.shape == (1, 256, 256, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_generator_draws_what_its_seed_draws(pipe: pydiff.Pipeline) -> None:
    seeded = pipe.generate(PROMPT, seed=[7, 3], num_images_per_prompt=2, **SMALL)
    given = [torch.Generator().manual_seed(seed) for seed in (7, 3)]
    drawn = pipe.generate(PROMPT, generator=given, num_images_per_prompt=2, **SMALL)
    assert np.array_equal(seeded.images, drawn.images)
    assert drawn.seeds == [None, None]


def test_without_a_seed_pictures_differ_and_say_their_seed(pipe: pydiff.Pipeline) -> None:
    first, other = pipe.generate(PROMPT, **SMALL), pipe.generate(PROMPT, **SMALL)
    assert not np.array_equal(first.images, other.images)
    assert np.array_equal(pipe.generate(PROMPT, seed=first.seeds[0], **SMALL).images, first.images)


@pytest.mark.parametrize("kind", [SMALL, CASCADE], ids=["small", "cascade"])
def test_a_batch_is_its_pictures_alone(pipe: pydiff.Pipeline, kind: dict[str, Any]) -> None:
    prompts = [PROMPT, "three green stars", ""]
    batch = pipe.generate(prompts, seed=[5, 9, 5], **kind)
    for index, (prompt, seed) in enumerate(zip(prompts, [5, 9, 5], strict=True)):
        alone = pipe.generate(prompt, seed=seed, **kind)
        assert np.allclose(batch.images[index], alone.images[0], rtol=0, atol=1e-5)
        assert batch.settings[index] == alone.settings[0]


def test_several_pictures_of_each_prompt(pipe: pydiff.Pipeline) -> None:
    made = pipe.generate(["a red ring", "a blue cross"], seed=4, num_images_per_prompt=2, **SMALL)
    assert made.seeds == [4, 5, 6, 7]
    assert [settings["prompt"] for settings in made.settings] == ["a red ring"] * 2 + ["a blue cross"] * 2
    alone = pipe.generate("a blue cross", seed=6, **SMALL)
    assert np.allclose(made.images[2], alone.images[0], rtol=0, atol=1e-5)


def test_negative_prompts_steer(pipe: pydiff.Pipeline) -> None:
    plain, empty, none, away = (
        pipe.generate("a red ring", seed=1, **SMALL, **given).images
        for given in ({}, {"negative_prompt": ""}, {"negative_prompt": None}, {"negative_prompt": "a blue ring"})
    )
    assert np.array_equal(plain, empty)
    assert np.array_equal(plain, none)  # an absent one is the empty one, for this model
    assert not np.array_equal(plain, away)
    each = pipe.generate(["a red ring"] * 2, seed=[1, 1], negative_prompt=["", "a blue ring"], **SMALL).images
    assert np.allclose(each, np.concatenate([plain, away]), rtol=0, atol=1e-5)


def test_streaming_is_generating(pipe: pydiff.Pipeline) -> None:
    options = {"seed": 7, "size": 256, "num_inference_steps": [3, 2]}
    seen: list[Any] = []
    made = pipe.generate(PROMPT, watch=seen.append, **options)
    previews = list(pipe.stream(PROMPT, **options))
    assert [(p.stage, p.step, p.steps) for p in previews] == [(0, 0, 3), (0, 1, 3), (0, 2, 3), (1, 0, 2), (1, 1, 2)]
    assert [p.done for p in previews] == [False] * 4 + [True]
    assert all(p.image.size == ((64, 64) if p.stage == 0 else (256, 256)) for p in previews)
    assert all(torch.equal(p.x, state.x) for p, state in zip(previews, seen, strict=True))
    last = pydiff.images.to_pil(previews[-1].x)[0]
    assert np.array_equal(last, made.images[0])
    assert np.array_equal(previews[-1].image, made.images[0])


def test_closing_a_stream_leaves_nothing_behind(pipe: pydiff.Pipeline) -> None:
    before = pipe.generate(PROMPT, seed=7, **SMALL).images
    stream = pipe.stream(PROMPT, seed=7, size=64, num_inference_steps=5)
    next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()
    assert next(stream, None) is None
    assert not torch.is_inference_mode_enabled()
    assert np.array_equal(pipe.generate(PROMPT, seed=7, **SMALL).images, before)


def test_interleaved_streams_do_not_meet(pipe: pydiff.Pipeline) -> None:
    streams = [pipe.stream(PROMPT, seed=seed, size=64, num_inference_steps=2) for seed in (1, 2)]
    pairs = list(zip(*streams, strict=True))
    for seed, preview in zip((1, 2), pairs[-1], strict=True):
        alone = pipe.generate(PROMPT, seed=seed, size=64, num_inference_steps=2).images[0]
        assert np.array_equal(preview.image, alone)


def test_a_watcher_that_fails_ends_the_run(pipe: pydiff.Pipeline) -> None:
    def watch(_: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        pipe.generate(PROMPT, seed=7, watch=watch, **SMALL)
    assert not torch.is_inference_mode_enabled()


def test_threads_share_a_pipeline(pipe: pydiff.Pipeline) -> None:
    def one(seed: int) -> np.ndarray:
        images: np.ndarray = pipe.generate(PROMPT, seed=seed, **SMALL).images
        return images

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(one, range(4)))
    for seed, images in enumerate(together):
        assert np.allclose(images, one(seed), rtol=0, atol=1e-5)


REPEATS: list[dict[str, Any]] = [
    {"size": 64, "num_inference_steps": 2},
    {"size": 256, "num_inference_steps": [2, 1], "guidance_scale": [2.0, 1.0], "noise_level": 30},
    {"size": 64, "num_inference_steps": 3, "guidance_scale": oscillating(4.0)},
    {"size": 256, "num_inference_steps": [2, 1], "guidance_scale": [limited(2.0, 0.5), None]},
    {"size": 256, "num_inference_steps": [2, 2], "guidance_scale": [[2.0, 3.0], [0.5, 1.0]]},
    {"size": 64, "num_inference_steps": 2, "sampler": "ddim", "eta": 0.5, "negative_prompt": "a blue ring"},
    {"size": 64, "num_inference_steps": 2, "thresholding": "dynamic", "percentile": 0.9},
    {"size": 64, "num_inference_steps": 2, "percentile": 0.9, "guidance_rescale": 0.7},
    {"size": 64, "num_inference_steps": 2, "thresholding": "static", "max_value": 0.5},
    {"size": 64, "num_inference_steps": 2, "thresholding": "none", "sampler": "ddpm", "guidance_scale": 1},
    {"size": np.int64(64), "num_inference_steps": np.int32(2), "guidance_scale": np.float32(2.5), "seed": np.uint8(3)},
    {"size": 64, "num_inference_steps": 2, "sampler": "ddim", "eta": np.float32(0.5), "guidance_scale": 0.0},
    {"size": 64, "height": 40, "width": np.int64(72), "num_inference_steps": 2},
    {"size": 256, "height": 160, "width": 256, "num_inference_steps": [1, 1]},
    {"size": 64, "timesteps": [900, 500, 20]},
    {"size": 64, "timesteps": np.array([900, 500, 20])},
    {"size": 256, "timesteps": [(900, 500), "3"]},
    {"size": 64, "num_inference_steps": 5, "denoising_end": 0.5},
    {"size": 64, "num_inference_steps": 2, "weighting": True, "chunks": True, "clean_caption": None},
]


@pytest.mark.parametrize("options", REPEATS, ids=lambda options: "-".join(map(str, options))[:60])
def test_settings_repeat_the_run(pipe: pydiff.Pipeline, options: dict[str, Any]) -> None:
    made = pipe.generate("a red ring", output_type="np", **{"seed": 7, **options})
    settings = json.loads(json.dumps(made.settings[0], allow_nan=False))
    assert set(settings) <= {*REPEATED, "task", "model", "version"}
    again = pipe.generate(output_type="np", **{name: settings[name] for name in REPEATED if name in settings})
    assert np.array_equal(made.images, again.images)
    assert again.settings == made.settings


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs(pipe: pydiff.Pipeline, sampler: str) -> None:
    made = pipe.generate(PROMPT, seed=7, sampler=sampler, **{**SMALL, "num_inference_steps": 3})
    assert np.isfinite(made.images).all()
    assert made.images.std() > 0
    assert made.settings[0]["sampler"] == [sampler]


def test_guidance_may_be_a_number_a_list_or_a_function(pipe: pydiff.Pipeline) -> None:
    scales: list[Any] = [2.0, [2.0], [[2.0, 2.0]], lambda level, levels: 2.0]
    images = [pipe.generate(PROMPT, seed=7, guidance_scale=scale, **SMALL).images for scale in scales]
    assert all(np.array_equal(images[0], other) for other in images[1:])
    falling = pipe.generate(PROMPT, seed=7, guidance_scale=lambda level, levels: 3.0 - level, **SMALL)
    assert falling.settings[0]["guidance_scale"] == [[3.0, 2.0]]


def test_thresholding_is_applied(pipe: pydiff.Pipeline) -> None:
    widest = {}
    for kind, extra in (("none", {}), ("static", {"max_value": 0.25}), ("dynamic", {"percentile": 0.5})):
        seen: list[Any] = []
        pipe.generate(PROMPT, seed=7, guidance_scale=9.0, thresholding=kind, watch=seen.append, **SMALL, **extra)
        widest[kind] = max(float(state.denoised.abs().max()) for state in seen)
    assert widest["static"] <= 0.25 + 1e-6
    assert widest["dynamic"] <= 1 + 1e-6


def test_a_percentile_alone_changes_the_folders_own_threshold(pipe: pydiff.Pipeline) -> None:
    own = pipe.cascade.stages[0].sampling.threshold
    plan = generate(pipe.cascade, Call(PROMPT, options={"percentile": 0.5}), size=64).plans[0]
    assert plan.threshold == own._replace(percentile=0.5)


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_a_run_stops_at_any_stage(pipe: pydiff.Pipeline, size: int) -> None:
    stages = [64, 256, 1024].index(size) + 1
    made = pipe.generate(PROMPT, seed=7, size=size, num_inference_steps=[2, 1, 1][:stages])
    assert [pictures[0].size[0] for pictures in made.stages] == [64, 256, 1024][:stages]
    assert made.images[0].size == (size, size)
    assert set(made.timings) == {"text", "stages", "total"}
    assert sum(made.timings["stages"]) <= made.timings["total"]


def test_output_types_agree(pipe: pydiff.Pipeline) -> None:
    options = {"seed": 7, "size": 64, "num_inference_steps": 2}
    pil, array, tensor = (pipe.generate(PROMPT, output_type=kind, **options).images for kind in ("pil", "np", "pt"))
    assert array.dtype == np.float32
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(pil[0]), (array[0] * 255).round().astype(np.uint8))
    tensor.mul_(2)  # an ordinary tensor, not one of inference mode
    latent = pipe.generate(PROMPT, output_type="latent", **options).images  # pixels, where there is no autoencoder
    assert torch.equal(latent.div_(2).add_(0.5).clamp_(0, 1) * 2, tensor)


def test_upscaling_a_stage_of_the_cascade(pipe: pydiff.Pipeline) -> None:
    picture = pipe.generate(PROMPT, seed=7, size=64, num_inference_steps=2).images[0]
    large = pipe.upscale(picture, seed=1, size=256, num_inference_steps=1)
    assert large.images[0].size == (256, 256)
    assert len(large.stages) == 1
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    again = pipe.upscale(tensor, "", seed=1, size=256, num_inference_steps=1)
    assert np.array_equal(large.images[0], again.images[0])
    near = np.asarray(picture.resize((256, 256), Image.Resampling.BILINEAR), float)
    assert np.asarray(large.images[0]).shape == near.shape


@pytest.mark.parametrize("side", [1, 32, 64, 100, 255])
def test_upscaling_never_runs_the_base(pipe: pydiff.Pipeline, side: int) -> None:
    made = pipe.upscale(Image.new("RGB", (side, side), "red"), seed=1, size=256, num_inference_steps=1)
    assert [pictures[0].size for pictures in made.stages] == [(256, 256)]
    assert made.settings[0]["task"] == "upscale"


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", ["output_type", "watch", "image", "steps"])
def test_a_stream_refuses_what_it_does_not_take(pipe: pydiff.Pipeline, name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown option {name}"):
        pipe.stream(PROMPT, **{name: "pil"})


def test_unknown_words_are_warned_of(pipe: pydiff.Pipeline) -> None:
    with pytest.warns(pydiff.UnknownWord, match="never saw 'dragon', 'purplish'"):
        pipe.generate("a purplish dragon and a red ring", seed=7, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.generate("A RED circle; a blue square.", seed=7, **SMALL)
        pipe.generate("", seed=7, **SMALL)


def test_a_result_saves_itself(pipe: pydiff.Pipeline, tmp_path: Path) -> None:
    made = pipe.generate(PROMPT, seed=7, size=64, num_inference_steps=2)
    assert made.save(tmp_path / "a.png") == tmp_path / "a.png"
    assert pydiff.images.read_settings(tmp_path / "a.png") == made.settings[0]
    for path, message in (("a.jpg", "no .png"), ("none/a.png", "does not exist")):
        with pytest.raises(ValueError, match=message):
            made.save(tmp_path / path)
    arrays = pipe.generate(PROMPT, seed=7, **SMALL)
    with pytest.raises(ValueError, match="output_type='pil'"):
        arrays.save(tmp_path / "b.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


IMPORTS = """
import sys, pydiff
heavy = {"torch", "numpy", "PIL", "transformers", "diffusers", "tokenizers", "safetensors", "tqdm", "scipy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
pydiff.load().generate("a red ring", seed=1, size=64, num_inference_steps=1)
never = {"transformers", "diffusers", "scipy", "torchvision", "huggingface_hub", "pydiff.embedded.train"}
assert not never & set(sys.modules), never & set(sys.modules)
"""


def test_imports_are_lazy() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)


def test_public_names() -> None:
    for name in pydiff.__all__:
        assert getattr(pydiff, name) is not None
        assert name in dir(pydiff)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pydiff.nothing  # noqa: B018
