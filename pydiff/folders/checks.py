"""Whether the parts of a stage fit each other."""

from __future__ import annotations

from pathlib import Path

import torch

from pydiff.cascade import UPSCALE, Stage
from pydiff.folders.index import Index
from pydiff.models.unet import UNet
from pydiff.models.unet2d import UNet2D
from pydiff.models.unet_checks import check_cond
from pydiff.nn.cond import Cond

MICRO = {5: "aesthetic", 6: "sizes"}  # Stable Diffusion XL's added numbers: of the refiner, of the base


def size_of(unet: UNet | UNet2D, where: Path, factor: int) -> tuple[int, int]:
    """Height and width in pixels."""
    sample = unet.config.sample_size
    if sample is None:
        raise ValueError(f"{where / 'config.json'} has no sample_size; expected a side of its x")
    height, width = sample if isinstance(sample, tuple) else (sample, sample)
    return height * factor, width * factor


def checked(index: Index, stage: Stage) -> Stage:
    """Refuses networks, text encoders and schedulers that do not fit each other."""
    unet, where = stage.unet, index.folder / "unet"
    if stage.codec is None:
        expected = 6 if stage.kind == UPSCALE else 3
        if unet.config.in_channels != expected:
            raise ValueError(f"{where} takes {unet.config.in_channels} channels; a {index.pipeline}'s takes {expected}")
        if unet.config.out_channels not in (3, 6):
            raise ValueError(f"{where} makes {unet.config.out_channels} channels; expected 3, or 6 with variance")
    elif unet.config.out_channels != stage.channels:
        raise ValueError(f"{where} makes {unet.config.out_channels} channels, but latents have {stage.channels}")
    variance = stage.sampling.options.get("variance_type", "fixed")
    if not stage.predicts_variance and variance.startswith("learned"):
        raise ValueError(f"{index.folder} says variance_type {variance!r}, but its network predicts no variance")
    _check_conditioning(where, stage)
    return stage


def _check_conditioning(where: Path, stage: Stage) -> None:
    """That the network takes the states of the text encoder, its sizes and, above a base stage, a noise level."""
    unet = stage.unet
    if not isinstance(unet, UNet) or not (unet.reads_text or stage.text):
        return
    if stage.text is None:
        raise ValueError(f"{where} reads text, but no text encoder stands with it; give the base stage's folder")
    labels = None if stage.noising is None else torch.zeros(1, dtype=torch.long)
    added = None
    if "micro" in stage.traits:
        numbers = next(count for count, name in MICRO.items() if name == stage.traits["micro"])
        added = {"text_embeds": torch.zeros(1, stage.text.pooled_width or 0), "time_ids": torch.zeros(1, numbers)}
    try:
        check_cond(unet.config, Cond(torch.zeros(1, 1, stage.text.width), labels=labels, added=added), unet.reads_text)
    except ValueError as error:
        raise ValueError(f"{where} does not fit its pipeline or text encoder: {error}") from error
