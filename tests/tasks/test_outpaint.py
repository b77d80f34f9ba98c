"""A picture on a larger canvas: what was given stays to the bit, the network sees windows of its own size, and their
predictions are averaged as MultiDiffusion does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pydiff
from pydiff.cascade import Branch, Start
from pydiff.diffusion.noise import Noise
from pydiff.diffusion.windows import Side, Windows, make_windows
from pydiff.images import MAX_PIXELS, to_output
from pydiff.nn.cond import Cond
from pydiff.tasks.begin import Micro, Now, time_ids
from pydiff.tasks.generate import generate
from pydiff.tasks.outpaint import outpaint
from pydiff.tasks.plan import make_options, plan_stages
from pydiff.tasks.request import make_call
from pydiff.tasks.run import finish
from pydiff.tasks.windows import windowed
from pydiff.walk import Network
from tests.checkpoints import makers
from tests.checkpoints.test_pictures import RUN, WORDS, picture, same
from tests.checkpoints.test_pixels import unet2d
from tests.idle import WorkBeganError
from tests.tasks.junk import junk

EXACT = 1e-8
FEW: dict[str, Any] = {"num_inference_steps": 2, "seed": 3}


def latent(kind: str, channels: int) -> Callable[[Path], Any]:
    return lambda folder: makers.stable_diffusion(folder, kind, unet={"in_channels": channels})


def pixels(folder: Path) -> Any:
    return makers.saved(diffusers.DDIMPipeline(unet2d(), diffusers.DDIMScheduler()), folder)


def cascade(folder: Path) -> Any:
    kinds = ("IFPipeline", "IFSuperResolutionPipeline")
    return [makers.deepfloyd(folder / kind, kind, upscales="Super" in kind) for kind in kinds]


MAKERS: dict[str, Callable[[Path], Any]] = {
    "sd": latent("StableDiffusionPipeline", 4),
    "inpaint": latent("StableDiffusionInpaintPipeline", 9),
    "instruct": latent("StableDiffusionInstructPix2PixPipeline", 8),
    "xl": makers.xl,
    "pixels": pixels,
    "if": cascade,
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pydiff.Pipeline]:
    made: dict[str, pydiff.Pipeline] = {}

    def open_(name: str) -> pydiff.Pipeline:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            MAKERS[name](folder)
            folders = sorted(folder.iterdir()) if name == "if" else folder
            made[name] = pydiff.load(folders, dtype=torch.float64)  # random networks amplify rounding
        return made[name]

    return open_


def call(name: str, **more: Any) -> dict[str, Any]:
    words = {} if name == "pixels" else {"prompt": WORDS[0]}
    steps = {"num_inference_steps": [2, 2]} if name == "if" else {}
    return {**words, **FEW, **steps, **more}


margins = st.tuples(*[st.integers(0, 20)] * 4).filter(any)


@pytest.mark.parametrize("name", ["sd", "inpaint", "pixels"])
@given(st.integers(8, 40), st.integers(8, 40), margins, st.sampled_from(["blend", "repaint"]))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_given_comes_back_to_the_bit(
    opened: Any, name: str, height: int, width: int, sides: tuple[int, ...], method: str
) -> None:
    left, right, top, bottom = sides
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    how: dict[str, Any] = {} if name == "inpaint" else {"method": method}
    how |= {"jump_length": 1, "jump_n_sample": 2} if how.get("method") == "repaint" else {}
    sized = {**dict(zip(("left", "right", "top", "bottom"), sides, strict=True)), "window_overlap": 0.5}
    for output_type in ("pil", "np"):
        made = opened(name).outpaint(image, output_type=output_type, **sized, **how, **call(name))
        whole = np.asarray(made.images[0])
        assert whole.shape == (top + height + bottom, left + width + right, 3)
        expected = image if output_type == "pil" else np.asarray(to_output(image_in(image), "np")[0])
        assert np.array_equal(whole[top : top + height, left : left + width], expected)
    assert (made.settings[0]["left"], made.settings[0]["height"]) == (left, whole.shape[0])


def image_in(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 * 2 - 1


def test_stages_with_attention_have_windows_and_others_see_all(opened: Any, pipe: pydiff.Pipeline) -> None:
    made = outpaint(opened("if").cascade, picture(24, 32), make_call("a cat", {}), {"right": 24})
    assert [plan.windows is None for plan in made.plans] == [False, False]
    assert [(plan.size, plan.windows.size) for plan in made.plans] == [((12, 28), (12, 16)), ((24, 56), (24, 32))]
    made = outpaint(pipe.cascade, picture(256, 256), make_call("a cat", {}), {"top": 101}, size=256)
    assert [(plan.size, plan.windows is None) for plan in made.plans] == [((90, 64), False), ((360, 256), True)]


def test_a_cascade(opened: Any) -> None:
    image = picture(24, 32)
    made = opened("if").outpaint(image, "a cat", left=7, right=13, output_type="pt", num_inference_steps=[2, 2], seed=1)
    assert made.images.shape == (1, 3, 24, 52)
    assert torch.equal(made.images[..., 7:39], to_output(image * 2 - 1, "pt"))


@pytest.mark.parametrize("name", ["sd", "xl", "inpaint", "pixels", "if"])
def test_a_batch_is_its_pictures_alone_and_settings_repeat_it(opened: Any, name: str) -> None:
    images = [picture(24, 32, seed) for seed in (1, 2)]
    sized = {"left": 9, "bottom": 20, "window_overlap": 0.3}
    made = opened(name).outpaint(images, output_type="np", **sized, **call(name))
    for index, image in enumerate(images):
        told = made.settings[index]
        passed = ("task", "model", "version", "height", "width")
        repeated = {key: value for key, value in told.items() if key not in passed and value is not None}
        alone = opened(name).outpaint(image, output_type="np", **repeated)
        assert np.abs(alone.images[0] - made.images[index]).max() < 1e-6  # given out in float32


def test_rows_of_the_network(opened: Any) -> None:
    pipe, seen = opened("sd"), list[tuple[int, ...]]()
    unet = pipe.cascade.stages[0].unet
    hook = unet.register_forward_pre_hook(lambda _, given_: seen.append(tuple(given_[0].shape)))
    pipe.outpaint([picture(32, 32, 1), picture(32, 32, 2)], "a cat", right=24, bottom=16, guidance_scale=3.0, **FEW)
    hook.remove()
    branches, pictures, windows = 2, 2, 3 * 4  # x is 24 x 28, a window 16 x 16: one every 4 places
    assert seen == [(branches * pictures * windows, 4, 16, 16)] * 2


def test_a_large_call_is_made_in_parts(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> Any:
        return opened("sd").outpaint(picture(32, 32), "a cat", right=24, output_type="np", **FEW).images

    whole = made()
    monkeypatch.setattr("pydiff.walk.ELEMENTS_PER_CALL", 1)
    np.testing.assert_allclose(made(), whole, atol=1e-6)


@pytest.mark.parametrize("name", ["sd", "inpaint", "pixels"])
def test_what_fits_into_one_window_is_run_as_without(opened: Any, name: str) -> None:
    height, width = opened(name).cascade.stages[0].size
    image = picture(height - 4, width - 6)
    made = opened(name).outpaint(image, right=6, top=4, output_type="np", **call(name)).images
    grown = torch.nn.functional.pad(image, (0, 6, 4, 0), mode="replicate")
    mask = torch.ones(height, width)
    mask[4:, : width - 6] = 0
    assert np.array_equal(made, opened(name).inpaint(grown, mask, output_type="np", **call(name)).images)


def test_inpaint_of_a_large_picture_in_windows(opened: Any) -> None:
    image, mask = picture(32, 56), torch.zeros(32, 56)
    mask[4:20, 8:30] = 1
    whole, parts = (
        opened("sd").inpaint(image, mask, "a cat", output_type="np", **FEW, **how)
        for how in ({}, {"window_overlap": 0.4})
    )
    assert np.abs(whole.images - parts.images).max() > RUN
    assert (parts.settings[0]["window_overlap"], "window_overlap" in whole.settings[0]) == (0.4, False)


@pytest.mark.parametrize("channels", [4, 9])
def test_predictions_are_averaged_as_multidiffusion_does(tmp_path: Path, channels: int) -> None:
    """Bar-Tal et al. 2023, equation 5, with diffusers' network: sum of F_i^-1(W_i * eps(F_i(x))) over that of W_i."""
    theirs = makers.stable_diffusion(tmp_path, unet={"in_channels": channels}).unet.double()
    ours = pydiff.load(tmp_path, dtype=torch.float64)
    shape, window = (20, 28), (16, 12)
    plan = plan_stages(ours.cascade.stages, make_options({}), [(40, 56)])[0]
    plan = plan._replace(windows=make_windows(shape, window, 0.5))
    random = torch.Generator().manual_seed(0)
    x, *besides = (
        torch.randn(2, width, *shape, dtype=torch.float64, generator=random)
        for width in (4, channels - 4, channels - 4)
    )
    texts = [torch.randn(2, 5, 32, dtype=torch.float64, generator=random) for _ in range(2)]
    branches = [
        Branch(Cond(text), None if channels == 4 else beside) for text, beside in zip(texts, besides, strict=True)
    ]
    t = plan.table.rows[0].t
    with torch.inference_mode():
        made = Network(plan, Start(x, Noise([0]), branches))(x, t, (0, 1))
        for branch, text in enumerate(texts):
            total, weights = torch.zeros(2, 4, *shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
            given_ = x if channels == 4 else torch.cat([x, besides[branch]], dim=1)
            profile = [
                torch.sin(torch.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side) ** 2 for side in window
            ]
            weight = torch.outer(*profile)
            for top in (0, 4):
                for left in (0, 5, 11, 16):
                    at = (..., slice(top, top + 16), slice(left, left + 12))
                    total[at] += weight * theirs(given_[at], t, text).sample
                    weights[at] += weight
            torch.testing.assert_close(made[branch], total / weights, atol=EXACT, rtol=0)


def uniform(side: Side, length: int) -> Side:
    """Every stretch counts as much as any other there."""
    counts = torch.zeros(length, dtype=torch.float64)
    for start in side.starts:
        counts[start : start + side.shares.shape[1]] += 1
    return Side(side.starts, torch.stack([1 / counts[start : start + side.shares.shape[1]] for start in side.starts]))


def test_a_panorama_is_that_of_diffusers(tmp_path: Path) -> None:
    """Its windows are weighed alike and its latents are averaged after the step, which for DDIM is the same."""
    theirs = makers.stable_diffusion(tmp_path, "StableDiffusionPanoramaPipeline").to(torch.float64)
    makers.widened(theirs.scheduler)
    views = type(theirs).get_views  # made for autoencoders of factor 8 and windows of 64
    theirs.get_views = lambda height, width, **_: views(theirs, height * 4, width * 4, window_size=16, stride=4)
    how = {"num_inference_steps": 4, "guidance_scale": 4.0}
    expected = theirs(WORDS[0], height=40, width=64, generator=makers.generators([1]), output_type="np", **how)
    index = (tmp_path / "model_index.json").read_text()
    (tmp_path / "model_index.json").write_text(index.replace("StableDiffusionPanorama", "StableDiffusion"))
    ours = pydiff.load(tmp_path, dtype=torch.float64)
    wanted = windowed(generate(ours.cascade, make_call(WORDS[0], {"seed": 1, **how}), height=40, width=64), 0.75)
    plan = wanted.plans[0]
    assert plan.windows is not None
    assert (plan.windows.height.starts, plan.windows.width.starts) == ((0, 4), (0, 4, 8, 12, 16))
    windows = Windows(uniform(plan.windows.height, 20), uniform(plan.windows.width, 32))
    object.__setattr__(wanted, "plans", (plan._replace(windows=windows),))
    same(finish(wanted, "np"), expected, 1e-6)  # given out in float32


def test_a_network_is_told_the_size_that_it_sees(opened: Any) -> None:
    plan = outpaint(opened("xl").cascade, picture(32, 32), make_call("a cat", {}), {"right": 32}).plans[0]
    now = Now(plan, None, Noise([0]), None, Micro())
    assert time_ids(now)[0] == (32, 32, 0, 0, 32, 32)
    assert time_ids(now._replace(plan=plan._replace(windows=None)))[0] == (32, 64, 0, 0, 32, 64)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("sd", {}, "left, right, top and bottom are all 0; give at least one, in pixels"),
        ("sd", {"left": 0, "bottom": 0}, "all 0"),
        ("sd", {"left": -1}, "left is -1; expected an integer from 0"),
        ("sd", {"top": 2.5}, "top is 2.5; expected an integer"),
        ("sd", {"right": None}, "right is None; expected an integer"),
        ("sd", {"bottom": MAX_PIXELS}, f"the canvas is 32x67108888 pixels; expected at most {MAX_PIXELS} in all"),
        ("sd", {"left": 8, "window_overlap": 1.0}, "window_overlap is 1.0; expected a number from 0 to 0.9"),
        ("sd", {"left": 8, "feather": 2}, "feather is 2, but the hole is the margin; leave it out"),
        ("sd", {"left": 8, "padding_mask_crop": 4}, "padding_mask_crop is 4, but"),
        ("sd", {"left": 8, "method": "model"}, "knows of no holes; give repaint or blend"),
        ("sd", {"left": 8, "pag_scale": 2.0}, "pag_scale is 2.0, but a stage of 40x24 pixels is run in .* 32x24"),
        ("sd", {"left": 8, "capture": ["cat"]}, "capture is given, but a stage of 40x24 pixels is run in windows"),
        ("sd", {"left": 8, "other": 1}, "unknown option other"),
        ("inpaint", {"left": 8, "method": "blend"}, "knows of holes; give model"),
        ("instruct", {"left": 8}, "fills no holes; it follows instructions"),
    ],
)  # fmt: skip
def test_refused(opened: Any, name: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(name).outpaint(picture(24, 32), "the red cat", **how)


@pytest.mark.usefixtures("idle")
@given(junk, st.dictionaries(st.sampled_from(["left", "right", "top", "bottom", "window_overlap", "method"]), junk))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_raises_nothing_but_value_errors(opened: Any, image: Any, how: dict[str, Any]) -> None:
    for given_ in (image, picture(8, 8)):
        with contextlib.suppress(ValueError, WorkBeganError):
            opened("sd").outpaint(given_, "the red cat", **how)
