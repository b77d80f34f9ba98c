"""What inpainting takes as a picture and a mask, and what it refuses, by name and before any work."""

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
from PIL import Image

import pydiff
from pydiff.tasks.inpaint import OPTIONS, inpaint
from pydiff.tasks.request import make_call
from tests.checkpoints import makers
from tests.checkpoints.test_pixels import unet2d
from tests.idle import WorkBeganError
from tests.tasks.junk import junk

SIZE = (24, 32)
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
MASK = np.zeros(SIZE, bool)
MASK[5:17, 9:25] = True


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pydiff.Pipeline]:
    made: dict[str, pydiff.Pipeline] = {}
    kinds = {"blend": ("StableDiffusionPipeline", 4), "model": ("StableDiffusionInpaintPipeline", 9)}

    def open_(name: str) -> pydiff.Pipeline:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            if name == "repaint":
                makers.saved(diffusers.DDPMPipeline(unet2d(), diffusers.DDPMScheduler()), folder)
            else:
                makers.stable_diffusion(folder, kinds[name][0], unet={"in_channels": kinds[name][1]})
            made[name] = pydiff.load(folder)
        return made[name]

    return open_


def call(name: str, **more: Any) -> dict[str, Any]:
    words = {} if name == "repaint" else {"prompt": "a cat"}
    return {**words, "num_inference_steps": 5, "seed": 1, **more}


