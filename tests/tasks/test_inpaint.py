"""Filling holes with models of every kind: what is kept stays, batches are their pictures alone, defaults, settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import pydiff
from pydiff.tasks.inpaint import inpaint, step_of
from pydiff.tasks.request import make_call
from tests.checkpoints import makers
from tests.checkpoints.test_pixels import unet2d

SIZE = (23, 31)  # multiples of nothing
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
MASK = np.zeros(SIZE, bool)
MASK[4:15, 9:25] = MASK[20, 3] = MASK[0, 30] = True
Open = Callable[..., pydiff.Pipeline]


def kin(kind: str, channels: int) -> Callable[[Path], Any]:
    return lambda folder: makers.stable_diffusion(folder, kind, unet={"in_channels": channels})


def pixels(folder: Path, **changes: Any) -> Any:
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=40, beta_end=0.3)
    return makers.saved(diffusers.DDPMPipeline(unet2d(sample_size=32, **changes), scheduler), folder)


MAKERS: dict[str, list[Callable[[Path], Any]]] = {
    "latents": [kin("StableDiffusionPipeline", 4)],
    "holes": [kin("StableDiffusionInpaintPipeline", 9)],
    "pixels": [pixels],
    "classes": [lambda folder: pixels(folder, num_class_embeds=10)],
    "if": [makers.deepfloyd],
    "cascade": [
        makers.deepfloyd,
        lambda folder: makers.deepfloyd(folder, "IFSuperResolutionPipeline", upscales=True),
    ],
}
WORDS: dict[str, dict[str, Any]] = {"pixels": {}, "classes": {"class_labels": 3}}
RUNS = [
    ("latents", {"method": "blend"}),
    ("latents", {"method": "blend", "strength": 0.6}),
    ("latents", {"method": "repaint", "jump_length": 1, "jump_n_sample": 2}),
    ("holes", {}),
    ("holes", {"strength": 0.6}),
    ("pixels", {"jump_length": 1, "jump_n_sample": 2}),
    ("pixels", {"method": "blend", "sampler": "dpmpp_2m"}),
    ("pixels", {"method": "blend", "compat": "diffusers"}),
    ("if", {}),
    ("if", {"method": "repaint", "jump_length": 1, "jump_n_sample": 2, "faithful": True}),
    ("cascade", {"size": 32}),
    ("cascade", {"size": 32, "method": "repaint", "jump_length": 1, "jump_n_sample": 2}),
    ("cascade", {"size": 32, "compat": "diffusers", "strength": [1.0, 0.7]}),
]
CASES = pytest.mark.parametrize(("kind", "own"), RUNS, ids=[f"{kind}-{'-'.join(own)}" for kind, own in RUNS])


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Open:
    folders: dict[str, list[Path]] = {}
    made: dict[Any, pydiff.Pipeline] = {}

    def open_(kind: str, dtype: torch.dtype = torch.float32) -> pydiff.Pipeline:
        if kind not in folders:
            folders[kind] = [tmp_path_factory.mktemp(kind) for _ in MAKERS[kind]]
            for make, folder in zip(MAKERS[kind], folders[kind], strict=True):
                make(folder)
        if (kind, dtype) not in made:
            made[kind, dtype] = pydiff.load(folders[kind], dtype=dtype)
        return made[kind, dtype]

    return open_


def call(kind: str, own: dict[str, Any], **more: Any) -> dict[str, Any]:
    words = WORDS.get(kind, {"prompt": "the red cat on a table"})
    steps = [3, 3] if kind == "cascade" else 3
    return {**words, "num_inference_steps": steps, "seed": 3, **own, **more}


@CASES
def test_what_is_kept_comes_back_to_the_bit(opened: Open, kind: str, own: dict[str, Any]) -> None:
    runs = [(torch.float32, {}), (torch.bfloat16, {"feather": 2}), (torch.bfloat16, {"padding_mask_crop": 2})]
    for dtype, more in runs:
        made = np.asarray(opened(kind, dtype).inpaint(PICTURE, MASK, **call(kind, own, **more)).images[0])
        assert made.shape == PICTURE.shape
        assert np.array_equal(made[~MASK], PICTURE[~MASK])
        assert (made[MASK] != PICTURE[MASK]).mean() > 0.5


@pytest.mark.parametrize("kind", ["latents", "pixels", "cascade"])
def test_what_is_kept_is_kept_in_every_type_of_output(opened: Open, kind: str) -> None:
    run = opened(kind).inpaint
    pil = np.asarray(run(PICTURE, Image.fromarray(MASK), **call(kind, {})).images[0])
    array = run(torch.from_numpy(PICTURE).permute(2, 0, 1), torch.from_numpy(MASK), output_type="np", **call(kind, {}))
    tensor = run(Image.fromarray(PICTURE), MASK.astype(np.uint8) * 255, output_type="pt", **call(kind, {})).images
    assert np.array_equal(np.round(array.images[0] * 255).astype(np.uint8), pil)
    assert np.array_equal(tensor[0].permute(1, 2, 0).numpy(), array.images[0])
    assert np.abs(array.images[0][~MASK] - PICTURE[~MASK] / np.float32(255)).max() < 1e-7
    assert np.array_equal(pil[~MASK], PICTURE[~MASK])


@given(arrays(bool, (5, 7)), st.sampled_from(["blend", "repaint"]))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mask(opened: Open, mask: np.ndarray, method: str) -> None:
    mask[2, 3] = True
    picture = PICTURE[:5, :7]
    made = opened("pixels").inpaint(picture, mask, method=method, num_inference_steps=2, seed=1)
    assert np.array_equal(np.asarray(made.images[0])[~mask], picture[~mask])


@pytest.mark.parametrize("kind", ["latents", "pixels"])
def test_a_hole_may_be_all_of_the_picture(opened: Open, kind: str) -> None:
    """Nothing of the picture is left then, whatever it was."""
    run, everything = opened(kind).inpaint, np.ones(SIZE, bool)
    made = [run(picture, everything, **call(kind, {})).images[0] for picture in (PICTURE, 255 - PICTURE)]
    assert np.array_equal(*map(np.asarray, made))


def test_a_hole_between_latents_is_filled(opened: Open) -> None:
    """The mask is read at one pixel of each element of the latents, which a smaller hole may miss."""
    mask = np.zeros(SIZE, bool)
    mask[7, 9] = True
    made = [
        np.asarray(opened("latents").inpaint(PICTURE, mask, **call("latents", {}, seed=seed)).images[0])[7, 9]
        for seed in (1, 2, 3)
    ]
    assert len({tuple(colour) for colour in made}) == 3


def test_what_the_hole_covers_is_not_seen(opened: Open) -> None:
    other = PICTURE.copy()
    other[MASK] = 255 - other[MASK]
    for kind, own in (("pixels", {}), ("pixels", {"method": "blend"}), ("if", {})):
        made = [opened(kind).inpaint(one, MASK, **call(kind, own)).images[0] for one in (PICTURE, other)]
        assert np.array_equal(*map(np.asarray, made))


@pytest.mark.parametrize(
    ("kind", "own"),
    [RUNS[0], RUNS[2], RUNS[4], RUNS[5], RUNS[-1]],
    ids=["blend", "repaint", "model", "pixels", "cascade"],
)
def test_pictures_and_masks_of_a_batch_are_as_alone(opened: Open, kind: str, own: dict[str, Any]) -> None:
    run, own = opened(kind, torch.float64).inpaint, {**own, "num_inference_steps": [2, 2] if kind == "cascade" else 3}
    pictures, masks = [PICTURE, 255 - PICTURE], [MASK, MASK[::-1].copy()]
    made = run(pictures, masks, num_images_per_prompt=2, output_type="np", **call(kind, own, seed=[1, 2, 3, 4]))
    assert made.images.shape == (4, *SIZE, 3)
    for index, seed in [(0, 1), (3, 4)]:
        alone = run(pictures[index // 2], masks[index // 2], output_type="np", **call(kind, own, seed=seed))
        assert np.abs(alone.images[0] - made.images[index]).max() < 5e-4  # random networks amplify rounding
        assert alone.settings[0] == made.settings[index]


@pytest.mark.parametrize("kind", ["latents", "pixels", "classes"])
@pytest.mark.parametrize(("pictures", "masks"), [(2, 1), (1, 2)])
def test_one_of_each_serves_all(opened: Open, kind: str, pictures: int, masks: int) -> None:
    many = [PICTURE, 255 - PICTURE][:pictures], [MASK, MASK[::-1].copy()][:masks]
    made = opened(kind).inpaint(*many, **call(kind, {})).images
    assert len(made) == 2
    for picture, mask, final in zip(many[0] * (3 - pictures), many[1] * (3 - masks), made, strict=True):
        assert np.array_equal(np.asarray(final)[~mask], picture[~mask])


@CASES
def test_settings_repeat_the_run(opened: Open, kind: str, own: dict[str, Any]) -> None:
    run = opened(kind).inpaint
    made = run(PICTURE, MASK, output_type="np", **call(kind, own, feather=1))
    told = json.loads(json.dumps(made.settings[0], allow_nan=False))
    assert (told.pop("height"), told.pop("width")) == SIZE
    assert told.pop("task") == "inpaint"
    if kind == "holes" or (kind == "latents" and "size" not in own):
        told.pop("size")
    again = run(PICTURE, MASK, output_type="np", **{k: v for k, v in told.items() if k not in ("model", "version")})
    assert np.array_equal(again.images, made.images)
    assert again.settings == made.settings


@pytest.mark.parametrize(
    ("kind", "method"), [("latents", "blend"), ("holes", "model"), ("pixels", "repaint"), ("if", "blend")]
)
def test_the_method_is_that_of_the_model(opened: Open, idle: None, kind: str, method: str) -> None:
    wanted = inpaint(opened(kind).cascade, PICTURE, MASK, make_call(**options(kind)))
    assert wanted.said["method"] == method
    assert wanted.plans[0].said["strength"] == (None if method == "repaint" else 1.0)


def options(kind: str, **more: Any) -> dict[str, Any]:
    arguments = call(kind, {}, **more)
    return {"prompt": arguments.pop("prompt", None), "arguments": arguments}


def test_repaint_takes_ddpm_and_no_more_steps_than_its_authors(pipe: pydiff.Pipeline, opened: Open, idle: None) -> None:
    plan = inpaint(pipe.cascade, PICTURE, MASK, make_call("a red ring", {"method": "repaint"})).plans[0]
    assert (plan.said["sampler"], plan.said["num_inference_steps"]) == ("ddpm", 25)
    asked = {"method": "repaint", "sampler": [None, "ddim"], "num_inference_steps": [7, 2]}
    large = np.zeros((256, 256, 3)), np.ones((256, 256))
    plans = inpaint(pipe.cascade, *large, make_call("a red ring", asked)).plans
    assert [plan.said["sampler"] for plan in plans] == ["ddpm", "ddim"]
    assert [plan.table.levels for plan in plans] == [7, 2]


@pytest.mark.parametrize(("side", "size"), [(20, 64), (64, 64), (100, 64), (200, 256), (256, 256), (900, 1024)])
def test_a_cascade_works_at_the_size_of_the_picture(pipe: pydiff.Pipeline, idle: None, side: int, size: int) -> None:
    picture, mask = np.zeros((side, side // 2, 3), np.uint8), np.ones((side, side // 2), bool)
    wanted = inpaint(pipe.cascade, picture, mask, make_call("a red ring", {}))
    assert max(wanted.plans[-1].stage.size) == size
    step = step_of(tuple(plan.stage for plan in wanted.plans))
    assert step == size // 64
    height, width = wanted.plans[-1].size
    assert 0 <= height - side < step > width - side // 2 >= 0
    assert wanted.plans[0].size == (height * 64 // size, width * 64 // size)


def test_a_run_may_be_ended(opened: Open) -> None:
    def end(walk: Any, step: int, t: float, held: dict[str, Any]) -> None:
        walk.interrupt = step == 1

    for kind in ("latents", "pixels"):
        seen: list[Any] = []
        made = opened(kind).inpaint(PICTURE, MASK, callback_on_step_end=end, watch=seen.append, **call(kind, {}))
        assert len(seen) == 2
        assert np.array_equal(np.asarray(made.images[0])[~MASK], PICTURE[~MASK])
