"""U-Net folders: diffusers' opened here, and ours opened by diffusers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.cond import Cond
from pydiff.weights import load_unet, save_unet

CONFIG = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def reference() -> diffusers.UNet2DConditionModel:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**CONFIG).eval()


@pytest.fixture
def folder(tmp_path: Path, reference: diffusers.UNet2DConditionModel) -> Path:
    reference.save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


@torch.no_grad()
def same(ours: UNet, reference: diffusers.UNet2DConditionModel) -> None:
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor(9), torch.randn(1, 3, 6)
    torch.testing.assert_close(ours(x, t, Cond(text)), reference(x, t, text).sample, atol=1e-5, rtol=0)


def test_load(folder: Path, reference: diffusers.UNet2DConditionModel) -> None:
    unet = load_unet(folder)
    assert not unet.training
    assert unet.config == UNetConfig.from_dict(dict(reference.config))
    assert {p.device.type for p in unet.parameters()} == {"cpu"}
    same(unet, reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_load_in_another_dtype(folder: Path, dtype: torch.dtype) -> None:
    assert {p.dtype for p in load_unet(folder, dtype).parameters()} == {dtype}
    with pytest.raises(ValueError, match="floating-point"):
        load_unet(folder, torch.int8)


def test_load_variant_and_shards(tmp_path: Path, reference: diffusers.UNet2DConditionModel) -> None:
    reference.save_pretrained(tmp_path, variant="fp16", max_shard_size="10KB")
    assert len([name for name in os.listdir(tmp_path) if name.endswith(".safetensors")]) > 1
    same(load_unet(tmp_path, variant="fp16"), reference)


def test_save(tmp_path: Path, reference: diffusers.UNet2DConditionModel) -> None:
    unet = UNet(UNetConfig.from_dict(CONFIG))
    unet.load_state_dict(reference.state_dict())
    save_unet(unet, tmp_path / "a" / "unet")
    assert sorted(os.listdir(tmp_path / "a" / "unet")) == ["config.json", FILE]
    opened, info = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "a" / "unet", output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(tensor, reference.state_dict()[name]) for name, tensor in opened.state_dict().items())
    assert load_unet(tmp_path / "a" / "unet").config == unet.config
    save_unet(unet.half(), tmp_path / "a" / "unet")
    assert load_file(tmp_path / "a" / "unet" / FILE)["conv_in.bias"].dtype == torch.float16


def change(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    tensors = load_file(folder / FILE)
    tensors.pop(name, None)
    save_file(tensors | ({} if tensor is None else {name: tensor}), folder / FILE)


def test_refuses_other_tensors(folder: Path) -> None:
    change(folder, "conv_in.bias", None)
    with pytest.raises(ValueError, match=r"lack 1 tensors: conv_in\.bias"):
        load_unet(folder)
    change(folder, "conv_in.bias", torch.zeros(9))
    with pytest.raises(ValueError, match=r"'conv_in.bias' .* is F32 \(9,\); expected floats \(8,\)"):
        load_unet(folder)
    change(folder, "conv_in.bias", torch.zeros(8, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"'conv_in.bias' .* is I32"):
        load_unet(folder)
    change(folder, "conv_in.bias", torch.full((8,), float("nan")))
    with pytest.raises(ValueError, match=r"'conv_in.bias' holds NaN"):
        load_unet(folder)
    change(folder, "conv_in.bias", torch.zeros(8))
    change(folder, "lora.up", torch.zeros(8))
    with pytest.raises(ValueError, match=r"also hold 1 tensors: lora\.up"):
        load_unet(folder)


def test_refuses_other_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        load_unet(tmp_path / "none")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_type": "gated"}))
    with pytest.raises(ValueError, match="attention_type"):
        load_unet(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json is not a file"):
        load_unet(folder)
    (tmp_path / "outside.json").write_text(json.dumps(config))
    (folder / "config.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(ValueError, match="outside"):
        load_unet(folder)


def test_a_config_of_another_network_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"block_out_channels": [8, 32]}))
    with pytest.raises(ValueError, match="expected floats"):
        load_unet(folder)
