"""Defects by models of other kinds: latents, networks that know of holes, classes without words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pydiff.images import read_settings
from pydiff.tools import defects
from tests.checkpoints import makers


def blending(folder: Path) -> None:
    makers.stable_diffusion(folder)


def knowing_holes(folder: Path) -> None:
    makers.stable_diffusion(folder, "StableDiffusionInpaintPipeline", unet={"in_channels": 9})


def of_classes(folder: Path) -> None:
    torch.manual_seed(5)
    network = diffusers.UNet2DModel(
        sample_size=32, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, num_class_embeds=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )  # fmt: skip
    makers.saved(diffusers.DDIMPipeline(makers.lively(network), diffusers.DDIMScheduler()), folder)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    folder = tmp_path / "clean"
    folder.mkdir()
    picture = Image.new("RGB", (40, 32), "silver")
    ImageDraw.Draw(picture).ellipse((6, 4, 34, 28), fill="navy")
    picture.save(folder / "disc.png")
    return folder


@pytest.mark.parametrize(
    ("make", "more", "said"),
    [
        (blending, ("--prompt", "the red {kind}", "--keep", "0"), {"method": "blend", "prompt": "the red scratch"}),
        (blending, ("--crop", "4"), {"prompt": "", "padding_mask_crop": 4}),
        (blending, ("--method", "repaint"), {"method": "repaint"}),
        (knowing_holes, ("--prompt", "the cat", "--strength", "0.5"), {"method": "model", "strength": [0.5]}),
        (of_classes, ("--class-label", "1", "--method", "repaint"), {"method": "repaint", "class_labels": 1}),
        (of_classes, ("--class-label", "2"), {"method": "blend", "class_labels": 2, "prompt": None}),
    ],
)
def test_models_of_many_kinds(
    make: Callable[[Path], None], more: tuple[str, ...], said: dict[str, Any], clean: Path, tmp_path: Path
) -> None:
    make(tmp_path / "model")
    how = ("--model", str(tmp_path / "model"), "--steps", "4", "--kinds", "scratch", "--threshold", "4", *more)
    assert defects.main([str(clean), "-o", str(tmp_path / "out"), *how]) == 0
    settings = read_settings(tmp_path / "out/images/disc-1.png")
    assert said.items() <= settings.items()
    hole = np.asarray(Image.open(tmp_path / "out/holes/disc-1.png"))
    made, whole = (np.asarray(Image.open(path)) for path in (tmp_path / "out/images/disc-1.png", clean / "disc.png"))
    assert (made[~hole] == whole[~hole]).all()
    assert (made[hole] != whole[hole]).any()
    assert len(json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]) == 1


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ((), "give class_labels"),
        (("--class-label", "3"), "class_labels is 3"),
        (("--class-label", "1", "--prompt", "a cat"), "this model reads no words"),
    ],
)
def test_what_a_model_of_classes_needs(
    more: tuple[str, ...], problem: str, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], idle: None
) -> None:
    of_classes(tmp_path / "model")
    assert defects.main([str(clean), "-o", str(tmp_path / "out"), "--model", str(tmp_path / "model"), *more]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
