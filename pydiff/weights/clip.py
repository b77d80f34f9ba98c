"""The folders of CLIP's networks, as transformers writes them and those before it did."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pydiff.models.clip import stored_key, text_network, vision_network
from pydiff.weights.network import load_network


def load_clip_text(
    folder: str | os.PathLike[str],
    projected: bool,
    dtype: torch.dtype = torch.float32,
    *,
    variant: str | None = None,
) -> nn.Module:
    """Open a text network's folder, as `load_network` does. projected: with a projection of its pooled state."""
    return _load(folder, "text_model", lambda config: text_network(config, projected), dtype, variant)


def load_clip_vision(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> nn.Module:
    """Open the folder of a network of pictures and the projection that follows, as `load_network` does."""
    return _load(folder, "vision_model", vision_network, dtype, variant)


def _load(
    folder: str | os.PathLike[str],
    part: str,
    make: Callable[[Mapping[str, Any]], nn.Module],
    dtype: torch.dtype,
    variant: str | None,
) -> nn.Module:
    made: list[nn.Module] = []

    def build(config: Mapping[str, Any]) -> nn.Module:
        made.append(make(config))
        return made[0]

    return load_network(folder, build, dtype, variant=variant, rename=lambda name: stored_key(name, part, made[0]))
