"""RePaint against diffusers' pipeline, and against the paper's Algorithm 1 written out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.repaint.pipeline_repaint import RePaintPipeline
from torch import Tensor

import pydiff
from tests.checkpoints import makers
from tests.checkpoints.test_pixels import unet2d

STEPS = 12
SIZE = (12, 16)
LEVELS = {"num_train_timesteps": STEPS, "beta_start": 0.02, "beta_end": 0.5, "clip_sample": True}
EXACT = 1e-8
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
MASK = np.zeros(SIZE, bool)
MASK[2:7, 3:9] = MASK[9, :] = True


def given() -> tuple[Tensor, Tensor]:
    """The picture (1, 3, H, W) in [-1, 1] and the mask (1, 1, H, W), 1 = made."""
    x0 = torch.from_numpy(PICTURE).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    return x0.double(), torch.from_numpy(MASK)[None, None].double()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pixels")
    makers.saved(diffusers.DDIMPipeline(unet2d(), diffusers.DDIMScheduler(**LEVELS)), made)
    return made


def theirs() -> RePaintPipeline:
    """In float64; its betas are those of its float32 alphas_cumprod, which their own digits miss by 1e-7."""
    scheduler = makers.widened(diffusers.RePaintScheduler(**LEVELS))
    below = torch.cat([torch.ones(1).double(), scheduler.alphas_cumprod[:-1]])
    scheduler.betas = 1 - scheduler.alphas_cumprod / below
    pipeline = RePaintPipeline(unet2d().double(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("jump_length", "jump_n_sample"), [(3, 2), (2, 3), (1, 2), (4, 1)])
def test_repaint_is_that_of_diffusers(folder: Path, eta: float, jump_length: int, jump_n_sample: int) -> None:
    """With as many steps as there are timesteps: with n timesteps to a step its undo_step adds the noise of timesteps
    t to t + n - 1, but x comes from the level of t - n, so that its levels are right for n = 1 alone."""
    ours, (x0, mask) = pydiff.load(folder, dtype=torch.float64), given()
    jumps = {"num_inference_steps": STEPS, "jump_length": jump_length, "jump_n_sample": jump_n_sample, "eta": eta}
    how = {"method": "repaint", "compat": "diffusers", "sampler": "ddim", "seed": [3, 11], "output_type": "latent"}
    faithful = {} if jump_n_sample == 1 else {"faithful": True}
    made = ours.inpaint(PICTURE, MASK, num_images_per_prompt=2, **how, **jumps, **faithful).images
    for index, generator in enumerate(makers.generators([3, 11])):
        expected = theirs()(x0, 1 - mask, generator=generator, output_type="np", **jumps).images
        unit = (made[index] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
        assert np.abs(unit - expected[0]).max() < EXACT
    assert (made[0] - made[1]).abs().max() > 0.1


LISTED = [4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]  # of 5 steps, jumps of 2, each level twice


def algorithm(unet: Any, abar: Tensor, times: list[int], generator: torch.Generator) -> Tensor:
    """Algorithm 1 of Lugmayr et al. 2022, with equations 8a and 8b and one draw for both, over respaced betas: down by
    the posterior of Ho et al. 2020 with x0 clamped, up by one step of the forward process at a time. In float64."""
    x0, mask = given()

    def draws() -> Iterator[Tensor]:
        while True:
            yield torch.randn(x0.shape, generator=generator, dtype=torch.float64)

    drawn = draws()
    x = next(drawn)
    for last, now in pairwise(LISTED):
        if now > last:
            beta = 1 - float(abar[now] / abar[last])
            x = (1 - beta) ** 0.5 * x + beta**0.5 * next(drawn)
            continue
        own, below = float(abar[last]), float(abar[now]) if now >= 0 else 1.0
        beta = 1 - own / below
        eps = unet(x, times[last]).sample
        clean = ((x - (1 - own) ** 0.5 * eps) / own**0.5).clamp(-1, 1)
        mean = below**0.5 * beta / (1 - own) * clean + (1 - beta) ** 0.5 * (1 - below) / (1 - own) * x
        noise = next(drawn)
        unknown = mean + (beta * (1 - below) / (1 - own)) ** 0.5 * noise
        known = below**0.5 * x0 + (1 - below) ** 0.5 * noise
        x = mask * unknown + (1 - mask) * known
    return x


def test_repaint_is_the_papers(tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler(**{**LEVELS, "num_train_timesteps": 50, "beta_end": 0.2})
    makers.saved(diffusers.DDPMPipeline(unet2d(), scheduler), tmp_path)
    ours = pydiff.load(tmp_path, dtype=torch.float64)
    how = {"num_inference_steps": 5, "jump_length": 2, "jump_n_sample": 2, "faithful": True, "output_type": "latent"}
    made = ours.inpaint(PICTURE, MASK, seed=4, **how).images  # a network without words is repainted with unless said
    times = [0, 10, 20, 30, 40]
    with torch.no_grad():
        abar = scheduler.alphas_cumprod.double()[times]
        expected = algorithm(unet2d().double(), abar, times, torch.Generator().manual_seed(4))
    assert (made - expected).abs().max() < EXACT


@pytest.mark.parametrize("masks", [1, 4])
def test_repaint_calls_the_network_as_often_as_the_paper_says(tmp_path: Path, masks: int) -> None:
    """2,410 times in its 4,570 steps, however many pictures are made at once."""
    makers.saved(diffusers.DDPMPipeline(unet2d(), diffusers.DDPMScheduler()), tmp_path)
    pipe, calls = pydiff.load(tmp_path), list[int]()
    pipe.cascade.stages[0].unet.forward = lambda given, *_: calls.append(len(given)) or 0.1 * given
    holes = [np.roll(np.eye(4, dtype=bool), shift, axis=1) for shift in range(masks)]
    steps = []
    made = pipe.inpaint(PICTURE[:4, :4], holes, num_images_per_prompt=2, seed=1, watch=lambda s: steps.append(s.t))
    assert calls == [2 * masks] * 2410  # 250 steps, for the folder's 1,000 are more than RePaint takes
    assert len(steps) == 2410 + (4570 - 2410) // 10
    assert len(made.images) == 2 * masks
