"""Autoencoder folders: diffusers' opened here, with the names of today and of old."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pydiff.models.autoencoder import Autoencoder, AutoencoderConfig
from pydiff.weights import load_autoencoder

CONFIG = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
FILE = "diffusion_pytorch_model.safetensors"
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def reference() -> diffusers.AutoencoderKL:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(**CONFIG).eval()


@pytest.fixture
def folder(tmp_path: Path, reference: diffusers.AutoencoderKL) -> Path:
    reference.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@torch.no_grad()
def same(ours: Autoencoder, reference: diffusers.AutoencoderKL) -> None:
    latents = torch.randn(1, 4, 6, 4)
    torch.testing.assert_close(ours.decode(latents), reference.decode(latents).sample, atol=1e-5, rtol=0)


def old_name(name: str) -> str:
    for new, old in OLD.items():
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def test_load(folder: Path, reference: diffusers.AutoencoderKL) -> None:
    ours = load_autoencoder(folder)
    assert not ours.training
    assert ours.config == AutoencoderConfig.from_dict(dict(reference.config))
    assert {parameter.device.type for parameter in ours.parameters()} == {"cpu"}
    same(ours, reference)


def test_load_variant_and_dtype(tmp_path: Path, reference: diffusers.AutoencoderKL) -> None:
    reference.save_pretrained(tmp_path, variant="fp16")
    same(load_autoencoder(tmp_path, variant="fp16"), reference)
    half = load_autoencoder(tmp_path, torch.float16, variant="fp16")
    assert half.dtype == torch.float16
    assert half.needs_upcast


def test_load_names_of_old(folder: Path, reference: diffusers.AutoencoderKL) -> None:
    tensors = {old_name(name): tensor for name, tensor in load_file(folder / FILE).items()}
    assert sum(".proj_attn." in name or ".query." in name for name in tensors) == 8
    rewrite(folder, tensors)
    same(load_autoencoder(folder), reference)
    opened = diffusers.AutoencoderKL.from_pretrained(folder)  # these are the names that diffusers knows
    same(load_autoencoder(folder), opened)


def test_refuses_attention_as_convolutions(folder: Path) -> None:
    """As diffusers does: they are of the original layout, whose other names differ too."""
    tensors = load_file(folder / FILE)
    name = "decoder.mid_block.attentions.0.to_q.weight"
    tensors[old_name(name)] = tensors.pop(name)[:, :, None, None].contiguous()
    rewrite(folder, tensors)
    with pytest.raises(ValueError, match=r"to_q\.weight' .* \(16, 16, 1, 1\); expected floats \(16, 16\)"):
        load_autoencoder(folder)


def test_refuses_other_tensors_and_configs(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    rewrite(folder, tensors | {"loss.logvar": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"also hold 1 tensors: loss\.logvar"):
        load_autoencoder(folder)
    rewrite(folder, {name: tensor for name, tensor in tensors.items() if name != "quant_conv.bias"})
    with pytest.raises(ValueError, match=r"lack 1 tensors: quant_conv\.bias"):
        load_autoencoder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "VQModel"}))
    with pytest.raises(ValueError, match="'VQModel'"):
        load_autoencoder(folder)
