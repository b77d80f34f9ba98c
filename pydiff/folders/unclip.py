"""unCLIP's folder (Karlo): a decoder and a super-resolution stage, beside them the prior or the image encoder."""

from __future__ import annotations

import dataclasses

from pydiff.cascade import UPSCALE, Stage, StageDefaults
from pydiff.folders.checks import check_unclip, checked, size_of
from pydiff.folders.index import How, Index
from pydiff.unclip import UnCLIP
from pydiff.vision import load_image_encoder
from pydiff.weights import load_unet, load_unet2d
from pydiff.weights.network import when_read
from pydiff.weights.unclip import load_prior, load_text_projection

SUPER_RESOLUTION = StageDefaults(7, 1.0)


def open_unclip(index: Index, how: How) -> tuple[Stage, Stage]:
    """64x64 from an embedding and words, then 256x256 from that."""
    decoder = how.place(load_unet(index.component("decoder", "UNet2DConditionModel"), how.dtype, variant=how.variant))
    size = size_of(decoder, index.folder / "decoder", 1)
    words = index.words(how)
    first = Stage(
        decoder, index.sampling("decoder_scheduler"), size, index.defaults, text=words,
        traits={"unclip": _beside(index, how)},
    )  # fmt: skip
    networks = [
        how.place(load_unet2d(index.component(name, "UNet2DModel"), how.dtype, variant=how.variant))
        for name in ("super_res_first", "super_res_last")
    ]
    size = size_of(networks[0], index.folder / "super_res_first", 1)
    sampling = index.sampling("super_res_scheduler")
    second, last = (Stage(network, sampling, size, SUPER_RESOLUTION, UPSCALE) for network in networks)
    check_unclip(index, first)
    for name, stage in (("decoder", first), ("super_res_first", second), ("super_res_last", last)):
        checked(index, stage, name)
    return first, dataclasses.replace(second, last=networks[1])


def _beside(index: Index, how: How) -> UnCLIP:
    projection = how.place(
        load_text_projection(index.component("text_proj", "UnCLIPTextProjModel"), how.dtype, variant=how.variant)
    )
    if index.pipeline == "UnCLIPImageVariationPipeline":
        encoder = index.component("image_encoder", "CLIPVisionModelWithProjection")
        vision = load_image_encoder(encoder, index.component("feature_extractor"), how.dtype, variant=how.variant)
        when_read(lambda: vision.to(how.device))
        return UnCLIP(projection, vision=vision)
    prior = how.place(load_prior(index.component("prior", "PriorTransformer"), how.dtype, variant=how.variant))
    return UnCLIP(projection, prior, index.sampling("prior_scheduler"))
