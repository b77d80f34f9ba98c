"""The families of Stable Diffusion, and the configurations that the tensors of an original file have.

Shapes and counts are read from a file's header; what they do not tell is in the table of families, whose values are
those of the folders that diffusers' from_single_file takes for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydiff.models.rules import divides
from pydiff.weights.original_keys import AUTOENCODER, UNET, TextPlace, text_keys
from pydiff.weights.safetensors import TensorInfo

HEAD_SIZE = 64  # channels; of every head but those of Stable Diffusion 1 and the upscaler
MOST_OPEN_CLIP_LAYERS = 23  # of a text encoder that projects nothing
Header = Mapping[str, TensorInfo]


class Variant(NamedTuple):
    """What a family does with pictures of one number of channels: diffusers' class names, and what is predicted."""

    pipeline: str
    scheduler: str
    prediction_type: str = "epsilon"


class Family(NamedTuple):
    """One kind of Stable Diffusion. Mappings without a comment are fields of JSON files that no tensor tells."""

    texts: Mapping[str, TextPlace]  # by component
    variants: Mapping[int, Variant]  # by channels that the U-Net takes
    heads: int | None  # of the U-Net's attention, at every level; None: one per 64 channels
    unet: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    model_index: Mapping[str, Any]
    v_sizes: tuple[int, int] | None = None  # sample_size of U-Net and autoencoder where those that predict v differ
    marker: str | None = None  # a tensor that tells it from a family with the same text encoders


