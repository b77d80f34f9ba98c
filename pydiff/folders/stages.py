"""One folder, or one file, opened as a stage: its networks, its scheduler, its text encoder, and whether they fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pydiff.cascade import INPAINT, INSTRUCT, PLAIN, UPSCALE, Stage
from pydiff.diffusion.levels import NoiseSchedule
from pydiff.folders import index as folders
from pydiff.folders.index import Index
from pydiff.folders.parts import MICRO, How, checked, sampling_of, scheduler_file, size_of, words_of
from pydiff.folders.unclip import open_unclip
from pydiff.models.autoencoder import Autoencoder
from pydiff.models.unet import UNet
from pydiff.text.encoders import TextEncoder
from pydiff.weights import load_autoencoder, load_unet, load_unet2d


def open_stages(index: Index, how: How, text: TextEncoder | None) -> tuple[Stage, ...]:
    """The stage in a folder, or its stages. text: the encoder of the stage before, which others of its model share."""
    if index.family.name == folders.UNCLIP:
        return open_unclip(index, how)
    return (OPENERS[index.family.name](index, how, text),)


def _pixels(index: Index, how: How, text: TextEncoder | None) -> Stage:
    """DeepFloyd IF's first stage, and others of its make."""
    del text
    stage = _with_unet(index, how)
    encoder = words_of(index, how)
    return checked(index, dataclasses.replace(stage, text=encoder))


def _upscaler(index: Index, how: How, text: TextEncoder | None) -> Stage:
    """DeepFloyd IF's second stage: it reads what the first one read."""
    stage = _with_unet(index, how)
    encoder = text
    if not stage.unet.reads_text:
        encoder = None
    elif encoder is None and index.has("text_encoder"):
        encoder = words_of(index, how)
    noising = NoiseSchedule.from_config(scheduler_file(index, "image_noising_scheduler"))
    return checked(index, dataclasses.replace(stage, text=encoder, kind=UPSCALE, noising=noising))


def _with_unet(index: Index, how: How) -> Stage:
    """A U-Net on pixels."""
    unet = how.place(load_unet(index.component("unet", "UNet2DConditionModel"), how.dtype, variant=how.variant))
    sampling = sampling_of(index)
    if "variance_type" in index.settings:  # what ddpm may use; the folder's own sampler need not know it
        kept = {**sampling.options, "variance_type": index.settings["variance_type"]}
        sampling = dataclasses.replace(sampling, options=kept)
    return Stage(unet, sampling, size_of(unet, index.folder / "unet", 1), index.defaults)


def _latent(index: Index, how: How, text: TextEncoder | None) -> Stage:
    """Stable Diffusion 1 and 2, its inpainting model, and InstructPix2Pix."""
    del text
    unet, codec = _latent_networks(index, how)
    encoder = words_of(index, how)
    return checked(index, _make_latent(index, unet, codec, encoder))


def _latent_networks(index: Index, how: How) -> tuple[UNet, Autoencoder]:
    unet = how.place(load_unet(index.component("unet", "UNet2DConditionModel"), how.dtype, variant=how.variant))
    folder = index.component("vae", "AutoencoderKL")
    codec = load_autoencoder(folder, how.dtype, variant=how.variant)
    if codec.needs_upcast:
        codec = load_autoencoder(folder, torch.float32, variant=how.variant)
    return unet, how.place(codec)


def _make_latent(index: Index, unet: UNet, codec: Autoencoder, encoder: TextEncoder, micro: str | None = None) -> Stage:
    latent = codec.config.latent_channels
    kinds = {latent: PLAIN, 2 * latent + 1: INPAINT, 2 * latent: INSTRUCT}
    kind = kinds.get(unet.config.in_channels)
    if kind is None or (kind == INSTRUCT) != (index.family.image_guidance_scale is not None):
        raise ValueError(
            f"{index.folder / 'unet'} takes {unet.config.in_channels} channels, which does not fit a {index.pipeline} "
            f"whose autoencoder makes {latent}"
        )
    traits: dict[str, Any] = {} if micro is None else {"micro": micro}
    if kind == INSTRUCT:
        traits["image_guidance_scale"] = index.family.image_guidance_scale
    size = size_of(unet, index.folder / "unet", codec.factor)
    return Stage(unet, sampling_of(index), size, index.defaults, kind, codec, text=encoder, traits=traits)


def _latent_upscaler(index: Index, how: How, text: TextEncoder | None) -> Stage:
    """The x4 upscaler of Stable Diffusion: noised pixels beside latents of their size."""
    del text
    unet, codec = _latent_networks(index, how)
    expected = codec.config.latent_channels + 3
    if unet.config.in_channels != expected:
        raise ValueError(f"{index.folder / 'unet'} takes {unet.config.in_channels} channels; expected {expected}")
    noising = NoiseSchedule.from_config(scheduler_file(index, "low_res_scheduler"))
    traits = {"scale": codec.factor, "max_noise_level": index.values.get("max_noise_level", 350)}
    encoder = words_of(index, how)
    size = size_of(unet, index.folder / "unet", codec.factor)
    stage = Stage(unet, sampling_of(index), size, index.defaults, UPSCALE, codec, noising, encoder, traits)
    return checked(index, stage)


def _xl(index: Index, how: How, text: TextEncoder | None) -> Stage:
    """Stable Diffusion XL and its refiner."""
    del text
    unet, codec = _latent_networks(index, how)
    encoder = words_of(index, how)
    scored = index.values.get("requires_aesthetics_score", False) is True
    return checked(index, _make_latent(index, unet, codec, encoder, MICRO[5 if scored else 6]))


def _unworded(index: Index, how: How, text: TextEncoder | None) -> Stage:
    """A U-Net of pixels that reads no words."""
    del text
    unet = how.place(load_unet2d(index.component("unet", "UNet2DModel"), how.dtype, variant=how.variant))
    return checked(index, Stage(unet, sampling_of(index), size_of(unet, index.folder / "unet", 1), index.defaults))


OPENERS: Mapping[str, Callable[[Index, How, TextEncoder | None], Stage]] = {
    folders.PIXELS: _pixels,
    folders.UPSCALER: _upscaler,
    folders.LATENT: _latent,
    folders.LATENT_UPSCALER: _latent_upscaler,
    folders.XL: _xl,
    folders.UNWORDED: _unworded,
}
