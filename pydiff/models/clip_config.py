"""The configurations of CLIP's networks, as checkpoints' config.json have them.

Only the fields named here are read: nothing else in a config.json can choose code, or a kernel to fetch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def vision_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a vision network's config.json says of it. Raises ValueError, by name, for fields that fit none."""
    return _fields(config, "clip_vision_model", _VISION, (*_NEEDED, "image_size", "patch_size"))


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
