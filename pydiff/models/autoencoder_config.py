"""The configuration of an autoencoder, as a checkpoint's config.json has it: read, checked, written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydiff.models.rules import (
    BOOL,
    COUNT,
    FACTOR,
    LAYERS,
    MOST_SIDE,
    NUMBER,
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
from pydiff.nn.names import ACTIVATION_NAMES

CLASS_NAME = "AutoencoderKL"


@dataclass(frozen=True)
class AutoencoderConfig:
    """The fields of diffusers' AutoencoderKL, under its names and with its defaults.

    Lists of blocks hold one value per level, `block_out_channels` largest picture first. `sample_size` is the edge of a
    tile in pixels; of a pair, the first number. `act_fn` is of the residual blocks; the output is silu in any case.
    Raises ValueError, naming the field, for values that are not supported or that contradict each other.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, int] = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None  # per latent channel
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderConfig:
        """Read the object of a config.json; fields that start with "_" are diffusers' own and are passed over.

        Raises ValueError for another class of model, an unknown field, or a value that `AutoencoderConfig` refuses.
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
    def factor(self) -> int:
        """Pixels per latent, along each edge."""
        return 1 << (self.levels - 1)

    @property
    def tile_size(self) -> int:
        """Edge of a tile in pixels."""
        return self.sample_size[0] if isinstance(self.sample_size, tuple) else self.sample_size

    def __post_init__(self) -> None:
        check_fields(self, _RULES)
        check_levels(self, ("down_block_types", "up_block_types"))
        check_blocks(self.levels * self.layers_per_block)
        for count in self.block_out_channels:
            divides("norm_num_groups", self.norm_num_groups, "block_out_channels", count)
        self._check_statistics()

    def _check_statistics(self) -> None:
        mean, std = self.latents_mean, self.latents_std
        for name, values in (("latents_mean", mean), ("latents_std", std)):
            if values is not None and len(values) != self.latent_channels:
                raise ValueError(f"{name} has {len(values)} values; expected {self.latent_channels}, one per channel")
        if (mean is None) != (std is None):
            raise ValueError("one of latents_mean and latents_std is given without the other; give both or neither")
        if mean is not None and self.shift_factor is not None:
            raise ValueError("shift_factor is given beside latents_mean; give one of them")


_RULES: dict[str, Rule] = {
    "in_channels": COUNT,
    "out_channels": COUNT,
    "down_block_types": tuple_of(one_of("DownEncoderBlock2D")),
    "up_block_types": tuple_of(one_of("UpDecoderBlock2D")),
    "block_out_channels": tuple_of(COUNT),
    "layers_per_block": LAYERS,
    "act_fn": named(ACTIVATION_NAMES),
    "latent_channels": COUNT,
    "norm_num_groups": COUNT,
    "sample_size": (
        lambda value: value is not None and SIZE[0](value),
        f"a positive int of at most {MOST_SIDE}, or [height, width]",
    ),
    "scaling_factor": FACTOR,
    "shift_factor": optional(NUMBER),
    "latents_mean": optional(tuple_of(NUMBER)),
    "latents_std": optional(tuple_of(FACTOR)),
    "force_upcast": BOOL,
    "use_quant_conv": BOOL,
    "use_post_quant_conv": BOOL,
    "mid_block_add_attention": BOOL,
}
