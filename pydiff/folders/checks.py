"""Whether the parts of a stage fit each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pydiff.cascade import INSTRUCT, RESTORE, UPSCALE, Stage
from pydiff.folders.index import Index
from pydiff.models.unet_checks import check_cond
from pydiff.models.unet_config import UNetConfig
from pydiff.networks import Denoiser
from pydiff.nn.cond import Cond
from pydiff.unclip import UnCLIP
from pydiff.vision import ExampleEncoder

MICRO = {5: "aesthetic", 6: "sizes"}  # Stable Diffusion XL's added numbers: of the refiner, of the base


def size_of(unet: Denoiser, where: Path, factor: int) -> tuple[int, int]:
    """Height and width in pixels."""
    sample = unet.config.sample_size
    if sample is None:
        raise ValueError(f"{where / 'config.json'} has no sample_size; expected a side of its x")
    height, width = sample if isinstance(sample, tuple) else (sample, sample)
    return height * factor, width * factor


def checked(index: Index, stage: Stage, name: str = "unet") -> Stage:
    """Refuses networks, text encoders and schedulers that do not fit each other. name: the component of its U-Net."""
    where = index.folder / name
    if stage.codec is None:
        _check_pixels(index, where, stage.unet, 6 if stage.kind in (UPSCALE, RESTORE, INSTRUCT) else 3)
    else:
        _check_latents(index, where, stage)
    variance = stage.sampling.options.get("variance_type", "fixed")
    if not stage.predicts_variance and variance.startswith("learned"):
        raise ValueError(
            f"{index.folder} says variance_type {variance!r}, but {where} predicts no variance; expected 6 channels "
            "made, or a fixed variance"
        )
    _check_conditioning(where, stage)
    return stage


def _check_pixels(index: Index, where: Path, unet: Denoiser, expected: int) -> None:
    if unet.config.in_channels != expected:
        raise ValueError(f"{where} takes {unet.config.in_channels} channels; a {index.pipeline}'s takes {expected}")
    if unet.config.out_channels not in (3, 6):
        raise ValueError(f"{where} makes {unet.config.out_channels} channels; expected 3, or 6 with variance")


def _check_latents(index: Index, where: Path, stage: Stage) -> None:
    assert stage.codec is not None
    codec = stage.codec.config
    if (codec.in_channels, codec.out_channels) != (3, 3):
        raise ValueError(
            f"{index.folder / 'vae'} takes {codec.in_channels} channels and makes {codec.out_channels}; expected 3 of "
            "a picture"
        )
    if stage.unet.config.out_channels != stage.channels:
        raise ValueError(
            f"{where} makes {stage.unet.config.out_channels} channels, but latents have {stage.channels}; "
            f"expected the U-Net that {index.folder / 'vae'} was trained with"
        )


def _check_conditioning(where: Path, stage: Stage) -> None:
    """That the network takes the states of the text encoder, or the tokens of examples in their place; its sizes and,
    above a base stage, a noise level."""
    unet, example = stage.unet, stage.traits.get("example")
    if not isinstance(unet.config, UNetConfig) or not (unet.reads_text or stage.text or example):
        return
    if isinstance(example, ExampleEncoder):
        cond = _cond(stage, example.width, None)
    elif stage.text is not None:
        cond = _cond(stage, stage.text.width, stage.text.pooled_width)
    else:
        raise ValueError(f"{where} reads text, but no text encoder stands with it; give the base stage's folder")
    try:
        check_cond(unet.config, cond, unet.reads_text)
    except ValueError as error:
        raise ValueError(f"{where} does not fit its pipeline or encoder: {error}") from error


def _cond(stage: Stage, width: int, pooled: int | None) -> Cond:
    """What the pipeline gives the network, of the shapes that it has."""
    labels: Any = None if stage.noising is None else np.zeros(1, dtype=np.int64)
    added: Any = None
    if "micro" in stage.traits:
        numbers = next(count for count, name in MICRO.items() if name == stage.traits["micro"])
        added = {"text_embeds": np.zeros((1, pooled or 0)), "time_ids": np.zeros((1, numbers))}
    unclip = stage.traits.get("unclip")
    if isinstance(unclip, UnCLIP):
        config = unclip.projection.config
        width, labels = config.cross_attention_dim, np.zeros((1, config.time_embed_dim))
    text: Any = np.zeros((1, 1, width))
    return Cond(text, labels=labels, added=added)


def check_unclip(index: Index, stage: Stage) -> None:
    """Refuses a prior, a projection, a text encoder and an image encoder that do not fit each other."""
    unclip, text = stage.traits["unclip"], stage.text
    assert isinstance(unclip, UnCLIP)
    assert text is not None
    embed = unclip.projection.config.clip_embeddings_dim
    widths = {"text_encoder": {text.width, text.pooled_width}}
    if unclip.prior is not None:
        widths["prior"] = {unclip.prior.config.embedding_dim, unclip.prior.config.text_embed_dim}
        tokens, window = unclip.prior.config.num_embeddings, text.tokenizers[0].window
        if tokens != window:
            raise ValueError(f"{index.folder / 'prior'} reads {tokens} tokens; its text encoder makes {window}")
    if unclip.vision is not None:
        widths["image_encoder"] = {unclip.vision.width}
    for name, made in widths.items():
        if made != {embed}:
            raise ValueError(
                f"{index.folder / name} has embeddings of {' and '.join(sorted(map(str, made)))}; "
                f"{index.folder / 'text_proj'} takes {embed}"
            )
