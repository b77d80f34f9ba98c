"""CLIP's networks (Radford et al. 2021), built by transformers, which is imported when one is.

Of a config.json only the fields named here are read: nothing else in it can choose code, or a kernel to fetch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pydiff._optional import TRANSFORMERS, optional
from pydiff.models.rules import BOOL, COUNT, FACTOR, LAYERS, Rule, divides, named, whole

_SHARED: dict[str, Rule] = {
    "hidden_size": COUNT,
    "intermediate_size": COUNT,
    "projection_dim": COUNT,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": COUNT,
    "hidden_act": named(("quick_gelu", "gelu")),
    "layer_norm_eps": FACTOR,
}
_TEXT: dict[str, Rule] = {
    **_SHARED,
    "vocab_size": COUNT,
    "max_position_embeddings": COUNT,
    "eos_token_id": whole(0, 1 << 20),
    "use_attention_mask": BOOL,
}
_VISION: dict[str, Rule] = {**_SHARED, "num_channels": whole(3, 3), "image_size": whole(1, 1024), "patch_size": COUNT}
_NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def text_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a text network's config.json says of it. Raises ValueError, by name, for fields that fit none."""
    fields = {"max_position_embeddings": 77, **_fields(config, "clip_text_model", _TEXT, (*_NEEDED, "vocab_size"))}
    # transformers warns of its default ids where the vocabulary is smaller; nothing here reads them
    return {**fields, "bos_token_id": None, "pad_token_id": None}


def text_network(config: Mapping[str, Any], projected: bool) -> nn.Module:
    """CLIPTextModel, or CLIPTextModelWithProjection. Raises ValueError as `text_fields` does."""
    kind = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    network = _built(kind, "CLIPTextConfig", text_fields(config))
    return _with_positions(network, inner(network).embeddings, network.config.max_position_embeddings)


def vision_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a vision network's config.json says of it. Raises ValueError, by name, for fields that fit none."""
    return _fields(config, "clip_vision_model", _VISION, (*_NEEDED, "image_size", "patch_size"))


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


def _fields(config: Mapping[str, Any], kind: str, rules: Mapping[str, Rule], needed: tuple[str, ...]) -> dict[str, Any]:
    if config.get("model_type") != kind:
        raise ValueError(f"config.json says model_type {config.get('model_type')!r}; expected {kind!r}")
    missing = [name for name in needed if name not in config]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}")
    fields = {name: config[name] for name in rules if name in config}
    for name, value in fields.items():
        accepts, expected = rules[name]
        if not accepts(value):
            raise ValueError(f"config.json has {name} = {value!r}; expected {expected}")
    heads, width = fields["num_attention_heads"], fields["hidden_size"]
    divides("num_attention_heads", heads, "hidden_size", width)
    if "layer_norm_eps" in fields:  # transformers takes no int there
        fields["layer_norm_eps"] = float(fields["layer_norm_eps"])
    return fields


def _built(network: str, config: str, fields: Mapping[str, Any]) -> Any:
    transformers = optional("transformers", TRANSFORMERS, "a checkpoint with CLIP")
    return getattr(transformers, network)(getattr(transformers, config)(**fields))


def _with_positions(network: nn.Module, embeddings: Any, count: int) -> nn.Module:
    """No checkpoint holds the positions 0, 1, ...; they are made here where the network is built without storage."""
    embeddings.position_ids = torch.arange(count, device="cpu")[None]
    return network
