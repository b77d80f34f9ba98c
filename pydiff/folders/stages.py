"""One folder, or one file, opened as a stage: its scheduler, its networks, its text encoder, and whether they fit."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydiff.cascade import EXAMPLE, INPAINT, INSTRUCT, PLAIN, RESTORE, UPSCALE, Stage
from pydiff.diffusion.checks import whole
from pydiff.folders.checks import MICRO, checked, size_of
from pydiff.folders.index import (
    EXEMPLAR,
    INSTRUCTED,
    LATENT,
    LATENT_UPSCALER,
    PIXELS,
    RESTORER,
    UNCLIP,
    UNWORDED,
    UPSCALER,
    XL,
    Index,
)
from pydiff.folders.networks import Networks
from pydiff.folders.unclip import open_unclip
from pydiff.text.encoders import TextEncoder


def open_stages(index: Index, networks: Networks, text: TextEncoder | None) -> tuple[Stage, ...]:
    """The stage in a folder, or its stages. text: the encoder of the stage before, which others of its model share."""
    family = index.family.name
    if family == UNCLIP:
        return open_unclip(index, networks)
    if family == UPSCALER:
        stage = _upscaler(index, networks, text)
    elif family == XL:
        scored = index.values.get("requires_aesthetics_score", False) is True
        stage = _latent(index, networks, MICRO[5 if scored else 6])
    else:
        open_stage = {
            PIXELS: _pixels,
            LATENT: _latent,
            LATENT_UPSCALER: _latent_upscaler,
            UNWORDED: _unworded,
            EXEMPLAR: _exemplar,
            RESTORER: _restorer,
            INSTRUCTED: _instructed,
        }[family]
        stage = open_stage(index, networks)
    return (checked(index, stage),)


def _pixels(index: Index, networks: Networks) -> Stage:
    """DeepFloyd IF's first stage, and others of its make."""
    traits = {"swap": index.settings["swap"]} if "swap" in index.settings else {}
    return dataclasses.replace(_with_unet(index, networks), text=index.words(networks), traits=traits)


def _restorer(index: Index, networks: Networks) -> Stage:
    """Palette: any U-Net on pixels; one that reads text is given the empty prompt."""
    stage = _pixels(index, networks) if index.has("text_encoder") else _unworded(index, networks)
    return dataclasses.replace(stage, kind=RESTORE)


def _instructed(index: Index, networks: Networks) -> Stage:
    """InstructPix2Pix in pixels."""
    traits = {"image_guidance_scale": index.settings.get("image_guidance_scale", index.family.image_guidance_scale)}
    return dataclasses.replace(_pixels(index, networks), kind=INSTRUCT, traits=traits)


def _upscaler(index: Index, networks: Networks, text: TextEncoder | None) -> Stage:
    """DeepFloyd IF's second stage: it reads what the first one read."""
    noising = index.noising("image_noising_scheduler")
    stage = _with_unet(index, networks)
    if not stage.unet.reads_text:  # nor can it be guided
        text, stage = None, dataclasses.replace(stage, defaults=stage.defaults._replace(guidance_scale=1.0))
    elif text is None and index.has("text_encoder"):
        text = index.words(networks)
    return dataclasses.replace(stage, text=text, kind=UPSCALE, noising=noising)


def _with_unet(index: Index, networks: Networks) -> Stage:
    """A U-Net on pixels."""
    sampling, unet = index.sampling(), index.unet(networks)
    if "variance_type" in index.settings:  # what ddpm may use; the folder's own sampler need not know it
        kept = {**sampling.options, "variance_type": index.settings["variance_type"]}
        sampling = dataclasses.replace(sampling, options=kept)
    return Stage(unet, sampling, size_of(unet, index.folder / "unet", 1), index.defaults)


def _latent(index: Index, networks: Networks, micro: str | None = None) -> Stage:
    """Stable Diffusion 1, 2 and XL, their inpainting models, XL's refiner, and InstructPix2Pix."""
    sampling, unet, codec = index.sampling(), index.unet(networks), index.autoencoder(networks)
    latent, image_scale = codec.config.latent_channels, index.family.image_guidance_scale
    kind = {latent: PLAIN, 2 * latent + 1: INPAINT, 2 * latent: INSTRUCT}.get(unet.config.in_channels)
    if kind is None or (kind == INSTRUCT) != (image_scale is not None):
        raise ValueError(
            f"{index.folder / 'unet'} takes {unet.config.in_channels} channels, which does not fit a {index.pipeline} "
            f"whose autoencoder makes {latent}"
        )
    traits: dict[str, Any] = {"micro": micro, "image_guidance_scale": image_scale}
    return Stage(
        unet,
        sampling,
        size_of(unet, index.folder / "unet", codec.factor),
        index.defaults,
        kind,
        codec,
        text=index.words(networks),
        traits={name: value for name, value in traits.items() if value is not None},
    )


def _latent_upscaler(index: Index, networks: Networks) -> Stage:
    """The x4 upscaler of Stable Diffusion: noised pixels beside latents of their size."""
    noising = index.noising("low_res_scheduler")
    sampling, unet, codec = index.sampling(), index.unet(networks), index.autoencoder(networks)
    expected = codec.config.latent_channels + 3
    if unet.config.in_channels != expected:
        raise ValueError(f"{index.folder / 'unet'} takes {unet.config.in_channels} channels; expected {expected}")
    most = whole("max_noise_level", index.values.get("max_noise_level", 350), 0)
    traits = {"scale": codec.factor, "max_noise_level": min(most, noising.num_train_timesteps - 1)}
    size = size_of(unet, index.folder / "unet", codec.factor)
    return Stage(unet, sampling, size, index.defaults, UPSCALE, codec, noising, index.words(networks), traits)


def _unworded(index: Index, networks: Networks) -> Stage:
    """A U-Net of pixels that reads no words."""
    sampling, unet = index.sampling(), index.unet2d(networks)
    return Stage(unet, sampling, size_of(unet, index.folder / "unet", 1), index.defaults)


def _exemplar(index: Index, networks: Networks) -> Stage:
    """Paint by Example: Stable Diffusion that fills holes and is told of a picture in the place of words."""
    sampling, unet, codec = index.sampling(), index.unet(networks), index.autoencoder(networks)
    expected = 2 * codec.config.latent_channels + 1
    if unet.config.in_channels != expected:
        raise ValueError(f"{index.folder / 'unet'} takes {unet.config.in_channels} channels; expected {expected}")
    encoder = index.component("image_encoder", "PaintByExampleImageEncoder")
    example = networks.example(encoder, index.component("feature_extractor"))
    size = size_of(unet, index.folder / "unet", codec.factor)
    return Stage(unet, sampling, size, index.defaults, EXAMPLE, codec, traits={"example": example})
