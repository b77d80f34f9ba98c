"""The configuration of a U-Net, as a checkpoint's config.json has it: read, checked, written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydiff.models.rules import (
    BOOL,
    COUNT,
    DROPOUT,
    FACTOR,
    KERNEL,
    LAYERS,
    MOST_LAYERS,
    SHIFT,
    SIZE,
    Rule,
    check_blocks,
    check_fields,
    check_levels,
    divides,
    named,
    one_of,
    optional,
    per_level,
    read_fields,
    tuple_of,
    whole,
    write_fields,
)
from pydiff.nn.names import ACTIVATION_NAMES, TEXT_NORM_GROUPS

CLASS_NAME = "UNet2DConditionModel"


class Kind(NamedTuple):
    """What a block type means."""

    attention: str | None  # family: None | "separate" | "joint"
    resample: str | None  # how the size changes: None | "conv" | "resnet"


DOWN_KINDS = {
    "DownBlock2D": Kind(None, "conv"),
    "CrossAttnDownBlock2D": Kind("separate", "conv"),
    "ResnetDownsampleBlock2D": Kind(None, "resnet"),
    "SimpleCrossAttnDownBlock2D": Kind("joint", "resnet"),
}
MID_KINDS = {
    "UNetMidBlock2D": Kind(None, None),
    "UNetMidBlock2DCrossAttn": Kind("separate", None),
    "UNetMidBlock2DSimpleCrossAttn": Kind("joint", None),
}
UP_KINDS = {
    "UpBlock2D": Kind(None, "conv"),
    "CrossAttnUpBlock2D": Kind("separate", "conv"),
    "ResnetUpsampleBlock2D": Kind(None, "resnet"),
    "SimpleCrossAttnUpBlock2D": Kind("joint", "resnet"),
}
ADDED_KEYS = {None: (), "text": (), "text_time": ("text_embeds", "time_ids")}  # of Cond.added, by addition_embed_type


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The fields of diffusers' UNet2DConditionModel, under its names and with its defaults.

    `attention_head_dim` is the number of heads in the separate family and the size of a head in the joint one: so it is
    in every published checkpoint. "Per level" fields hold one value or one per level, largest picture first.
    Raises ValueError, naming the field, for values that are not supported or that contradict each other.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 4
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    only_cross_attention: bool | tuple[bool, ...] = False  # per level
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2  # per level
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1
    dropout: float = 0.0
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | tuple[int, ...] = 1280  # per level
    transformer_layers_per_block: int | tuple[int, ...] = 1  # per level
    reverse_transformer_layers_per_block: None = None
    encoder_hid_dim: int | None = None
    encoder_hid_dim_type: str | None = None
    attention_head_dim: int | tuple[int, ...] = 8  # per level
    num_attention_heads: None = None
    dual_cross_attention: bool = False
    use_linear_projection: bool = False
    class_embed_type: str | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    num_class_embeds: int | None = None
    upcast_attention: bool = False  # attention accumulates in float32 either way
    resnet_time_scale_shift: str = "default"
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: float = 1.0
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    time_embedding_act_fn: str | None = None
    timestep_post_act: str | None = None
    time_cond_proj_dim: None = None
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    projection_class_embeddings_input_dim: int | None = None
    attention_type: str = "default"
    class_embeddings_concat: bool = False
    mid_block_only_cross_attention: bool | None = None
    cross_attention_norm: str | None = None
    addition_embed_type_num_heads: int = 64

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """Read the object of a config.json; fields that start with "_" are diffusers' own and are passed over.

        Raises ValueError for another class of model, an unknown field, or a value that `UNetConfig` refuses.
        """
        return cls(**read_fields(values, CLASS_NAME, _RULES))

    def to_dict(self) -> dict[str, Any]:
        """The object of a config.json, which diffusers opens."""
        return write_fields(self, CLASS_NAME)

    @property
    def levels(self) -> int:
        """How many sizes of picture the network works at."""
        return len(self.block_out_channels)

    def per_level(self, name: str) -> tuple[Any, ...]:
        """A per-level field, one value per level."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,) * self.levels

    @property
    def embed_dim(self) -> int:
        """Width of the embedding of t."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def labels_dim(self) -> int | None:
        """Width of the labels that the network is given; None for one number per picture."""
        narrow = {None: None, "timestep": None, "identity": self.embed_dim}
        return narrow.get(self.class_embed_type, self.projection_class_embeddings_input_dim)

    @property
    def text_dim(self) -> int:
        """Width of the encoder states that the network is given."""
        return self.encoder_hid_dim or self.per_level("cross_attention_dim")[0]

    def __post_init__(self) -> None:
        check_fields(self, _RULES)
        check_levels(self, ("down_block_types", "up_block_types", *_PER_LEVEL))
        layers, depths = self.per_level("layers_per_block"), self.per_level("transformer_layers_per_block")
        check_blocks(sum(count * max(1, depth) for count, depth in zip(layers, depths, strict=True)))
        self._check_channels()
        self._check_embeddings()

    def _check_channels(self) -> None:
        channels, heads, widths = (
            self.block_out_channels, self.per_level("attention_head_dim"), self.per_level("cross_attention_dim")
        )  # fmt: skip
        for count in channels:
            divides("norm_num_groups", self.norm_num_groups, "block_out_channels", count)
        places = [(DOWN_KINDS[kind], channels[i], heads[i], widths[i]) for i, kind in enumerate(self.down_block_types)]
        if self.mid_block_type is not None:
            places.append((MID_KINDS[self.mid_block_type], channels[-1], heads[-1], widths[-1]))
        for i, kind in enumerate(self.up_block_types):
            known = UP_KINDS[kind]  # joint blocks on the way up take head sizes in the order of the way down
            places.append((known, channels[-1 - i], heads[i if known.attention == "joint" else -1 - i], widths[-1 - i]))
        for known, count, head, width in places:
            if known.attention is not None:
                divides("attention_head_dim", head, "block_out_channels", count)
            if known.attention == "joint" and self.cross_attention_norm == "group_norm":
                divides("the 32 groups of cross_attention_norm", TEXT_NORM_GROUPS, "cross_attention_dim", width)
            if known.attention == "joint" and self.cross_attention_norm == "layer_norm" and width != count:
                raise ValueError(
                    f"cross_attention_norm is 'layer_norm' with {count} channels and cross_attention_dim {width}; "
                    "expected equal numbers"
                )

    def _check_embeddings(self) -> None:
        if self.encoder_hid_dim_type is not None and self.encoder_hid_dim is None:
            raise ValueError(f"encoder_hid_dim_type is {self.encoder_hid_dim_type!r}, but encoder_hid_dim is missing")
        if len(set(self.per_level("cross_attention_dim"))) > 1:
            raise ValueError(f"cross_attention_dim is {self.cross_attention_dim}; expected one width for every level")
        if self.class_embed_type is not None and self.num_class_embeds is not None:
            raise ValueError(f"num_class_embeds is given beside class_embed_type {self.class_embed_type!r}; give one")
        needs = {"class_embed_type": ("projection", "simple_projection"), "addition_embed_type": ("text_time",)}
        for name, values in needs.items():
            if getattr(self, name) in values and self.projection_class_embeddings_input_dim is None:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give projection_class_embeddings_input_dim")
        if self.addition_embed_type == "text_time" and self.addition_time_embed_dim is None:
            raise ValueError("addition_embed_type is 'text_time'; give addition_time_embed_dim")
        if self.addition_embed_type == "text":
            heads = self.addition_embed_type_num_heads
            divides("addition_embed_type_num_heads", heads, "the width of the text", self.text_dim)


_PER_LEVEL: dict[str, Rule] = {
    "only_cross_attention": BOOL,
    "layers_per_block": LAYERS,
    "cross_attention_dim": COUNT,
    "attention_head_dim": COUNT,
    "transformer_layers_per_block": whole(0, MOST_LAYERS),
}
_RULES: dict[str, Rule] = {name: per_level(rule) for name, rule in _PER_LEVEL.items()} | {
    "sample_size": SIZE,
    "in_channels": COUNT,
    "out_channels": COUNT,
    "center_input_sample": BOOL,
    "flip_sin_to_cos": BOOL,
    "freq_shift": SHIFT,
    "down_block_types": tuple_of(named(DOWN_KINDS)),
    "mid_block_type": optional(named(MID_KINDS)),
    "up_block_types": tuple_of(named(UP_KINDS)),
    "block_out_channels": tuple_of(COUNT),
    "downsample_padding": one_of(0, 1),
    "mid_block_scale_factor": FACTOR,
    "dropout": DROPOUT,
    "act_fn": named(ACTIVATION_NAMES),
    "norm_num_groups": COUNT,
    "norm_eps": FACTOR,
    "reverse_transformer_layers_per_block": one_of(None),
    "encoder_hid_dim": optional(COUNT),
    "encoder_hid_dim_type": one_of(None, "text_proj"),
    "num_attention_heads": one_of(None),
    "dual_cross_attention": one_of(False),
    "use_linear_projection": BOOL,
    "class_embed_type": one_of(None, "timestep", "identity", "projection", "simple_projection"),
    "addition_embed_type": one_of(*ADDED_KEYS),
    "addition_time_embed_dim": optional(COUNT),
    "num_class_embeds": optional(COUNT),
    "upcast_attention": BOOL,
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "resnet_skip_time_act": BOOL,
    "resnet_out_scale_factor": FACTOR,
    "time_embedding_type": one_of("positional"),
    "time_embedding_dim": optional(COUNT),
    "time_embedding_act_fn": optional(named(ACTIVATION_NAMES)),
    "timestep_post_act": optional(named(ACTIVATION_NAMES)),
    "time_cond_proj_dim": one_of(None),
    "conv_in_kernel": KERNEL,
    "conv_out_kernel": KERNEL,
    "projection_class_embeddings_input_dim": optional(COUNT),
    "attention_type": one_of("default"),
    "class_embeddings_concat": one_of(False),
    "mid_block_only_cross_attention": optional(BOOL),
    "cross_attention_norm": one_of(None, "group_norm", "layer_norm"),
    "addition_embed_type_num_heads": COUNT,
}
