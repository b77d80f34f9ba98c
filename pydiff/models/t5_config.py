"""The configuration of a T5 encoder, as a checkpoint's config.json has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass
from typing import Any

from pydiff.models.rules import COUNT, FACTOR, LAYERS, Rule, check_fields, whole

ACTIVATION_NAMES = ("relu", "gelu_new", "gelu", "silu")


@dataclass(frozen=True)
class T5Config:
    """The fields of transformers' T5Config that decide what the encoder computes. ValueError names one that does not
    fit."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    feed_forward_proj: str = "relu"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> T5Config:
        """From a checkpoint's config.json; other fields do not matter here. ValueError names what does not fit."""
        kind = config.get("model_type")
        if kind != "t5":
            raise ValueError(f"the text encoder's config.json says model_type {kind!r}; expected 't5'")
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        missing = [
            field.name for field in dataclasses.fields(cls) if field.name not in config and field.default is REQUIRED
        ]
        if missing:
            raise ValueError(f"the text encoder's config.json lacks {', '.join(missing)}")
        return cls(**fields)

    def __post_init__(self) -> None:
        check_fields(self, _RULES)
        if self.activation not in ACTIVATION_NAMES:
            known = ", ".join(ACTIVATION_NAMES)
            raise ValueError(f"feed_forward_proj is {self.feed_forward_proj!r}; expected one of {known}, or gated-")
        exact = self.relative_attention_num_buckets // 4
        if self.relative_attention_max_distance <= exact:
            raise ValueError(
                f"relative_attention_max_distance is {self.relative_attention_max_distance}; expected more than the "
                f"{exact} that relative_attention_num_buckets has for single distances"
            )

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        """Its name, of ACTIVATION_NAMES."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else name


_RULES: dict[str, Rule] = {
    "vocab_size": COUNT,
    "d_model": COUNT,
    "d_kv": COUNT,
    "d_ff": COUNT,
    "num_layers": LAYERS,
    "num_heads": COUNT,
    "feed_forward_proj": (lambda value: isinstance(value, str), "a name"),
    "relative_attention_num_buckets": whole(4, 1 << 20),
    "relative_attention_max_distance": COUNT,
    "layer_norm_epsilon": FACTOR,
}
