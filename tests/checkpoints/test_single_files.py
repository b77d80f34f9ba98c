"""Single files open as the folder that diffusers would save of them: the same picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import pydiff
from pydiff.weights import inspect_single_file, write_json
from pydiff.weights.original import Original
from tests.checkpoints import makers
from tests.checkpoints.test_pictures import picture
from tests.weights.original_modules import checkpoint
from tests.weights.original_specs import TINY, text

CALL = {"num_inference_steps": 2, "output_type": "np", "seed": 3}


def single_file(path: Path, family: str) -> Path:
    """Random weights of a size that keeps activations in bounds, norms about 1."""
    words = text(64, 96, 2, vocab=1000)
    spec = TINY[family]
    sizes = {"sdxl": 48 + 6 * 256, "sdxl_refiner": 64 + 5 * 256}  # pooled text and numbers
    unet = spec["unet"] | ({"adm_in_channels": sizes[family]} if family in sizes else {})
    texts = {
        place: words | {k: v for k, v in own.items() if k == "projection_dim"} for place, own in spec["texts"].items()
    }
    torch.manual_seed(7)
    tensors = {}
    for name, tensor in checkpoint({**spec, "unet": unet, "texts": texts}).items():
        fan_in = max(1, math.prod(tensor.shape[1:]))
        tensors[name] = tensor / math.sqrt(fan_in) if tensor.ndim > 1 else 1 + 0.1 * tensor
    save_file(tensors, path)
    return path


def as_folder(original: Original, folder: Path) -> Path:
    """What diffusers saves of the same networks."""
    networks: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel.from_config(original.unet_config),
        "vae": diffusers.AutoencoderKL.from_config(original.autoencoder_config),
    }
    for component, config in original.text_configs.items():
        projects = original.model_index[component][1].endswith("WithProjection")
        kind = CLIPTextModelWithProjection if projects else CLIPTextModel
        networks[component] = kind(CLIPTextConfig(**config))
        bang = component == "text_encoder_2" or original.family in ("sd2", "x4_upscaler")
        tokenizer = makers.tokenizer(folder / component.replace("text_encoder", "tokenizer"))
        if bang:
            tokenizer.pad_token = "!"
        tokenizer.save_pretrained(folder / component.replace("text_encoder", "tokenizer"))
    for component, network in networks.items():
        state = original.read(component)
        if component.startswith("text") and not hasattr(network, "text_model"):
            state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
        network.load_state_dict(state)
        network.save_pretrained(folder / component)
    write_json(folder / "scheduler" / "scheduler_config.json", original.scheduler_config)
    if original.low_res_scheduler_config is not None:
        write_json(folder / "low_res_scheduler" / "scheduler_config.json", original.low_res_scheduler_config)
    write_json(folder / "model_index.json", original.model_index)
    return folder


@pytest.mark.parametrize("family", sorted(TINY))
def test_checkpoints_a_file_is_its_folder(tmp_path: Path, family: str) -> None:
    path = single_file(tmp_path / "model.safetensors", family)
    folder = as_folder(inspect_single_file(path), tmp_path / "folder")
    pipes = [pydiff.load(folder), pydiff.load(path, tokenizer=folder)]
    if family == "x4_upscaler":
        made = [pipe.upscale(picture(8, 8), "the red cat", **CALL).images for pipe in pipes]
    elif family == "sdxl_refiner":
        made = [pipe.image_to_image(picture(32, 32), "the red cat", **CALL).images for pipe in pipes]
    else:
        made = [pipe.generate("the red cat", height=32, width=32, **CALL).images for pipe in pipes]
    assert np.isfinite(made[0]).all()
    assert np.ptp(made[0]) > 0.05
    assert np.array_equal(*made)


def test_checkpoints_a_file_needs_a_tokenizer(tmp_path: Path) -> None:
    path = single_file(tmp_path / "model.safetensors", "sd1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"model.safetensors holds no tokenizer, .*; give tokenizer="):
        pydiff.load(path)
    with pytest.raises(ValueError, match=r"holds no tokenizer; expected tokenizer.json"):
        pydiff.load(path, tokenizer=(tmp_path / "empty"))
    with pytest.raises(ValueError, match="is not a folder"):
        pydiff.load(path, tokenizer=tmp_path / "nowhere")


def test_checkpoints_a_folder_says_itself_what_a_file_cannot(tmp_path: Path) -> None:
    makers.stable_diffusion(tmp_path)
    with pytest.raises(ValueError, match="prediction_type is for single files"):
        pydiff.load(tmp_path, prediction_type="epsilon")
    with pytest.raises(ValueError, match="tokenizer is for single files"):
        pydiff.load(tmp_path, tokenizer=tmp_path / "tokenizer")


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_checkpoints_pickles_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=f"{name} is a pickle, which could run code when opened"):
        pydiff.load(tmp_path / name)
