"""The configuration of a U-Net of pixels, as a checkpoint's config.json has it: read, checked, written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydiff.models.rules import (
    BOOL,
    COUNT,
    DROPOUT,
    FACTOR,
    LAYERS,
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
    read_fields,
    tuple_of,
    write_fields,
)
from pydiff.models.unet_config import Kind
from pydiff.nn.names import ACTIVATION_NAMES

CLASS_NAME = "UNet2DModel"

DOWN_KINDS = {
    "DownBlock2D": Kind(None, "conv"),
    "AttnDownBlock2D": Kind("pixel", None),  # changes the size as downsample_type says
    "ResnetDownsampleBlock2D": Kind(None, "resnet"),
}
UP_KINDS = {
    "UpBlock2D": Kind(None, "conv"),
    "AttnUpBlock2D": Kind("pixel", None),  # changes the size as upsample_type says
    "ResnetUpsampleBlock2D": Kind(None, "resnet"),
}


@dataclass(frozen=True)
class UNet2DConfig:
    """The fields of diffusers' UNet2DModel, under its names and with its defaults.

    `attention_head_dim` is the size of a head; None is one head as wide as the level. Lists hold one value per level,
    largest picture first (up_block_types: smallest first). `act_fn` is of the residual blocks; the embeddings and the
    output are silu in every checkpoint.
    Raises ValueError, naming the field, for values that are not supported or that contradict each other.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D",) + ("AttnDownBlock2D",) * 3
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D",) * 3 + ("UpBlock2D",)
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None  # of a learned embedding of t

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNet2DConfig:
        """Read the object of a config.json; fields that start with "_" are diffusers' own and are passed over.

        Raises ValueError for another class of model, an unknown field, or a value that `UNet2DConfig` refuses.
        """
        return cls(**read_fields(values, CLASS_NAME, _RULES))

    def to_dict(self) -> dict[str, Any]:
        """The object of a config.json, which diffusers opens."""
        return write_fields(self, CLASS_NAME)

    @property
    def levels(self) -> int:
        """How many sizes of picture the network works at."""
        return len(self.block_out_channels)

    @property
    def embed_dim(self) -> int:
        """Width of the embedding of t."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def labels_dim(self) -> int | None:
        """Width of the labels that the network is given; None for one number per picture."""
        return self.embed_dim if self.class_embed_type == "identity" else None

    @property
    def mid_attends(self) -> bool:
        """Whether the middle block holds attention."""
        return self.mid_block_type is not None and self.add_attention

    @property
    def mid_groups(self) -> int | None:
        """Groups of the norm before the middle block's attention; None = no norm, as scale_shift has it."""
        if self.attn_norm_num_groups is None and self.resnet_time_scale_shift == "default":
            return self.norm_num_groups
        return self.attn_norm_num_groups

    def __post_init__(self) -> None:
        check_fields(self, _RULES)
        check_levels(self, ("down_block_types", "up_block_types"))
        check_blocks(self.levels * self.layers_per_block)
        channels = self.block_out_channels
        for count in channels:
            divides("norm_num_groups", self.norm_num_groups, "block_out_channels", count)
        places = [channels[i] for i, name in enumerate(self.down_block_types) if DOWN_KINDS[name].attention]
        places += [channels[-1 - i] for i, name in enumerate(self.up_block_types) if UP_KINDS[name].attention]
        for count in places + [channels[-1]] * self.mid_attends:
            divides("attention_head_dim", self.attention_head_dim or count, "block_out_channels", count)
        if self.mid_attends:
            divides("attn_norm_num_groups", self.mid_groups or 1, "block_out_channels", channels[-1])
        if self.class_embed_type is not None and self.num_class_embeds is not None:
            raise ValueError(f"num_class_embeds is given beside class_embed_type {self.class_embed_type!r}; give one")


_RULES: dict[str, Rule] = {
    "sample_size": SIZE,
    "in_channels": COUNT,
    "out_channels": COUNT,
    "center_input_sample": BOOL,
    "time_embedding_type": one_of("positional"),
    "time_embedding_dim": optional(COUNT),
    "freq_shift": SHIFT,
    "flip_sin_to_cos": BOOL,
    "down_block_types": tuple_of(named(DOWN_KINDS)),
    "mid_block_type": one_of(None, "UNetMidBlock2D"),
    "up_block_types": tuple_of(named(UP_KINDS)),
    "block_out_channels": tuple_of(COUNT),
    "layers_per_block": LAYERS,
    "mid_block_scale_factor": FACTOR,
    "downsample_padding": one_of(0, 1),
    "downsample_type": one_of("conv", "resnet"),
    "upsample_type": one_of("conv", "resnet"),
    "dropout": DROPOUT,
    "act_fn": named(ACTIVATION_NAMES),
    "attention_head_dim": optional(COUNT),
    "norm_num_groups": COUNT,
    "attn_norm_num_groups": optional(COUNT),
    "norm_eps": FACTOR,
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "add_attention": BOOL,
    "class_embed_type": one_of(None, "timestep", "identity"),
    "num_class_embeds": optional(COUNT),
    "num_train_timesteps": optional(COUNT),
}
