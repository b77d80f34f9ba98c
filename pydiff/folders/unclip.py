"""unCLIP's folder (Karlo): a decoder and a super-resolution stage, beside them the prior or the image encoder."""

from __future__ import annotations

import dataclasses

from pydiff.cascade import UPSCALE, Stage, StageDefaults
from pydiff.folders.checks import check_unclip, checked, size_of
from pydiff.folders.index import Index
from pydiff.folders.networks import Networks
from pydiff.unclip import UnCLIP

SUPER_RESOLUTION = StageDefaults(7, 1.0)


def open_unclip(index: Index, networks: Networks) -> tuple[Stage, Stage]:
    """64x64 from an embedding and words, then 256x256 from that."""
    decoder = index.unet(networks, "decoder")
    size = size_of(decoder, index.folder / "decoder", 1)
    words = index.words(networks)
    first = Stage(
        decoder, index.sampling("decoder_scheduler"), size, index.defaults, text=words,
        traits={"unclip": _beside(index, networks)},
    )  # fmt: skip
    supers = [index.unet2d(networks, name) for name in ("super_res_first", "super_res_last")]
    size = size_of(supers[0], index.folder / "super_res_first", 1)
    sampling = index.sampling("super_res_scheduler")
    second, last = (Stage(network, sampling, size, SUPER_RESOLUTION, UPSCALE) for network in supers)
    check_unclip(index, first)
    for name, stage in (("decoder", first), ("super_res_first", second), ("super_res_last", last)):
        checked(index, stage, name)
    return first, dataclasses.replace(second, last=supers[1])


def _beside(index: Index, networks: Networks) -> UnCLIP:
    projection = networks.text_projection(index.component("text_proj", "UnCLIPTextProjModel"))
    if index.pipeline == "UnCLIPImageVariationPipeline":
        encoder = index.component("image_encoder", "CLIPVisionModelWithProjection")
        return UnCLIP(projection, vision=networks.vision(encoder, index.component("feature_extractor")))
    prior = networks.prior(index.component("prior", "PriorTransformer"))
    return UnCLIP(projection, prior, index.sampling("prior_scheduler"))
