"""Layers of a network as callers name them, and the sizes of what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydiff.arrays import is_torch
from pydiff.networks import Denoiser, UnexportedError
from pydiff.tasks.checks import is_list


def check_open(network: Denoiser, option: str) -> None:
    """Raise UnexportedError, by the option's name, for a network whose attention is closed to it: an exported graph has
    inputs for tables and probes alone."""
    if not is_torch(network.like):
        raise UnexportedError(f"{option} is not in an exported model; open the folder that it was exported from")


def check_unmerged(merge_tokens: float, given: str) -> None:
    """Raise ValueError where tokens are merged in a stage whose attention is edited or captured: that is of pixels that
    are no longer there."""
    if merge_tokens:
        raise ValueError(f"merge_tokens is {merge_tokens}, but {given}; leave one of them out")


def attending(network: Denoiser, to: str) -> list[str]:
    """The layers that attend to "pixels" or to "text", alone or beside the other."""
    return [name for name, what in network.attention.items() if to in what]


def decoder_blocks(name: str, layers: Sequence[str]) -> list[str]:
    """The up blocks that some of these layers are in, coarse first, such as "up_blocks.1.". Raises ValueError, with the
    option to give, where there are none."""
    blocks = dict.fromkeys(".".join(layer.split(".")[:2]) + "." for layer in layers if layer.startswith("up_blocks."))
    if not blocks:
        raise ValueError(f"in the decoder of this model no layer attends to pixels; name others in {name}")
    return list(blocks)


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
