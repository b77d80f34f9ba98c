"""Inversion of pictures: Google's formulas over diffusers' networks, laws of reconstruction, files, and refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pydiff
from pydiff.images import from_user
from pydiff.tasks.inverted import Inverted
from pydiff.weights.safetensors import write_safetensors
from tests.checkpoints import makers

PROMPT, TARGET = "the red cat on a table", "the red dog on a table"
STEPS, GUIDANCE = 6, 7.5
SHORT: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
SIDES = (24, 40)  # height, width
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIDES, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inverted")
    makers.stable_diffusion(folder, sampler="ddim")
    return folder


@pytest.fixture(scope="module")
def tiny(folder: Path) -> pydiff.Pipeline:
    return pydiff.load(folder, dtype=torch.float64)


class Google:
    """DDIM inversion and null-text optimisation of null_text_w_ptp.ipynb, as its formulas say, in float64."""

    def __init__(self, pipe: Any, text: Tensor, null: Tensor) -> None:
        self.unet, self.text, self.null = pipe.unet, text, null
        self.scheduler = makers.widened(pipe.scheduler)
        self.scheduler.set_timesteps(STEPS)
        self.times = self.scheduler.timesteps.tolist()

    def eps(self, x: Tensor, t: int, words: Tensor) -> Tensor:
        return self.unet(x, t, encoder_hidden_states=words).sample[:, : x.shape[1]]

    def moved(self, eps: Tensor, x: Tensor, here: int, there: int) -> Tensor:
        abar, end = self.scheduler.alphas_cumprod, self.scheduler.final_alpha_cumprod
        a, b = (abar[t] if t >= 0 else end for t in (here, there))
        return b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps

    @torch.no_grad()
    def trajectory(self, x: Tensor) -> list[Tensor]:
        made = [x]
        for t in reversed(self.times):
            made.append(self.moved(self.eps(made[-1], t, self.text), made[-1], t - 1000 // STEPS, t))
        return made

    def optimised(self, trajectory: list[Tensor], inner_steps: int) -> list[Tensor]:
        x, null, found = trajectory[-1], self.null, []
        for i, t in enumerate(self.times):
            null = null.clone().detach().requires_grad_()
            adam = torch.optim.Adam([null], lr=1e-2 * (1.0 - i / 100.0))
            with torch.no_grad():
                conditional = self.eps(x, t, self.text)
            for _ in range(inner_steps):
                other = self.eps(x, t, null)
                made = self.moved(other + GUIDANCE * (conditional - other), x, t, t - 1000 // STEPS)
                loss = F.mse_loss(made, trajectory[-2 - i])
                (null.grad,) = torch.autograd.grad(loss, [null])
                adam.step()
                if loss.item() < 1e-5 + i * 2e-5:
                    break
            found.append(null.detach())
            with torch.no_grad():
                other = self.eps(x, t, null)
                x = self.moved(other + GUIDANCE * (conditional - other), x, t, t - 1000 // STEPS)
        return found


def googles(tmp_path: Path, ours: pydiff.Pipeline, pixels: bool) -> tuple[Google, Tensor]:
    """Google's loop over diffusers' network, and the x0 of the picture."""
    import diffusers

    theirs: Any = (makers.deepfloyd if pixels else makers.stable_diffusion)(tmp_path)
    theirs = theirs.to(torch.float64)
    config = {"set_alpha_to_one": True, **theirs.scheduler.config, "thresholding": False, "clip_sample": False}
    theirs.scheduler = diffusers.DDIMScheduler.from_config(config)
    encoder = ours.cascade.stages[0].text
    assert encoder is not None
    text, null = (one.states.clone() for one in encoder.encode_pair([PROMPT], [None]))
    image = torch.from_numpy(from_user(IMAGE))
    if pixels:
        size = ours.cascade.stages[0].size
        image = F.interpolate(image, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
        return Google(theirs, text, null), image.double()
    with torch.no_grad():
        return Google(theirs, text, null), 0.18215 * theirs.vae.encode(image.double()).latent_dist.mean


@pytest.mark.parametrize("pixels", [False, True])
def test_google_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: bool) -> None:
    (makers.deepfloyd if pixels else makers.stable_diffusion)(tmp_path)
    ours = pydiff.load(tmp_path, dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # diffusers pools IF's text in float32
    google, x = googles(tmp_path, ours, pixels)
    trajectory = google.trajectory(x)
    seen: list[Any] = []
    how = {"refinements": 0, **SHORT, "inner_steps": 3}
    made = ours.invert(IMAGE, PROMPT, method="null_text", watch=seen.append, **how)
    size = trajectory[-1].abs().max()
    walk, tuned = ([state for state in seen if state.stage == stage] for stage in (0, 1))
    assert len(walk) == len(tuned) == STEPS
    for state, expected in zip(walk, trajectory[1:], strict=True):
        assert (state.x - expected).abs().max() < (1e-5 if pixels else 1e-6) * size
    assert made.null is not None
    compared = 1 if pixels else STEPS  # diffusers rounds to float32 in IF, which later levels amplify
    found = google.optimised(trajectory, 3)
    for null, expected in zip(made.null[:compared], found[:compared], strict=True):
        assert (null - expected).abs().max() < (1e-3 if pixels else 1e-5)


def test_what_methods_promise(tiny: pydiff.Pipeline) -> None:
    psnr, unguided = {}, tiny.invert(IMAGE, PROMPT, method="ddim", num_inference_steps=STEPS, guidance_scale=1.0)
    plain = tiny.reconstruct(unguided, output_type="pt").images
    for method in ("ddim", "negative_prompt", "null_text"):
        made = tiny.invert(IMAGE, PROMPT, method=method, measure=True, **SHORT)
        assert torch.equal(made.latents, unguided.latents)
        assert made.latents.shape == (1, 4, SIDES[0] // 2, SIDES[1] // 2)
        psnr[method] = made.psnr or 0.0
        again = tiny.reconstruct(made, output_type="pt").images
        if method == "negative_prompt":  # guidance between equal branches is none
            assert (again - plain).abs().max() < 1e-5
        edited = tiny.edit(made, [PROMPT, TARGET], output_type="pt").images
        assert (edited[:2] - again).abs().max() < 1e-5  # the source, and an edit that changes nothing
        assert (edited[2] - again).abs().max() > 1e-3
        assert edited.shape[2:] == SIDES
    assert psnr["null_text"] > psnr["ddim"]


def test_refinements_come_closer(tiny: pydiff.Pipeline) -> None:
    def psnr(**how: Any) -> float:
        return tiny.invert(IMAGE, PROMPT, measure=True, **how, **SHORT).psnr or 0.0

    assert psnr(refinements=3) >= psnr(refinements=0)


def test_settings_say_what_they_can(tiny: pydiff.Pipeline) -> None:
    made = tiny.invert(IMAGE, PROMPT, **SHORT)
    source, edited = tiny.edit(made, TARGET, cross_replace=0.5).settings
    assert (source["task"], edited["task"]) == ("reconstruct", "edit")
    assert source["seed"] is None
    assert edited["seed"] is None
    assert edited["source"] == PROMPT
    assert edited["inversion"] == "negative_prompt"
    assert edited["sampler"] == ["ddim"]
    assert edited["guidance_scale"] == [GUIDANCE]
    json.dumps(edited, allow_nan=False)


def test_a_file_says_the_same(tiny: pydiff.Pipeline, tmp_path: Path) -> None:
    how = {"timesteps": [900, 500, 100], "guidance_scale": lambda level, levels: 3.0 + level, "inner_steps": 1}
    made = tiny.invert(IMAGE, PROMPT, method="null_text", measure=True, **how)
    read = Inverted.load(made.save(tmp_path / "picture.safetensors"))
    assert made.null is not None
    assert read.null is not None
    assert torch.equal(read.latents, made.latents)
    assert torch.equal(read.null, made.null)
    assert (read.prompt, read.settings, read.psnr) == (made.prompt, made.settings, made.psnr)
    first, second = (tiny.edit(one, TARGET, output_type="pt").images for one in (made, read))
    assert torch.equal(first, second)


def test_a_cascade_enlarges_what_was_inverted(pipe: pydiff.Pipeline) -> None:
    made = pipe.invert(IMAGE, "a red circle", num_inference_steps=2, size=256)
    again = pipe.reconstruct(made, size=256, num_inference_steps=[None, 2], seed=3)
    assert [stage[0].size for stage in again.stages] == [(64, 64), (256, 256)]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"image": 5}, "image is a int; expected a PIL picture"),
        ({"image": torch.zeros(2, 4, 8, 8)}, "image holds latents of 2 pictures"),
        ({"prompt": None}, "prompt is None; expected a string"),
        ({"prompt": ["a", "b"]}, "expected a string that says what the picture shows"),
        ({"method": "edict"}, "method is 'edict'; expected one of negative_prompt, null_text, ddim"),
        ({"sampler": "euler"}, "sampler is 'euler', but an inverted picture is walked with 'ddim'"),
        ({"eta": 0.5}, "eta is 0.5, but"),
        ({"thresholding": "dynamic"}, "thresholding is 'dynamic', but"),
        ({"strength": 0.5}, "strength is 0.5"),
        ({"seed": 3}, "seed is given, but an inversion draws nothing"),
        ({"callback_on_step_end": print}, "callback_on_step_end is given"),
        ({"negative_prompt": "a dog"}, "negative_prompt is 'a dog', but negative_prompt reads none"),
        ({"prompt_embeds": torch.zeros(1, 77, 32)}, "prompts, or .* are given beside prompt_embeds"),
        ({"pag_scale": 2.0}, "pag_scale is given, but an inversion has no use for it"),
        ({"method": "null_text", "guidance_scale": 1.0}, "guidance_scale is 1.0, but null_text is for runs"),
        ({"inner_steps": 0}, "inner_steps is 0"),
        ({"early_stop": -1.0}, "early_stop is -1"),
        ({"refinements": -1}, "refinements is -1"),
        ({"callback_on_inner_step": 5}, "callback_on_inner_step is 5; expected a function"),
        ({"watch": 5}, "watch is 5; expected a function"),
        ({"speed": 5}, "unknown option speed"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refused(tiny: pydiff.Pipeline, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.invert(**{"image": IMAGE, "prompt": PROMPT, **SHORT, **call})


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("kind", ["upscale", "instruct", "inpaint"])
def test_other_stages_are_refused(tiny: pydiff.Pipeline, kind: str) -> None:
    stage = dataclasses.replace(tiny.cascade.stages[0], kind=kind)
    other = pydiff.Pipeline(dataclasses.replace(tiny.cascade, stages=(stage,)))
    with pytest.raises(ValueError, match="makes no pictures of prompts alone"):
        other.invert(IMAGE, PROMPT)


def value(pipe: pydiff.Pipeline, **changes: Any) -> Inverted:
    latents = torch.zeros(1, 4, 8, 12)
    return Inverted(**{"latents": latents, "prompt": PROMPT, "method": "ddim", "settings": SHORT,
                       "model": pipe.cascade.name, **changes})  # fmt: skip


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"model": "other"}, {}, "the inversion is of the model 'other'"),
        ({"latents": torch.zeros(1, 3, 8, 12)}, {}, r"latents are .* expected floats \(1, 4, 8, 12\)"),
        ({"null": torch.zeros(5, 1, 77, 32), "method": "null_text"}, {}, r"expected \(6, 1, 77, 32\)"),
        ({"null": torch.zeros(6, 1, 77, 8), "method": "null_text"}, {}, r"expected \(6, 1, 77, 32\)"),
        ({}, {"num_inference_steps": 9}, "num_inference_steps is 9, but an inverted picture is walked with 6"),
        ({}, {"sampler": ["euler"]}, "sampler is 'euler', but"),
        ({"method": "negative_prompt"}, {"negative_prompt": "dog"}, "negative_prompt has null prompts of its own"),
        ({}, {"height": 64}, "height is given, but an inverted picture has its own"),
        ({}, {"latents": torch.zeros(1, 4, 8, 12)}, "latents is given, but"),
        ({"settings": {"speed": 3}}, {}, "unknown option speed"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_edits_refused(tiny: pydiff.Pipeline, changes: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.edit(value(tiny, **changes), TARGET, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"latents": torch.zeros(2, 4, 8, 8)},
            r"latents is .* \(2, 4, 8, 8\); expected floats \(1, C, h, w",
        ),
        ({"null": torch.zeros(6, 1, 77, 32)}, "null states are given for method 'ddim'"),
        ({"method": "null_text"}, "no null states are given"),
        ({"method": "null_text", "null": torch.zeros(6, 2, 77, 32)}, r"null is .* expected floats \(N, 1, T, D\)"),
        ({"method": 5}, "method is 5"),
        ({"settings": 5}, "settings are 5"),
        ({"psnr": "high"}, "psnr is 'high'"),
        ({"prompt": None}, "prompt is None"),
    ],
)
def test_values_refused(tiny: pydiff.Pipeline, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        value(tiny, **changes)


def test_files_refused(tiny: pydiff.Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "picture.safetensors"
    with pytest.raises(ValueError, match="missing"):
        Inverted.load(path)
    write_safetensors(path, {"latents": torch.zeros(1, 4, 8, 8)})
    with pytest.raises(ValueError, match=r"holds latents, and no inversion that save\(\) wrote"):
        Inverted.load(path)
    value(tiny, latents=torch.full((1, 4, 8, 8), torch.nan)).save(path)
    with pytest.raises(ValueError, match="tensor 'latents' holds NaN"):
        Inverted.load(path)
    value(tiny).save(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="download it again"):
        Inverted.load(path)


def test_an_exception_ends_it(tiny: pydiff.Pipeline) -> None:
    def stop(level: int, inner: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.invert(IMAGE, PROMPT, method="null_text", callback_on_inner_step=stop, **SHORT)
    assert all(parameter.grad is None for parameter in tiny.cascade.stages[0].unet.parameters())
