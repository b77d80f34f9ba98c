"""Restoring pictures against Palette's own formulas, with diffusers' network; what is known stays; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pydiff
from benchmarks.restore import baseline, cases, covered
from benchmarks.similarity import psnr
from pydiff.tasks.restore import TASKS
from tests.checkpoints import makers
from tests.checkpoints.test_pixels import unet2d

STEPS = 12
SIZE = (12, 16)  # height and width
LEVELS = {"num_train_timesteps": STEPS, "beta_start": 0.02, "beta_end": 0.6, "clip_sample": True}
EXACT = 1e-8


def scheduler(**changes: Any) -> diffusers.DDPMScheduler:
    return diffusers.DDPMScheduler(**{**LEVELS, **changes})


def network(**changes: Any) -> diffusers.UNet2DModel:
    return unet2d(in_channels=6, **changes)


def wordless(folder: Path, **changes: Any) -> Path:
    """A tiny Palette model that reads no text, in the diffusers layout."""
    makers.saved(diffusers.DDPMPipeline(network(**changes), scheduler()), folder)
    return named(folder)


def reading(folder: Path) -> Path:
    """One whose network reads text, as DeepFloyd IF's does."""
    makers.deepfloyd(folder, in_channels=6)
    return named(folder)


def named(folder: Path) -> Path:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "PalettePipeline"}))
    return folder


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> pydiff.Pipeline:
    return pydiff.load(wordless(tmp_path_factory.mktemp("palette")))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    return Image.fromarray(pixels)


def hole(task: str) -> np.ndarray | None:
    """(H, W) bools for a task that takes a mask: what is known is a crop, or all but a box and a stroke."""
    mask = np.zeros(SIZE, bool)
    if task == "uncrop":
        mask[:, 9:] = True
    elif task == "inpaint":
        mask[2:6, 3:9] = mask[8, :] = True
    return mask if task in ("uncrop", "inpaint") else None


def palette(unet: Any, abar: Tensor, picture: Tensor, missing: Tensor | None, generator: torch.Generator) -> Tensor:
    """The paper's Algorithm 2 with the posterior of Ho et al. 2020 and y0 clamped, in the words of the paper: y_t is
    walked, x is the condition, gamma the cumulative product of alpha. All in float64; picture (1, 3, H, W)."""
    y = torch.randn(picture.shape, generator=generator, dtype=torch.float64)
    x = picture
    if missing is not None:
        x = missing * torch.randn(picture.shape, generator=generator, dtype=torch.float64) + (1 - missing) * picture
        y = missing * y + (1 - missing) * picture
    for t in reversed(range(len(abar))):
        gamma, before = float(abar[t]), float(abar[t - 1]) if t else 1.0
        alpha = gamma / before
        eps = unet(torch.cat([y, x], dim=1), t).sample
        y0 = (y / gamma**0.5 - (1 / gamma - 1) ** 0.5 * eps).clamp(-1, 1)
        y = before**0.5 * (1 - alpha) / (1 - gamma) * y0 + (1 - before) * alpha**0.5 / (1 - gamma) * y
        if t:
            variance = max((1 - alpha) * (1 - before) / (1 - gamma), 1e-20)
            y = y + variance**0.5 * torch.randn(picture.shape, generator=generator, dtype=torch.float64)
        if missing is not None:
            y = missing * y + (1 - missing) * picture
    return y


@pytest.mark.parametrize("task", TASKS)
def test_restore_is_palettes_sampling(tmp_path: Path, picture: Image.Image, task: str) -> None:
    ours = pydiff.load(wordless(tmp_path), dtype=torch.float64)
    mask = hole(task)
    given = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    missing = None if mask is None else torch.from_numpy(mask)[None, None].double()
    seeds = [3, 11]
    made = ours.restore(
        picture, task, mask, num_images_per_prompt=2, seed=seeds, num_inference_steps=STEPS, output_type="latent"
    )
    abar = scheduler().alphas_cumprod.double()
    with torch.no_grad():
        unet = network().double()
        expected = [palette(unet, abar, given.double(), missing, generator) for generator in makers.generators(seeds)]
    assert (made.images - torch.cat(expected)).abs().max() < EXACT
    assert (made.images[0] - made.images[1]).abs().max() > 0.1


