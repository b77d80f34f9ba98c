"""Tiny random checkpoints of three families, exported once for all tests here, and the same run by torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import diffusers
import pytest
import torch

import pydiff
from pydiff.cascade import Stage
from pydiff.export import export
from tests.checkpoints import makers


class Pair(NamedTuple):
    """A stage by torch and by ONNX Runtime, and the exported folder."""

    ours: Stage
    exported: Stage
    folder: Path


def classes(folder: Path) -> None:
    """A U-Net of pixels with attention, told of classes."""
    torch.manual_seed(5)
    unet = diffusers.UNet2DModel(
        sample_size=(12, 16), block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=10,
    )  # fmt: skip
    makers.saved(diffusers.DDIMPipeline(makers.lively(unet), diffusers.DDIMScheduler()), folder)


MAKERS: dict[str, Callable[[Path], object]] = {"xl": makers.xl, "if": makers.deepfloyd, "classes": classes}


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Of a family, by the names of MAKERS."""
    made: dict[str, Pair] = {}

    def of(family: str) -> Pair:
        if family not in made:
            home = tmp_path_factory.mktemp(family)
            MAKERS[family](home / "weights")
            export(home / "weights", home / "exported")
            stages = [pydiff.load(home / name).cascade.stages[0] for name in ("weights", "exported")]
            made[family] = Pair(stages[0], stages[1], home / "exported")
        return made[family]

    return of
