"""The names of Stable Diffusion's tensors: those of diffusers and transformers beside those of the original files.

Rows are data; they are repeated for the blocks that a network's config.json counts. The original names are those of the
modules of Rombach et al. 2022 (CompVis), Podell et al. 2023 (Stability AI) and open_clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from pydiff.models.unet_config import DOWN_KINDS, MID_KINDS, UP_KINDS, UNetConfig

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."  # how the names in a file begin
Rows = Mapping[str, str]  # a module's name in diffusers -> in the original

_UNET_ENDS: Rows = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_POOLED: Rows = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
_UNET_RESNET: Rows = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TRANSFORMER = ("norm", "proj_in", "proj_out")  # in a transformer the names are the same
_TRANSFORMER_BLOCK = ("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
_TRANSFORMER_WEIGHTS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q", "attn2.to_k", "attn2.to_v")

_CODER_ENDS: Rows = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
_CODER_RESNET: Rows = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}
_CODER_ATTENTION: Rows = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_QUANT: Rows = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}

_TEXT_LAYER: Rows = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


class Source(NamedTuple):
    """Where a tensor lies in an original file."""

    key: str
    part: str = "whole"  # what of it is taken: a name in PARTS


class TextPlace(NamedTuple):
    """A text encoder of an original file."""

    prefix: str  # of its tensors' names
    fused: bool  # open_clip's names: query, key and value are thirds of one matrix; else the names are transformers'
    projects: bool  # its pooled text is projected


PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda stored: stored,
    "matrix": lambda stored: stored.flatten(1) if stored.ndim > 2 else stored,  # (C, D, 1, 1) -> (C, D)
    "transposed": lambda stored: stored.transpose(0, 1),
    "q": lambda stored: stored.chunk(3)[0],  # (3D, ...) -> (D, ...)
    "k": lambda stored: stored.chunk(3)[1],
    "v": lambda stored: stored.chunk(3)[2],
}


def unet_keys(config: Mapping[str, Any]) -> dict[str, str]:
    """Names of a U-Net's tensors, from the config.json of a UNet2DConditionModel: diffusers' -> the original's.

    Raises ValueError for a config that `UNetConfig` refuses, or whose blocks Stable Diffusion does not have.
    """
    unet = UNetConfig.from_dict(config)
    kinds = [table[name] for table, names in _block_types(unet) for name in names]
    if unet.mid_block_type is None or any(kind.attention == "joint" or kind.resample == "resnet" for kind in kinds):
        raise ValueError("the config has blocks that Stable Diffusion's U-Net does not have; its names are not known")
    keys = _paired(_UNET_ENDS)
    if unet.addition_embed_type is not None:
        keys |= _paired(_UNET_POOLED)
    if unet.num_class_embeds is not None:
        keys["class_embedding.weight"] = "label_emb.weight"
    keys |= _unet_down(unet) | _unet_mid(unet) | _unet_up(unet)
    return {here: UNET + there for here, there in keys.items()}


def autoencoder_keys(config: Mapping[str, Any]) -> dict[str, Source]:
    """Names of an autoencoder's tensors, from the config.json of an AutoencoderKL: diffusers' -> the original's.

    The original's attention is of 1x1 convolutions, diffusers' of matrices.
    """
    channels, layers = list(config["block_out_channels"]), config["layers_per_block"]
    last = len(channels) - 1
    keys = _paired(_QUANT)
    for coder in ("encoder", "decoder"):
        keys |= _paired(_CODER_ENDS, f"{coder}.", f"{coder}.")
        for index in (0, 1):
            there = f"{coder}.mid.block_{index + 1}."
            keys |= _resnet(_CODER_RESNET, f"{coder}.mid_block.resnets.{index}.", there, shortcut=False)
        keys |= _paired(_CODER_ATTENTION, f"{coder}.mid_block.attentions.0.", f"{coder}.mid.attn_1.")
    for level in range(last + 1):
        here, there = f"encoder.down_blocks.{level}.", f"encoder.down.{level}."
        for layer in range(layers):
            widens = layer == 0 and channels[max(level - 1, 0)] != channels[level]
            keys |= _resnet(_CODER_RESNET, f"{here}resnets.{layer}.", f"{there}block.{layer}.", shortcut=widens)
        if level < last:
            keys |= _paired({"downsamplers.0.conv": "downsample.conv"}, here, there)
        here, there = f"decoder.up_blocks.{last - level}.", f"decoder.up.{level}."
        for layer in range(layers + 1):
            narrows = layer == 0 and channels[min(level + 1, last)] != channels[level]
            keys |= _resnet(_CODER_RESNET, f"{here}resnets.{layer}.", f"{there}block.{layer}.", shortcut=narrows)
        if level > 0:
            keys |= _paired({"upsamplers.0.conv": "upsample.conv"}, here, there)
    return {
        here: Source(AUTOENCODER + there, "matrix" if ".attentions." in here else "whole")
        for here, there in keys.items()
    }


def text_keys(config: Mapping[str, Any], place: TextPlace) -> dict[str, Source]:
    """Names of a text encoder's tensors, from the config.json of a CLIPTextModel: transformers' -> the original's.

    open_clip's text_projection is (width, projected), transformers' (projected, width).
    """
    keys = {
        "text_model.embeddings.token_embedding.weight": Source("token_embedding.weight"),
        "text_model.embeddings.position_embedding.weight": Source("positional_embedding"),
    }
    rows = _paired({"text_model.final_layer_norm": "ln_final"})
    for layer in range(config["num_hidden_layers"]):
        here, there = f"text_model.encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        rows |= _paired(_TEXT_LAYER, here, there)
        for part in "qkv":
            for kind in ("weight", "bias"):
                keys[f"{here}self_attn.{part}_proj.{kind}"] = Source(f"{there}attn.in_proj_{kind}", part)
    keys |= {here: Source(there) for here, there in rows.items()}
    if place.projects:
        keys["text_projection.weight"] = Source("text_projection", "transposed")
    if not place.fused:
        return {here: Source(place.prefix + here) for here in keys}
    return {here: Source(place.prefix + key, part) for here, (key, part) in keys.items()}


def _paired(rows: Rows, here: str = "", there: str = "") -> dict[str, str]:
    """The weights and biases of modules under two prefixes."""
    return {f"{here}{a}.{kind}": f"{there}{b}.{kind}" for a, b in rows.items() for kind in ("weight", "bias")}


def _resnet(rows: Rows, here: str, there: str, *, shortcut: bool) -> dict[str, str]:
    return _paired({a: b for a, b in rows.items() if shortcut or a != "conv_shortcut"}, here, there)


def _transformer(here: str, there: str, depth: int) -> dict[str, str]:
    keys = _paired({name: name for name in _TRANSFORMER}, here, there)
    for index in range(depth):
        block = f"transformer_blocks.{index}."
        keys |= _paired({name: name for name in _TRANSFORMER_BLOCK}, here + block, there + block)
        keys |= {f"{here}{block}{name}.weight": f"{there}{block}{name}.weight" for name in _TRANSFORMER_WEIGHTS}
    return keys


def _block_types(unet: UNetConfig) -> tuple[tuple[Mapping[str, Any], tuple[str, ...]], ...]:
    mid = () if unet.mid_block_type is None else (unet.mid_block_type,)
    return (DOWN_KINDS, unet.down_block_types), (MID_KINDS, mid), (UP_KINDS, unet.up_block_types)


def _unet_down(unet: UNetConfig) -> dict[str, str]:
    """input_blocks are counted through all levels: 0 is conv_in, then every layer and every downsampler is one."""
    channels, depths, number = unet.block_out_channels, unet.per_level("transformer_layers_per_block"), 0
    keys: dict[str, str] = {}
    for level, name in enumerate(unet.down_block_types):
        here = f"down_blocks.{level}."
        for layer in range(unet.per_level("layers_per_block")[level]):
            number += 1
            there, widens = f"input_blocks.{number}.", layer == 0 and channels[max(level - 1, 0)] != channels[level]
            keys |= _resnet(_UNET_RESNET, f"{here}resnets.{layer}.", f"{there}0.", shortcut=widens)
            if DOWN_KINDS[name].attention is not None:
                keys |= _transformer(f"{here}attentions.{layer}.", f"{there}1.", depths[level])
        if level < unet.levels - 1:
            number += 1
            keys |= _paired({"downsamplers.0.conv": f"input_blocks.{number}.0.op"}, here)
    return keys


def _unet_mid(unet: UNetConfig) -> dict[str, str]:
    keys = _resnet(_UNET_RESNET, "mid_block.resnets.0.", "middle_block.0.", shortcut=False)
    keys |= _resnet(_UNET_RESNET, "mid_block.resnets.1.", "middle_block.2.", shortcut=False)
    depth = unet.per_level("transformer_layers_per_block")[-1]
    return keys | _transformer("mid_block.attentions.0.", "middle_block.1.", depth)


def _unet_up(unet: UNetConfig) -> dict[str, str]:
    """output_blocks are counted through all levels: every layer is one; an upsampler is a part of its level's last."""
    depths, layers, number = unet.per_level("transformer_layers_per_block"), unet.per_level("layers_per_block"), 0
    keys: dict[str, str] = {}
    for block, name in enumerate(unet.up_block_types):
        here, level, attends = f"up_blocks.{block}.", unet.levels - 1 - block, UP_KINDS[name].attention is not None
        for layer in range(layers[level] + 1):
            there = f"output_blocks.{number}."
            keys |= _resnet(_UNET_RESNET, f"{here}resnets.{layer}.", f"{there}0.", shortcut=True)  # a skip widens it
            if attends:
                keys |= _transformer(f"{here}attentions.{layer}.", f"{there}1.", depths[level])
            if level > 0 and layer == layers[level]:
                keys |= _paired({"upsamplers.0.conv": f"{there}{2 if attends else 1}.conv"}, here)
            number += 1
    return keys
