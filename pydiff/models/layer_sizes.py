"""The sizes of what the layers of a U-Net compute."""

from __future__ import annotations

from pydiff.models.unet_config import DOWN_KINDS, UNetConfig


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
