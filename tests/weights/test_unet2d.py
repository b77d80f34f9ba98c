"""Folders of U-Nets of pixels: diffusers' opened here, with present and old names, and ours opened by diffusers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from pydiff.models.unet2d import UNet2D, UNet2DConfig
from pydiff.nn.cond import Cond
from pydiff.weights import load_unet, load_unet2d, save_unet
from pydiff.weights.network import current_attention_key

CONFIG = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "num_class_embeds": 5,
}
FILE = "diffusion_pytorch_model.safetensors"
OLD = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


@pytest.fixture(scope="module")
def reference() -> diffusers.UNet2DModel:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**CONFIG).eval()


@pytest.fixture
def folder(tmp_path: Path, reference: diffusers.UNet2DModel) -> Path:
    reference.save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


def old_name(name: str) -> str:
    for new, old in OLD.items():
        name = name.replace(new, old)
    return name


@torch.no_grad()
def same(ours: UNet2D, reference: diffusers.UNet2DModel) -> None:
    x, t, labels = torch.randn(2, 3, 8, 6), torch.tensor([9, 700]), torch.tensor([4, 0])
    torch.testing.assert_close(ours(x, t, Cond(None, labels=labels)), reference(x, t, labels).sample, atol=1e-5, rtol=0)


def test_load(folder: Path, reference: diffusers.UNet2DModel) -> None:
    unet = load_unet2d(folder)
    assert not unet.training
    assert unet.config == UNet2DConfig.from_dict(dict(reference.config))
    same(unet, reference)
    assert {p.dtype for p in load_unet2d(folder, torch.bfloat16).parameters()} == {torch.bfloat16}


def test_load_variant_and_shards(tmp_path: Path, reference: diffusers.UNet2DModel) -> None:
    reference.save_pretrained(tmp_path, variant="fp16", max_shard_size="20KB")
    assert len([name for name in os.listdir(tmp_path) if name.endswith(".safetensors")]) > 1
    same(load_unet2d(tmp_path, variant="fp16"), reference)


def test_old_names_of_attention_are_read_as_diffusers_reads_them(
    folder: Path, reference: diffusers.UNet2DModel
) -> None:
    tensors = load_file(folder / FILE)
    renamed = {old_name(name): tensor for name, tensor in tensors.items()}
    assert len(renamed.keys() - tensors.keys()) == 8 * 4  # 4 layers that attend
    save_file(renamed, folder / FILE, metadata={"format": "pt"})
    same(load_unet2d(folder), reference)
    same(load_unet2d(folder), diffusers.UNet2DModel.from_pretrained(folder))


def test_a_tensor_under_two_names_is_refused(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    old = {"mid_block.attentions.0.query.weight": tensors["mid_block.attentions.0.to_q.weight"].clone()}
    save_file(tensors | old, folder / FILE)
    with pytest.raises(
        ValueError, match=r"'mid_block\.attentions\.0\.to_q\.weight' .* stored twice, .*\.query\.weight"
    ):
        load_unet2d(folder)


@pytest.mark.parametrize(
    ("stored", "present"),
    [
        ("mid_block.attentions.0.query.weight", "mid_block.attentions.0.to_q.weight"),
        ("down_blocks.3.attentions.11.key.bias", "down_blocks.3.attentions.11.to_k.bias"),
        ("attentions.0.value.weight", "attentions.0.to_v.weight"),
        ("decoder.mid_block.attentions.0.proj_attn.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
        ("mid_block.attentions.0.group_norm.weight", "mid_block.attentions.0.group_norm.weight"),
        ("mid_block.attentions.0.to_q.weight", "mid_block.attentions.0.to_q.weight"),
        ("h.0.attn.query.weight", "h.0.attn.query.weight"),
        ("attentions.0.query.lora.weight", "attentions.0.query.lora.weight"),
        ("xattentions.0.query.weight", "xattentions.0.query.weight"),
    ],
)
def test_current_attention_key(stored: str, present: str) -> None:
    assert current_attention_key(stored) == present


def test_save(tmp_path: Path, reference: diffusers.UNet2DModel) -> None:
    unet = UNet2D(UNet2DConfig.from_dict(CONFIG))
    unet.load_state_dict(reference.state_dict())
    save_unet(unet, tmp_path / "unet")
    assert sorted(os.listdir(tmp_path / "unet")) == ["config.json", FILE]
    opened, info = diffusers.UNet2DModel.from_pretrained(tmp_path / "unet", output_loading_info=True)
    assert not any(info.values())
    same(unet.eval(), opened)
    assert load_unet2d(tmp_path / "unet").config == unet.config


def test_refuses_other_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        load_unet2d(tmp_path / "none")
    with pytest.raises(ValueError, match="'UNet2DModel'; expected a 'UNet2DConditionModel'"):
        load_unet(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"time_embedding_type": "fourier"}))
    with pytest.raises(ValueError, match="time_embedding_type is 'fourier'"):
        load_unet2d(folder)
    (folder / "config.json").write_text(json.dumps(config | {"attention_head_dim": 3}))
    with pytest.raises(ValueError, match="attention_head_dim is 3, which does not divide 16"):
        load_unet2d(folder)
    (folder / "config.json").write_text(json.dumps(config | {"add_attention": False}))
    with pytest.raises(ValueError, match=r"also hold 10 tensors: mid_block\.attentions\.0"):
        load_unet2d(folder)
    (folder / "config.json").write_text(json.dumps(config | {"num_class_embeds": 6}))
    with pytest.raises(ValueError, match=r"'class_embedding\.weight' .* is F32 \(5, 32\); expected floats \(6, 32\)"):
        load_unet2d(folder)
