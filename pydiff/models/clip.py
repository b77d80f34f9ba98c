"""CLIP's networks (Radford et al. 2021), built by transformers, which is imported when one is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pydiff._optional import TRANSFORMERS, optional
from pydiff.models.clip_config import text_fields, vision_fields


def text_network(config: Mapping[str, Any], projected: bool) -> nn.Module:
    """CLIPTextModel, or CLIPTextModelWithProjection. Raises ValueError as `text_fields` does."""
    kind = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    network = _built(kind, "CLIPTextConfig", text_fields(config))
    return _with_positions(network, inner(network).embeddings, network.config.max_position_embeddings)


def vision_network(config: Mapping[str, Any], projected: bool) -> nn.Module:
    """CLIPVisionModel, or CLIPVisionModelWithProjection. Raises ValueError as `vision_fields` does."""
    kind = "CLIPVisionModelWithProjection" if projected else "CLIPVisionModel"
    network = _built(kind, "CLIPVisionConfig", vision_fields(config))
    return _with_positions(network, inner(network).embeddings, inner(network).embeddings.num_positions)


def inner(network: nn.Module) -> Any:
    """The transformer itself: transformers wraps it where a projection follows."""
    return getattr(network, "text_model", getattr(network, "vision_model", network))


def stored_key(name: str, part: str, network: nn.Module) -> str | None:
    """A checkpoint's key in the network, whose part ("text_model", "vision_model") may be wrapped or not; None for what
    is computed."""
    bare = name.removeprefix(f"{part}.")
    if bare == "embeddings.position_ids":
        return None
    wrapped = hasattr(network, part) and not bare.startswith(("text_projection.", "visual_projection."))
    return f"{part}.{bare}" if wrapped else bare


def _built(network: str, config: str, fields: Mapping[str, Any]) -> Any:
    transformers = optional("transformers", TRANSFORMERS, "a checkpoint with CLIP")
    return getattr(transformers, network)(getattr(transformers, config)(**fields))


def _with_positions(network: nn.Module, embeddings: Any, count: int) -> nn.Module:
    """No checkpoint holds the positions 0, 1, ...; they are made here where the network is built without storage."""
    embeddings.position_ids = torch.arange(count, device="cpu")[None]
    return network
