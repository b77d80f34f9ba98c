"""Folders of every family as diffusers saves them, and ways to damage a copy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.deprecated.unclip import UnCLIPPipeline
from safetensors.torch import load_file, save_file

from tests.checkpoints import makers
from tests.checkpoints.test_unclip import common

DROP = object()  # in place of a field's value: without that field


def unworded(folder: Path) -> None:
    torch.manual_seed(5)
    network = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    makers.saved(diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()), folder)


def upscaler(folder: Path) -> None:
    """The x4 upscaler of Stable Diffusion."""
    changes = {"in_channels": 7, "num_class_embeds": 1000}
    made = diffusers.StableDiffusionUpscalePipeline(
        vae=makers.vae(), unet=makers.unet(**changes), text_encoder=makers.text_model(),
        tokenizer=makers.tokenizer(folder / "tokenizer"), scheduler=makers.scheduler("ddim"),
        low_res_scheduler=diffusers.DDPMScheduler(),
    )  # fmt: skip
    makers.saved(made, folder)


def unclip(folder: Path) -> None:
    torch.manual_seed(8)
    prior = diffusers.PriorTransformer(num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1)
    scheduler = diffusers.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample")
    makers.saved(UnCLIPPipeline(prior=prior, prior_scheduler=scheduler, **common(folder)), folder)


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "sd": makers.stable_diffusion,
    "xl": makers.xl,
    "if": makers.deepfloyd,
    "x4": upscaler,
    "ddpm": unworded,
    "unclip": unclip,
}
NETWORKS = {  # the components that hold weights
    "sd": ("unet", "vae", "text_encoder"),
    "xl": ("unet", "vae", "text_encoder", "text_encoder_2"),
    "if": ("unet", "text_encoder"),
    "ddpm": ("unet",),
    "unclip": ("prior", "decoder", "text_proj", "text_encoder", "super_res_first", "super_res_last"),
}
EVERY = [(family, component) for family, components in NETWORKS.items() for component in components]


def weights_of(folder: Path) -> Path:
    return next(iter(sorted(folder.glob("*.safetensors"))))


def rewrite(path: Path, **fields: Any) -> None:
    """Change a JSON object's fields."""
    values = {**json.loads(path.read_text()), **fields} if path.exists() else fields
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not DROP}))


def restore(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change a file's tensors."""
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})


def leads_out(path: Path, outside: Path) -> None:
    """Put a link in the place of a file or folder, which goes outside."""
    outside.mkdir(exist_ok=True)
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)
