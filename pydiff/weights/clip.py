"""The folders of CLIP's networks, as transformers writes them and those before it did."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from pydiff.models.clip import stored_key, text_network, vision_network
from pydiff.models.example import ExampleNetwork, example_key, example_network
from pydiff.weights.network import Network, load_network


def load_clip_text(
    folder: str | os.PathLike[str],
    projected: bool,
    dtype: torch.dtype = torch.float32,
    *,
    variant: str | None = None,
) -> nn.Module:
    """Open a text network's folder, as `load_network` does. projected: with a projection of its pooled state."""
    key = partial(_key, part="text_model")
    return _load(folder, key, lambda config: text_network(config, projected), dtype, variant)


def load_clip_vision(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> nn.Module:
    """Open the folder of a network of pictures and the projection that follows, as `load_network` does."""
    key = partial(_key, part="vision_model")
    return _load(folder, key, lambda config: vision_network(config, projected=True), dtype, variant)


def load_example_network(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> ExampleNetwork:
    """Open the folder of Paint by Example's network of pictures, as `load_network` does."""
    return _load(folder, example_key, example_network, dtype, variant)


def _key(name: str, network: nn.Module, part: str) -> str | None:
    return stored_key(name, part, network)


def _load(
    folder: str | os.PathLike[str],
    key: Callable[[str, Network], str | None],
    make: Callable[[Mapping[str, Any]], Network],
    dtype: torch.dtype,
    variant: str | None,
) -> Network:
    """key: of a stored name and the network, the network's name."""
    made: list[Network] = []

    def build(config: Mapping[str, Any]) -> Network:
        made.append(make(config))
        return made[0]

    return load_network(folder, build, dtype, variant=variant, rename=lambda name: key(name, made[0]))
