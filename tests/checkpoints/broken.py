"""Folders of every family as diffusers saves them, and ways to damage a copy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.deprecated.unclip import UnCLIPImageVariationPipeline, UnCLIPPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.checkpoints import makers
from tests.checkpoints.test_pixels import unet2d
from tests.checkpoints.test_unclip import common

DROP = object()  # in place of a field's value: without that field


def xl_unet(**changes: Any) -> diffusers.UNet2DConditionModel:
    """Another U-Net than that of `makers.xl`, where changes are given."""
    fields = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "use_linear_projection": True,
        "projection_class_embeddings_input_dim": 80, "cross_attention_dim": 64, "transformer_layers_per_block": (1, 2),
    }  # fmt: skip
    return makers.unet(**{**fields, **changes})


def prior(**changes: Any) -> diffusers.PriorTransformer:
    torch.manual_seed(8)
    fields = {"num_attention_heads": 2, "attention_head_dim": 12, "embedding_dim": 32, "num_layers": 1}
    return diffusers.PriorTransformer(**{**fields, **changes})


def unclip(folder: Path) -> None:
    scheduler = diffusers.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample")
    makers.saved(UnCLIPPipeline(prior=prior(), prior_scheduler=scheduler, **common(folder)), folder)


def image_encoder(**changes: Any) -> CLIPVisionModelWithProjection:
    fields = {
        "hidden_size": 32, "projection_dim": 32, "intermediate_size": 37, "num_hidden_layers": 1,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**{**fields, **changes}))


def variation(folder: Path) -> None:
    extractor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    parts = common(folder)
    made = UnCLIPImageVariationPipeline(image_encoder=image_encoder(), feature_extractor=extractor, **parts)
    makers.saved(made, folder)


def shard(folder: Path, variant: str | None = None) -> None:
    """Write the U-Net and the text encoder in shards, alone or as a variant."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder")
    for name, network in (("unet", unet), ("text_encoder", text)):
        weights_of(folder / name).unlink()
        network.save_pretrained(folder / name, max_shard_size="30KB", variant=variant)
        assert len(list((folder / name).glob("*.safetensors"))) > 2


def sharded(folder: Path) -> None:
    makers.stable_diffusion(folder)
    shard(folder)


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "sd": makers.stable_diffusion,
    "xl": makers.xl,
    "if": makers.deepfloyd,
    "sharded": sharded,
    "x4": makers.upscaler,
    "ddpm": lambda folder: makers.saved(diffusers.DDPMPipeline(unet2d(), diffusers.DDPMScheduler()), folder),
    "unclip": unclip,
    "variation": variation,
    "example": makers.paint_by_example,
}
NETWORKS = {  # the components that hold weights
    "sd": ("unet", "vae", "text_encoder"),
    "xl": ("text_encoder_2",),
    "if": ("unet", "text_encoder"),
    "ddpm": ("unet",),
    "unclip": ("prior", "decoder", "text_proj", "super_res_first", "super_res_last"),
    "variation": ("image_encoder",),
    "example": ("image_encoder",),
}
EVERY = [(family, component) for family, components in NETWORKS.items() for component in components]


def weights_of(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def rewrite(path: Path, **fields: Any) -> None:
    """Change fields of the object in a JSON file."""
    values = {**json.loads(path.read_text()), **fields} if path.exists() else fields
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not DROP}))


def restore(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a component."""
    path = weights_of(folder)
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})


def leads_out(path: Path, outside: Path) -> None:
    """Move a file or folder outside, and put a link in its place."""
    outside.mkdir(exist_ok=True)
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)
