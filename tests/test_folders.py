"""Folders in the diffusers layout: whatever is missing, damaged or of another kind is refused by name when opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pydiff
from pydiff.pipeline import EMBEDDED
from pydiff.weights import read_json, write_json

WEIGHTS = Path(pydiff.__file__).parent / "embedded" / "weights"
BASE, SUPER, LAST = (WEIGHTS / name for name in EMBEDDED)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "base"))


@pytest.fixture
def larger(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SUPER, tmp_path / "super"))


def change(path: Path, **fields: Any) -> None:
    write_json(path, {**read_json(path), **fields})


def test_the_base_alone(base: Path) -> None:
    pipe = pydiff.load(base)
    assert pipe.sizes == (64,)
    made = pipe.generate("a red ring", seed=7, num_inference_steps=2)  # its own default size is of a stage not given
    assert made.images[0].size == (64, 64)
    assert made.settings[0]["model"] == str(base)


def test_folders_make_the_cascade_they_are(pipe: pydiff.Pipeline) -> None:
    opened = pydiff.load([BASE, str(SUPER)])
    assert opened.sizes == (64, 256)
    options = {"seed": 7, "size": 256, "num_inference_steps": [2, 1], "output_type": "np"}
    mine, shipped = (each.generate("a red ring", **options).images for each in (opened, pipe))
    assert np.array_equal(mine, shipped)


def test_a_folders_own_settings_are_its_defaults(base: Path) -> None:
    change(base / "pydiff.json", num_inference_steps=3, guidance_scale=1.5, size=64, words=["red"])
    pipe = pydiff.load(base)
    with pytest.warns(pydiff.UnknownWord, match="'ring'"):
        settings = pipe.generate("red ring", seed=7).settings[0]
    assert (settings["num_inference_steps"], settings["guidance_scale"]) == ([3], [1.5])


def test_without_settings_it_does_as_diffusers(base: Path) -> None:
    (base / "pydiff.json").unlink()
    stage = pydiff.load(base).cascade.stages[0]
    assert stage.defaults == (100, 7.0, None)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ([], r"model is \[\]; expected a folder"),
        (5, "model is 5"),
        ([5], r"model is \[5\]"),
        (b"base", "model is b'base'"),
        ("nowhere", "nowhere is not a folder"),
        ([SUPER, BASE], "base is a base stage; only the first"),
        ([BASE, LAST, SUPER], "super_256 makes 256 pixels after a stage of 1024; give small stages first"),
        ([SUPER, SUPER], "super_256 makes 256 pixels after a stage of 256"),
        ([LAST, SUPER], "super_256 makes 256 pixels after a stage of 1024"),
        ([BASE, BASE], "base is a base stage; only the first"),
        ([BASE, SUPER, SUPER], "super_256 makes 256 pixels after a stage of 256"),
    ],
)
def test_models_that_are_none(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pydiff.load(model)


FILES = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(base: Path, name: str) -> None:
    (base / name).unlink()
    part = "unet" if "unet/diff" in name else "text_encoder" if "encoder/model" in name else Path(name).name
    with pytest.raises(ValueError, match=part):
        pydiff.load(base)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(base: Path, name: str, damage: str) -> None:
    path = base / name
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "noise": b"\xff\x00" * 50}[damage])
    with pytest.raises(ValueError, match=path.name):
        pydiff.load(base)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "'FluxPipeline', which pydiff does not run; it runs IF"),
        ("model_index.json", {"_class_name": ["IFPipeline"]}, "does not run; it runs"),
        ("model_index.json", {"_class_name": None}, "does not run; it runs"),
        ("model_index.json", {"_class_name": "IFSuperResolutionPipeline"}, "names no image_noising_scheduler"),
        ("model_index.json", {"_class_name": "DDIMPipeline"}, "unet is a UNet2DConditionModel; pydiff opens UNet2DMod"),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "names no vae; a StableDiffusionPipeline nee"),
        ("model_index.json", {"unet": ["own_code", "UNet2DConditionModel"]}, "takes unet from 'own_code', code that"),
        ("model_index.json", {"unet": ["diffusers"]}, r"unet = \['diffusers'\]; expected \[library, class\]"),
        ("model_index.json", {"unet": [None, None]}, "names no unet; a IFPipeline needs one"),
        ("model_index.json", {"text_encoder": [None, None]}, "no text encoder"),
        ("unet/config.json", {"down_block_types": ["Odd"] * 4}, "Odd"),
        ("unet/config.json", {"mid_block_type": "OddMidBlock"}, "OddMidBlock"),
        ("unet/config.json", {"sample_size": None}, "has no sample_size; expected a side"),
        ("unet/config.json", {"sample_size": [64, 32, 3]}, "sample_size"),
        ("unet/config.json", {"sample_size": 0}, "sample_size"),
        ("unet/config.json", {"encoder_hid_dim": 64}, "unet is F32"),
        ("scheduler/scheduler_config.json", {"_class_name": "OddScheduler"}, "OddScheduler"),
        ("scheduler/scheduler_config.json", {"odd": 1}, "'odd'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "odd", "trained_betas": None}, "odd"),
        ("text_encoder/config.json", {"model_type": "clip"}, "model_type 'clip'"),
        ("pydiff.json", {"odd": 1}, "unknown field 'odd'; expected num_inference_steps"),
        ("pydiff.json", {"num_inference_steps": "many"}, "num_inference_steps = 'many'; expected an integer"),
        ("pydiff.json", {"num_inference_steps": 0}, "num_inference_steps = 0"),
        ("pydiff.json", {"guidance_scale": "high"}, "guidance_scale = 'high'; expected a finite number"),
        ("pydiff.json", {"guidance_scale": True}, "guidance_scale = True"),
        ("pydiff.json", {"noise_level": -1}, "noise_level = -1"),
        ("pydiff.json", {"size": [64]}, "size = "),
        ("pydiff.json", {"words": "red"}, "words = 'red'; expected a list of words"),
        ("pydiff.json", {"words": [1]}, "words = "),
        ("pydiff.json", {"variance_type": "odd"}, "variance_type = 'odd'; expected one of"),
        ("pydiff.json", {"variance_type": []}, "variance_type = "),
    ],
)
def test_a_field_that_does_not_fit_is_named(base: Path, name: str, fields: dict[str, Any], message: str) -> None:
    change(base / name, **fields)
    with pytest.raises(ValueError, match=message):
        pydiff.load(base)


@pytest.mark.parametrize("name", ["model_index.json", "scheduler/scheduler_config.json"])
def test_an_infinity_is_a_number_and_nan_is_none(base: Path, name: str) -> None:
    """diffusers writes -Infinity into scheduler configs."""
    path = base / name
    fields = read_json(path)
    path.write_text(json.dumps({**fields, "lambda_min_clipped": -float("inf")}))
    assert pydiff.load(base).sizes == (64,)
    path.write_text(json.dumps({**fields, "lambda_min_clipped": float("nan")}))
    with pytest.raises(ValueError, match=f"{path.name} is not readable as JSON: NaN"):
        pydiff.load(base)


def test_super_resolution_stages_alone() -> None:
    pipe = pydiff.load([SUPER, LAST])
    assert pipe.sizes == (256, 1024)
    made = pipe.upscale(np.zeros((64, 64, 3)), seed=1, size=256, num_inference_steps=1)
    assert made.images[0].size == (256, 256)
    with pytest.raises(ValueError, match=r"does not begin from noise alone; it makes pictures larger: pipe.upscale\("):
        pipe.generate("a red ring")


def test_a_stage_that_reads_no_words_is_not_guided_by_default(larger: Path) -> None:
    """diffusers would guide with 4.0 there, which changes nothing but the time it takes."""
    (larger / "pydiff.json").unlink()
    stage = pydiff.load(larger).cascade.stages[0]
    assert stage.text is None
    assert stage.defaults == (50, 1.0, 250)


def test_a_stage_of_pictures_that_are_no_squares(base: Path) -> None:
    change(base / "unet" / "config.json", sample_size=[64, 32])
    pipe = pydiff.load(base)
    assert (pipe.sizes, pipe.cascade.stages[0].size) == ((64,), (64, 32))
    assert pipe.generate("a red ring", seed=1, num_inference_steps=1).images[0].size == (32, 64)
    with pytest.raises(ValueError, match="makes 256 x 256 pixels after a stage of 64 x 32; expected the same shape"):
        pydiff.load([base, SUPER])


def _no_labels(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "class_embed_type": None}


def _other_width(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "block_out_channels": [width * 2 for width in config["block_out_channels"]]}


@pytest.mark.parametrize("other", [_no_labels, _other_width])
def test_a_config_of_another_network(larger: Path, other: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = larger / "unet" / "config.json"
    path.write_text(json.dumps(other(read_json(path))))
    with pytest.raises(ValueError, match="unet"):
        pydiff.load([BASE, larger])


def test_a_text_encoder_of_another_width(base: Path) -> None:
    from pydiff.models.t5 import T5Encoder
    from pydiff.models.t5_config import T5Config
    from pydiff.weights import write_safetensors

    config = {**read_json(base / "text_encoder" / "config.json"), "d_model": 64}
    write_json(base / "text_encoder" / "config.json", config)
    encoder = T5Encoder(T5Config.from_dict(config))
    write_safetensors(base / "text_encoder" / "model.safetensors", encoder.state_dict())
    with pytest.raises(ValueError, match=r"unet does not fit .* text is of shape \(1, 1, 64\)"):
        pydiff.load(base)


def test_pickles_are_never_opened(base: Path) -> None:
    (base / "unet" / "diffusion_pytorch_model.safetensors").rename(base / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="is a pickle"):
        pydiff.load(base)


def test_a_super_stage_without_its_noising_schedule(larger: Path) -> None:
    shutil.rmtree(larger / "image_noising_scheduler")
    with pytest.raises(ValueError, match="image_noising_scheduler"):
        pydiff.load([BASE, larger])