def test_gamma_falls_with_t(restorer: pydiff.Pipeline) -> None:
    """So that t tells the network what gamma would."""
    abar = restorer.cascade.stages[0].sampling.schedule.alphas_cumprod
    assert (np.diff(abar) < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("task", ["inpaint", "uncrop"])
def test_what_is_known_comes_back_bit_for_bit(
    tmp_path: Path, picture: Image.Image, dtype: torch.dtype, sampler: str, task: str
) -> None:
    pipe = pydiff.load(wordless(tmp_path), dtype=dtype)
    mask, pixels = hole(task), np.asarray(picture)
    kept = []
    made = pipe.restore(
        picture, task, mask, seed=1, sampler=sampler, num_inference_steps=3, watch=lambda state: kept.append(state.x)
    )
    assert np.array_equal(np.asarray(made.images[0])[~mask], pixels[~mask])
    assert not np.array_equal(np.asarray(made.images[0])[mask], pixels[mask])
    known = torch.from_numpy(~mask)
    assert all(torch.equal(x[..., known], kept[-1][..., known]) for x in kept)


def test_what_a_hole_covers_is_not_seen(restorer: pydiff.Pipeline, picture: Image.Image) -> None:
    mask, pixels = hole("inpaint"), np.array(picture)
    call = {"seed": 4, "num_inference_steps": 3, "output_type": "np"}
    made = restorer.restore(picture, "inpaint", mask, **call).images
    pixels[mask] = 255 - pixels[mask]
    assert np.array_equal(restorer.restore(pixels, "inpaint", Image.fromarray(mask), **call).images, made)
    pixels[~mask] = 255 - pixels[~mask]
    other = restorer.restore(pixels, "inpaint", mask, **call).images
    assert np.abs(other - made)[0][mask].max() > 1e-3  # what is known is seen


def test_same_seed_same_picture_alone_or_in_a_batch(restorer: pydiff.Pipeline, picture: Image.Image) -> None:
    mask, call = hole("uncrop"), {"num_inference_steps": 3, "output_type": "np"}
    batch = restorer.restore(picture, "uncrop", mask, num_images_per_prompt=2, seed=[5, 9], **call)
    for index, seed in enumerate([5, 9]):
        alone = restorer.restore(picture, "uncrop", mask, seed=seed, **call)
        assert np.allclose(batch.images[index], alone.images[0], rtol=0, atol=1e-5)
        assert batch.settings[index] == alone.settings[0]
    said = json.loads(json.dumps(batch.settings[0], allow_nan=False))
    assert (said["task"], said["restores"], said["seed"]) == ("restore", "uncrop", 5)
    assert (said["height"], said["width"]) == SIZE


@pytest.mark.parametrize("task", ["colorize", "inpaint"])
def test_a_network_that_reads_text_is_given_the_empty_prompt(tmp_path: Path, picture: Image.Image, task: str) -> None:
    ours = pydiff.load(reading(tmp_path))
    network = ours.cascade.stages[0].unet
    network = getattr(network, "module", network)
    read: list[Tensor] = []
    network.encoder_hid_proj.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    made = ours.restore(picture, task, hole(task), seed=2, num_inference_steps=2)
    empty = ours.cascade.stages[0].text.encode([""]).states
    assert [tuple(states.shape) for states in read] == [tuple(empty.shape)]  # once, and one branch: nothing is guided
    assert torch.equal(read[0], empty)
    assert made.settings[0]["prompt"] == ""
    for words in ({"negative_prompt": "a"}, {"prompt_embeds": empty}, {"clean_caption": True}):
        with pytest.raises(ValueError, match=f"{next(iter(words))} is given, but a restoration reads no words"):
            ours.restore(picture, task, hole(task), **words)
    with pytest.raises(ValueError, match="guidance_scale is more than 1, but no words guide"):
        ours.restore(picture, task, hole(task), guidance_scale=3.0)


SOME = np.pad(np.ones((4, 4), bool), ((0, SIZE[0] - 4), (0, SIZE[1] - 4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"task": "sharpen"}, "task is 'sharpen'; expected one of colorize, inpaint, uncrop, jpeg"),
        ({"task": None}, "task is None; expected one of"),
        ({"task": ["jpeg"]}, r"task is \['jpeg'\]; expected one of"),
        ({"task": "jpeg", "mask": SOME}, "a mask is given, but the task 'jpeg' takes none"),
        ({"task": "colorize", "mask": SOME}, "a mask is given, but the task 'colorize' takes none"),
        ({"task": "inpaint"}, "the task 'inpaint' needs a mask, white where"),
        ({"task": "uncrop"}, "the task 'uncrop' needs a mask"),
        ({"task": "inpaint", "mask": SOME.T}, r"mask has shape \(16, 12\); expected the picture's height and width"),
        ({"task": "inpaint", "mask": SOME & False}, "mask is black everywhere; expected white on what is missing"),
        ({"task": "uncrop", "mask": SOME | True}, "mask is white everywhere"),
        ({"task": "uncrop", "mask": SOME}, "mask keeps more than one rectangle, .* give task='inpaint'"),
        ({"task": "jpeg", "image": np.zeros((2, 2, 4))}, r"image has shape \(2, 2, 4\)"),
        ({"task": "jpeg", "image": np.zeros((1, 16, 3))}, "the picture is 16x1; expected sides of at least 2 pixels"),
        ({"task": "jpeg", "prompt": "a cat"}, "unknown option prompt"),
        ({"task": "jpeg", "negative_prompt": "a cat"}, "negative_prompt is given, but a restoration reads no words"),
        ({"task": "jpeg", "strength": 0.5}, "strength is 0.5 for stage 1 of a task that takes none"),
        ({"task": "jpeg", "guidance_scale": 2.0}, "guidance_scale is 2.0, but that stage reads no words"),
        ({"task": "jpeg", "output_type": "jpg"}, "output_type is 'jpg'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refusals(
    restorer: pydiff.Pipeline, picture: Image.Image, idle: None, call: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        restorer.restore(**{"image": picture, "num_inference_steps": 3, **call})


def test_models_for_other_tasks_say_so(
    restorer: pydiff.Pipeline, pipe: pydiff.Pipeline, picture: Image.Image, idle: None
) -> None:
    with pytest.raises(ValueError, match=r"pydiff-embedded restores no pictures; .* The model pydiff-palette restores"):
        pipe.restore(picture, "jpeg")
    for call in (restorer.generate, lambda: restorer.instruct(picture), lambda: restorer.image_to_image(picture)):
        with pytest.raises(ValueError, match=r"it restores damaged pictures: pipe.restore\(image, task\)"):
            call()
    with pytest.raises(ValueError, match=r"fills no holes; .* pipe.restore"):
        restorer.inpaint(picture, hole("inpaint"))


def test_a_network_of_other_channels_is_refused(tmp_path: Path) -> None:
    makers.saved(diffusers.DDPMPipeline(unet2d(), scheduler()), tmp_path)
    with pytest.raises(ValueError, match="takes 3 channels; a PalettePipeline's takes 6"):
        pydiff.load(named(tmp_path))


def test_models_that_ship_have_names(pipe: pydiff.Pipeline) -> None:
    assert pydiff.load("pydiff-embedded").sizes == pipe.sizes
    assert pydiff.load("pydiff-palette").sizes == (64,)


@pytest.mark.parametrize("task", ["inpaint", "uncrop"])
def test_the_shipped_model_fills_better_than_a_mean(task: str) -> None:
    shipped = pydiff.load("pydiff-palette")
    gains = []
    for case in cases(task, 16):  # a single one may lose several decibels: what is hidden cannot be known
        made = shipped.restore(covered(case.damage), task, case.damage.mask, seed=case.seed)
        plain = baseline(case, (128, 128))
        gains.append(psnr(np.asarray(made.images[0]), case.whole) - psnr(plain, case.whole))
    assert np.mean(gains) > 1
    assert made.settings[0]["model"] == "pydiff-palette"
