"""Single files, exported as the folders that diffusers would make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pydiff
from pydiff.export import export
from tests.checkpoints import makers
from tests.checkpoints.test_pictures import picture
from tests.checkpoints.test_single_files import single_file

RUN = 5e-4
FAST: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np", "seed": 3}


@pytest.mark.parametrize("family", ["sdxl", "x4_upscaler"])
def test_a_file_makes_what_torch_makes_of_it(tmp_path: Path, family: str) -> None:
    path = single_file(tmp_path / "model.safetensors", family)
    makers.tokenizer(tmp_path / "words").save_pretrained(tmp_path / "words")
    folder = export(path, tmp_path / "exported", tokenizer=tmp_path / "words")
    assert (folder / "model" / "text_encoder" / "config.json").is_file()
    pipes = [pydiff.load(path, tokenizer=tmp_path / "words"), pydiff.load(folder)]
    if family == "x4_upscaler":
        expected, made = (pipe.upscale(picture(8, 8), "the red cat", **FAST).images for pipe in pipes)
    else:
        expected, made = (pipe.generate("the red cat", height=32, width=32, **FAST).images for pipe in pipes)
    assert np.ptp(made) > 0.05
    assert np.abs(made - expected).max() <= RUN


def test_what_a_file_does_not_say(tmp_path: Path) -> None:
    path = single_file(tmp_path / "model.safetensors", "sd1")
    with pytest.raises(ValueError, match=r"model.safetensors holds no tokenizer, .*; give tokenizer="):
        export(path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"model.safetensors is a single file, which is a whole model; give it alone"):
        export([path, path], tmp_path / "out")
    makers.stable_diffusion(tmp_path / "folder")
    with pytest.raises(ValueError, match="prediction_type is for single files"):
        export(tmp_path / "folder", tmp_path / "out", prediction_type="epsilon")
    assert not (tmp_path / "out").exists()