_CLIP = TextPlace("cond_stage_model.transformer.", fused=False, projects=False)
_OPEN_CLIP = TextPlace("cond_stage_model.model.", fused=True, projects=False)
_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
_SD1 = Family(
    texts={"text_encoder": _CLIP},
    variants={
        4: Variant("StableDiffusionPipeline", "PNDMScheduler"),
        8: Variant("StableDiffusionInstructPix2PixPipeline", "EulerAncestralDiscreteScheduler"),
        9: Variant("StableDiffusionInpaintPipeline", "DDIMScheduler"),
    },
    heads=8,
    unet={"sample_size": 64},
    autoencoder={"sample_size": 512, "scaling_factor": 0.18215},
    scheduler=_SCHEDULE,
    model_index={},
)
_SD2 = _SD1._replace(
    texts={"text_encoder": _OPEN_CLIP},
    variants={
        4: Variant("StableDiffusionPipeline", "DDIMScheduler", "v_prediction"),
        8: Variant("StableDiffusionInstructPix2PixPipeline", "EulerAncestralDiscreteScheduler"),
        9: Variant("StableDiffusionInpaintPipeline", "PNDMScheduler"),
    },
    heads=None,
    v_sizes=(96, 768),
)
_SDXL = Family(
    texts={
        "text_encoder": TextPlace("conditioner.embedders.0.transformer.", fused=False, projects=False),
        "text_encoder_2": TextPlace("conditioner.embedders.1.model.", fused=True, projects=True),
    },
    variants={
        4: Variant("StableDiffusionXLPipeline", "EulerDiscreteScheduler"),
        8: Variant("StableDiffusionXLInstructPix2PixPipeline", "EulerDiscreteScheduler"),
        9: Variant("StableDiffusionXLInpaintPipeline", "EulerDiscreteScheduler"),
    },
    heads=None,
    unet={"sample_size": 128, "addition_embed_type": "text_time", "addition_time_embed_dim": 256},
    autoencoder={"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    scheduler=_SCHEDULE
    | {
        "interpolation_type": "linear",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
    model_index={"force_zeros_for_empty_prompt": True},
)
FAMILIES = {
    "sdxl": _SDXL,
    "sdxl_refiner": _SDXL._replace(
        texts={"text_encoder_2": TextPlace("conditioner.embedders.0.model.", fused=True, projects=True)},
        variants={4: Variant("StableDiffusionXLImg2ImgPipeline", "EulerDiscreteScheduler")},
        model_index={"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
    ),
    "x4_upscaler": _SD2._replace(
        variants={7: Variant("StableDiffusionUpscalePipeline", "DDIMScheduler", "v_prediction")},
        heads=8,
        unet={"sample_size": 128},
        autoencoder={"sample_size": 256, "scaling_factor": 0.08333},
        scheduler=_SCHEDULE | {"beta_start": 0.0001, "beta_end": 0.02},
        model_index={"max_noise_level": 350},
        v_sizes=None,
        marker=f"{UNET}label_emb.weight",
    ),
    "sd2": _SD2,
    "sd1": _SD1,
}
LOW_RES_SCHEDULER = {  # of the upscaler: the noise that is added to the picture it is given
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "clip_sample": True,
    "prediction_type": "epsilon",
    "trained_betas": None,
    "variance_type": "fixed_small",
}


def find_family(header: Header) -> str:
    """The family in whose places a file has text encoders. Raises ValueError, naming them, when it has none there."""
    looked: dict[str, None] = {}
    for name, family in FAMILIES.items():
        keys = [_text_key(place, "embeddings.token_embedding") for place in family.texts.values()]
        if all(key in header for key in keys) and (family.marker is None or family.marker in header):
            return name
        looked |= dict.fromkeys(keys)
    raise ValueError(f"it has no text encoder; looked for {', '.join(looked)}")


def unet_config(header: Header, family: Family) -> dict[str, Any]:
    """The config.json of the U-Net. Raises ValueError, naming it, for a tensor that is missing or of no known shape."""
    levels, middle = _unet_levels(header), f"{UNET}middle_block.1"
    first, last = [f"{UNET}input_blocks.{numbers[0]}" for numbers in levels], len(levels) - 1
    channels = [_size(header, f"{at}.0.out_layers.3.weight", 0) for at in first]
    depths = [_many(header, f"{at}.1.transformer_blocks") for at in first]
    config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": _size(header, f"{UNET}input_blocks.0.0.weight", 1),
        "out_channels": _size(header, f"{UNET}out.2.weight", 0),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "cross_attention_dim": _size(header, f"{middle}.transformer_blocks.0.attn2.to_k.weight", 1),
        "attention_head_dim": family.heads or [_heads("block_out_channels", count) for count in channels],
        "use_linear_projection": _info(header, f"{middle}.proj_in.weight", 2).shape[2:] == (),
        **family.unet,
    }
    config["transformer_layers_per_block"][last] = _many(header, f"{middle}.transformer_blocks")
    if "addition_embed_type" in config:
        config["projection_class_embeddings_input_dim"] = _size(header, f"{UNET}label_emb.0.0.weight", 1)
    if family.marker is not None:  # the x4 upscaler attends to text alone where its pictures are large
        config["num_class_embeds"] = _size(header, family.marker, 0)
        config["only_cross_attention"] = [level < last for level in range(last + 1)]
    return config


def autoencoder_config(header: Header, family: Family) -> dict[str, Any]:
    """The config.json of the autoencoder. Raises ValueError as `unet_config` does."""
    levels = _many(header, f"{AUTOENCODER}encoder.down")
    if levels == 0:
        raise ValueError(f"it has no autoencoder; looked for {AUTOENCODER}encoder.down.*")
    down = [f"{AUTOENCODER}encoder.down.{level}.block" for level in range(levels)]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": _size(header, f"{AUTOENCODER}encoder.conv_in.weight", 1),
        "out_channels": _size(header, f"{AUTOENCODER}decoder.conv_out.weight", 0),
        "latent_channels": _size(header, f"{AUTOENCODER}decoder.conv_in.weight", 1),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [_size(header, f"{block}.0.conv2.weight", 0) for block in down],
        "layers_per_block": _many(header, down[0]),
        **family.autoencoder,
    }


def text_config(header: Header, place: TextPlace) -> dict[str, Any]:
    """The config.json of a text encoder. Raises ValueError as `unet_config` does.

    Stable Diffusion 2 reads the states before the last of open_clip's 24 layers: its encoder has 23.
    """
    tokens, positions = (_text_key(place, f"embeddings.{name}_embedding") for name in ("token", "position"))
    layers = _many(header, place.prefix + ("transformer.resblocks" if place.fused else "text_model.encoder.layers"))
    width = _size(header, tokens, 1)
    return {
        "architectures": ["CLIPTextModelWithProjection" if place.projects else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": _size(header, tokens, 0),
        "hidden_size": width,
        "intermediate_size": _size(header, _text_key(place, "encoder.layers.0.mlp.fc1"), 0),
        "num_hidden_layers": layers if place.projects or not place.fused else min(layers, MOST_OPEN_CLIP_LAYERS),
        "num_attention_heads": _heads("hidden_size", width),
        "max_position_embeddings": _size(header, positions, 0),
        "projection_dim": _size(header, f"{place.prefix}text_projection", 1) if place.projects else width,
        "hidden_act": "gelu" if place.fused else "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def _text_key(place: TextPlace, module: str) -> str:
    """The original name of a module's weight, by its name in transformers."""
    return text_keys({"num_hidden_layers": 1}, place)[f"text_model.{module}.weight"].key


def _unet_levels(header: Header) -> list[list[int]]:
    """The numbers of each level's input_blocks, without conv_in and the downsamplers that part the levels."""
    levels: list[list[int]] = [[]]
    for number in range(1, _many(header, f"{UNET}input_blocks")):
        here = f"{UNET}input_blocks.{number}."
        if not any(key.startswith(here) for key in header):
            raise ValueError(f"it lacks all tensors of {here}*")
        if any(key.startswith(f"{here}0.op.") for key in header):
            levels.append([])
        else:
            levels[-1].append(number)
    if not all(levels):
        raise ValueError(f"its {UNET}input_blocks are not those of a U-Net of Stable Diffusion")
    return levels


def _many(header: Header, stem: str) -> int:
    """How many modules are numbered under a stem: one more than the highest number."""
    number = re.compile(rf"{re.escape(stem)}\.(\d{{1,3}})\.")
    return 1 + max((int(found[1]) for found in map(number.match, header) if found), default=-1)


def _info(header: Header, key: str, rank: int) -> TensorInfo:
    """What the header says of a tensor that has at least rank dimensions."""
    if key not in header:
        raise ValueError(f"it lacks the tensor {key}")
    if len(header[key].shape) < rank:
        raise ValueError(f"tensor {key!r} has the shape {header[key].shape}; expected at least {rank} dimensions")
    return header[key]


def _size(header: Header, key: str, dim: int) -> int:
    return _info(header, key, dim + 1).shape[dim]


def _heads(name: str, width: int) -> int:
    divides("the size of a head of attention", HEAD_SIZE, name, width)
    return width // HEAD_SIZE
