"""Layers of a network as callers name them, and the sizes of what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydiff.models.unet import UNet
from pydiff.nn.layer import Layer
from pydiff.tasks.checks import is_list


def named_layers(name: str, patterns: Any, network: UNet, kinds: tuple[type[Layer], ...]) -> list[str]:
    """The layers of some kinds that the patterns name: whole names, as the checkpoint's, with * for any characters.
    Raises ValueError, by name, for what is no pattern, and for one that no layer fits."""
    known = [layer for layer, module in network.layers.items() if isinstance(module, kinds)]
    given: Sequence[Any] = [patterns] if isinstance(patterns, str) else patterns if is_list(patterns) else []
    if not given or not all(isinstance(pattern, str) for pattern in given):
        raise ValueError(f"{name} is {patterns!r}; expected a layer's name, or a list of names, with * for any part")
    for pattern in given:
        if not any(fnmatchcase(layer, pattern) for layer in known):
            shown = ", ".join(known[:4])
            raise ValueError(f"{name} has {pattern!r}, which fits no layer; the {len(known)} layers are {shown}, ...")
    return [layer for layer in known if any(fnmatchcase(layer, pattern) for pattern in given)]


def sides(pixels: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a layer of this many pixels, in a network whose x has height and width `size`."""
    height, width = size
    scale = (height * width / pixels) ** 0.5
    near = range(1, pixels + 1) if pixels < 16 else range(max(1, int(height / scale) - 2), int(height / scale) + 4)
    exact = [(side, pixels // side) for side in near if pixels % side == 0]
    return min(exact, key=lambda pair: abs(pair[0] * scale - height) + abs(pair[1] * scale - width))
