"""Layers of a network as callers name them, and the sizes of what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydiff.models.unet import UNet
from pydiff.models.unet2d import UNet2D
from pydiff.models.unet_config import DOWN_KINDS, UNetConfig
from pydiff.nn.attention import JointAttention, SelfAttention, TextAttention
from pydiff.nn.layer import Layer
from pydiff.tasks.checks import is_list


def looks_at(layer: Layer) -> str | None:
    """What a layer attends to: "pixels", "text", or "text and pixels" in one softmax; None for other layers."""
    if isinstance(layer, SelfAttention):
        return "pixels"
    if isinstance(layer, JointAttention):
        return "text" if layer.only_text else "text and pixels"
    return "text" if isinstance(layer, TextAttention) else None


def attention_layers(network: UNet | UNet2D) -> dict[str, str]:
    """What each layer of attention attends to, by its name, in the order of the network's modules."""
    seen = {name: looks_at(layer) for name, layer in network.layers.items()}
    return {name: what for name, what in seen.items() if what is not None}


def attending(network: UNet | UNet2D, to: str) -> list[str]:
    """The layers that attend to "pixels" or to "text", alone or beside the other."""
    return [name for name, what in attention_layers(network).items() if to in what]


def decoder_blocks(name: str, layers: Sequence[str]) -> list[str]:
    """The up blocks that some of these layers are in, coarse first, such as "up_blocks.1.". Raises ValueError, with the
    option to give, where there are none."""
    blocks = dict.fromkeys(".".join(layer.split(".")[:2]) + "." for layer in layers if layer.startswith("up_blocks."))
    if not blocks:
        raise ValueError(f"in the decoder of this model no layer attends to pixels; name others in {name}")
    return list(blocks)


def named_layers(name: str, patterns: Any, network: UNet, kinds: tuple[type[Layer], ...]) -> list[str]:
    """The layers of some kinds that the patterns name: see `fitting`."""
    return fitting(name, patterns, [layer for layer, module in network.layers.items() if isinstance(module, kinds)])


def fitting(name: str, patterns: Any, known: Sequence[str]) -> list[str]:
    """The known layers that the patterns name: whole names, as the checkpoint's, with * for any characters.
    Raises ValueError, by name, for what is no pattern, and for one that no layer fits."""
    given: Sequence[Any] = [patterns] if isinstance(patterns, str) else patterns if is_list(patterns) else []
    if not given or not all(isinstance(pattern, str) for pattern in given):
        raise ValueError(f"{name} is {patterns!r}; expected a layer's name, or a list of names, with * for any part")
    for pattern in given:
        if not any(fnmatchcase(layer, pattern) for layer in known):
            shown = ", ".join(known[:4])
            raise ValueError(f"{name} has {pattern!r}, which fits no layer; the {len(known)} layers are {shown}, ...")
    return [layer for layer in known if any(fnmatchcase(layer, pattern) for pattern in given)]


def layer_size(name: str, config: UNetConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what a layer computes, in a network whose x has height and width `size`."""
    block, index, *_ = name.split(".")
    height, width = size
    last = config.levels - 1
    level = int(index) if block == "down_blocks" else last - int(index) if block == "up_blocks" else last
    for kind in config.down_block_types[:level]:
        rounded = 0 if DOWN_KINDS[kind].resample == "resnet" or config.downsample_padding == 0 else 1
        height, width = (height + rounded) // 2, (width + rounded) // 2
    return height, width