PER_METHOD: list[tuple[str, dict[str, Any], str]] = [
    ("blend", {"method": "copy"}, "method is 'copy'; expected one of repaint, blend, model"),
    ("blend", {"method": ["blend"]}, r"method is \['blend'\]; expected one of"),
    ("blend", {"method": ""}, "method is ''; expected one of"),
    ("blend", {"method": "model"}, "method is 'model', but the network of .* knows of no holes; give repaint or blend"),
    ("model", {"method": "blend"}, "method is 'blend', but the network of .* knows of holes; give model"),
    ("blend", {"jump_length": 5}, "jump_length is 5, but the method is 'blend'; leave it out"),
    ("blend", {"jump_n_sample": 5}, "jump_n_sample is 5, but the method is 'blend'"),
    ("model", {"faithful": True}, "faithful is True, but the method is 'model'"),
    ("model", {"compat": "diffusers"}, "compat is 'diffusers', but the method is 'model'"),
    ("blend", {"compat": "webui"}, "compat is 'webui'; expected None or 'diffusers'"),
    ("blend", {"compat": np.zeros(2)}, r"compat is array\(.*; expected None or 'diffusers'"),
    ("repaint", {"faithful": 1}, "faithful is 1; expected True or False"),
    ("repaint", {"jump_length": 0}, "jump_length is 0; expected an integer of at least 1"),
    ("repaint", {"jump_length": 5}, "jump_length is 5, but the run has 5 steps and would never jump; give less"),
    ("repaint", {"jump_n_sample": 10**9}, "jump_n_sample is 1000000000; expected an integer from 1 to 100"),
    ("repaint", {"strength": 0.5}, "strength is 0.5, but RePaint begins from noise alone; .* give method='blend'"),
    ("repaint", {"sampler": "dpmpp_2m"}, "only samplers of one row per step without memory can be resampled; use ddpm"),
    ("repaint", {"sampler": "heun"}, "only samplers of one row per step"),
    ("repaint", {"size": 32}, "size is 32, which no stage of"),
    ("repaint", {"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
    ("repaint", {"prompt": "a cat"}, "prompt is given, but this model reads no words"),
    ("blend", {"soft_mask": 1}, "soft_mask is 1; expected True or False"),
    ("blend", {"feather": -1}, "feather is -1; expected a number from 0 to 256"),
    ("blend", {"feather": float("nan")}, "feather is nan; expected a finite number"),
    ("blend", {"padding_mask_crop": 1.5}, "padding_mask_crop is 1.5; expected an integer of at least 0"),
    ("blend", {"denoising_end": 0.5}, "denoising_end is 0.5 for stage 1 of a task that takes none"),
    ("blend", {"mask_blur": 3}, "unknown option mask_blur"),
    ("blend", {"prompt": None}, "prompt is None; expected a string"),
    ("blend", {"example": PICTURE}, "paints by no example"),
    ("blend", {"num_images_per_prompt": -1, "mask": [MASK] * 2}, "num_images_per_prompt is -1"),
    (
        "blend",
        {"prompt": ["a"] * 3, "mask": [MASK] * 2},
        "2 pictures or masks are given for 3 prompts; give one prompt",
    ),
    (
        "blend",
        {"prompt": ["a"] * 3, "mask": [MASK] * 2, "num_images_per_prompt": 2},
        "2 pictures or masks .* 3 prompts",
    ),
    ("blend", {"seed": [1, 2, 3], "mask": [MASK] * 2}, "seed lists 3 numbers for 2 pictures"),
    (
        "blend",
        {"image": [PICTURE] * 3, "mask": [MASK] * 2},
        "3 pictures and 2 masks are given; give one, or equally many",
    ),
    ("blend", {"image": [PICTURE, PICTURE[:20]]}, "are 32x20, 32x24; expected one size"),
    ("blend", {"image": []}, "the pictures given together are none"),
    ("blend", {"mask": []}, "mask is an empty list"),
    ("blend", {"mask": None}, "mask is a NoneType"),
    ("blend", {"mask": MASK[1:]}, r"mask has shape \(23, 32\); expected the picture's height and width \(24, 32\)"),
    ("blend", {"mask": np.stack([MASK] * 3, -1)}, r"mask has shape \(24, 32, 3\)"),
    ("blend", {"mask": MASK * 9.0}, r"mask has values outside \[0, 1\]"),
    ("blend", {"mask": np.where(MASK, np.nan, 0)}, r"mask has values outside \[0, 1\]"),
    ("blend", {"mask": MASK.astype(complex)}, "mask is a ndarray; expected a PIL picture, a path, or numbers"),
    ("blend", {"mask": MASK & False}, "mask is black everywhere; expected white on what is to be made"),
    ("blend", {"mask": [MASK, MASK & False]}, "mask 1 is black everywhere"),
    (
        "repaint",
        {"image": PICTURE[:1, :1], "mask": MASK[6:7, 10:11]},
        "the picture is 1x1; expected sides of at least 2",
    ),
]


@pytest.mark.parametrize(("name", "own", "message"), PER_METHOD)
@pytest.mark.usefixtures("idle")
def test_refused(opened: Callable[[str], Any], name: str, own: dict[str, Any], message: str) -> None:
    given_ = {"image": PICTURE, "mask": MASK, **call(name), **own}
    with pytest.raises(ValueError, match=message):
        opened(name).inpaint(**given_)


def test_a_run_without_jumps_may_be_asked_for(opened: Callable[[str], Any], idle: None) -> None:
    """A default that never comes to act is no mistake of the caller's."""
    for options in ({}, {"jump_length": 10}, {"jump_n_sample": 1}):
        wanted = inpaint(opened("repaint").cascade, PICTURE, MASK, make_call(None, call("repaint", **options)))
        assert len(wanted.plans[0].table.rows) == 5


def saved(folder: Path, name: str, image: Image.Image, **how: Any) -> Path:
    image.save(folder / name, **how)
    return folder / name


def test_pictures_of_all_modes_are_taken(tmp_path: Path, opened: Callable[[str], Any]) -> None:
    """Laid over white, turned upright and brought to 8 bits of red, green and blue, they are kept so."""
    whole = Image.fromarray(PICTURE)
    clear = np.dstack([PICTURE, np.full(SIZE, 255, np.uint8)])
    clear[0] = 0
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    deep = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)
    given_ = {
        "alpha": (Image.fromarray(clear), np.concatenate([np.full((1, 32, 3), 255, np.uint8), PICTURE[1:]])),
        "gray": (whole.convert("L"), np.asarray(whole.convert("L").convert("RGB"))),
        "cmyk": (whole.convert("CMYK"), np.asarray(whole.convert("CMYK").convert("RGB"))),
        "deep": (saved(tmp_path, "deep.png", deep), np.repeat(PICTURE[..., :1], 3, -1)),
        "turned": (saved(tmp_path, "turned.png", whole, exif=turned), PICTURE[::-1, ::-1]),
    }
    for image, expected in given_.values():
        made = opened("repaint").inpaint(image, MASK, **call("repaint", num_inference_steps=2)).images[0]
        assert np.array_equal(np.asarray(made)[~MASK], expected[~MASK])
    for kind in ("1", "L", "RGB", "I;16"):
        white = (
            Image.fromarray(MASK.astype(np.uint16) * 65535) if kind == "I;16" else Image.fromarray(MASK).convert(kind)
        )
        made = opened("repaint").inpaint(PICTURE, white, **call("repaint", num_inference_steps=2)).images[0]
        assert np.array_equal(np.asarray(made)[~MASK], PICTURE[~MASK])
        assert not np.array_equal(np.asarray(made)[MASK], PICTURE[MASK])


@pytest.mark.usefixtures("idle")
def test_files_that_are_no_pictures_are_refused(
    tmp_path: Path, opened: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = saved(tmp_path, "cut.png", Image.fromarray(PICTURE))
    cut.write_bytes(cut.read_bytes()[:200])
    (tmp_path / "text.png").write_text("a picture")
    whole = saved(tmp_path, "whole.png", Image.fromarray(PICTURE))
    for path, message in [
        (cut, "cut.png is no readable PNG"),
        (tmp_path / "text.png", "text.png is no readable"),
        (tmp_path, "is a directory; expected a picture file"),
        (tmp_path / "none.png", "none.png does not exist"),
    ]:
        with pytest.raises(ValueError, match=message):
            opened("blend").inpaint(path, MASK, **call("blend"))
        with pytest.raises(ValueError, match=message):
            opened("blend").inpaint(PICTURE, path, **call("blend"))
    monkeypatch.setattr("pydiff.images.MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="32x24 pixels; expected at most 100"):
        opened("blend").inpaint(whole, MASK, **call("blend"))


@given(
    st.sampled_from(["blend", "model", "repaint"]),
    st.dictionaries(
        st.sampled_from([*OPTIONS, "strength", "sampler", "num_images_per_prompt", "size"]), junk, max_size=3
    ),
    junk | st.just(PICTURE),
    junk | st.just(MASK) | st.just([MASK, MASK]) | st.just(torch.from_numpy(MASK)[None]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("idle")
def test_junk_raises_nothing_but_value_errors_before_work(
    opened: Callable[[str], Any], name: str, arguments: dict[str, Any], image: Any, mask: Any
) -> None:
    with contextlib.suppress(ValueError, WorkBeganError):  # what is sound begins work
        opened(name).inpaint(image, mask, **call(name, **arguments))
