"""The U-Net of pixels: unconditional and class-conditional diffusion, and super-resolution without text.

    x -> conv_in -> down_blocks -> mid_block -> up_blocks -> norm, silu, conv_out -> prediction
                         |______ skips _______^
    t (+ label) -> one vector that every residual block is told

Modules carry the names of the checkpoint's keys (diffusers' UNet2DModel), so state dicts load without a map.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pydiff.models.unet2d_config import DOWN_KINDS, UP_KINDS, UNet2DConfig
from pydiff.models.unet_checks import check_cond, check_input
from pydiff.nn.activations import norm_act
from pydiff.nn.attention import PixelSpec
from pydiff.nn.blocks import BlockSpec, DownBlock, MidBlock, UpBlock
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.embeddings import TimestepEmbedding, sinusoidal
from pydiff.nn.layer import Layered, name_layers
from pydiff.nn.resnet import ResnetSpec

__all__ = ["UNet2D", "UNet2DConfig"]


class UNet2D(Layered):
    """eps, v or x0 (as trained; with 2C channels also the variance) of a noisy picture, without text.

    Ho et al. 2020; Dhariwal and Nichol 2021 (class labels, residual resampling, scale and shift).
    """

    reads_text = False

    def __init__(self, config: UNet2DConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.block_out_channels[0]
        self.conv_in = nn.Conv2d(config.in_channels, channels, 3, padding=1)

        self.time_embedding = TimestepEmbedding(channels, config.embed_dim)
        self.class_embedding = _class_embedding(config)

        self.down_blocks = nn.ModuleList(map(DownBlock, _down_specs(config)))
        self.mid_block: MidBlock | None = None if config.mid_block_type is None else MidBlock(_mid_spec(config))
        self.up_blocks = nn.ModuleList(map(UpBlock, _up_specs(config)))

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels, eps=config.norm_eps)
        self.conv_out = nn.Conv2d(channels, config.out_channels, 3, padding=1)
        self.layers = name_layers(self)

    def forward(self, x: Tensor, t: Tensor, cond: Cond | Prepared) -> Tensor:
        """x (B, C_in, H, W) noisy picture, t (B,) or scalar training step (any number type), cond of the same B.

        Returns (B, C_out, H, W) in x's dtype. H and W may be any size that halves once per level. Raises ValueError for
        other shapes and for what `prepare` refuses.
        """
        prepared = cond if isinstance(cond, Prepared) else self.prepare(cond)
        t = torch.as_tensor(t, device=x.device)
        if not torch.compiler.is_exporting():  # where sizes are symbols
            self.check(x, t, prepared)
        emb = self.time_embedding(self._sinusoidal(t.expand(x.shape[0])))
        emb = emb if prepared.emb is None else emb + prepared.emb

        h = x.to(self.conv_in.weight.dtype)
        h = self.conv_in(2 * h - 1 if self.config.center_input_sample else h)
        skips = [h]
        for down in self.down_blocks:
            h, made = down(h, emb, prepared)
            skips += made
        if self.mid_block is not None:
            h = self.mid_block(h, emb, prepared)
        for up in self.up_blocks:
            h = up(h, emb, prepared, skips)
        out: Tensor = self.conv_out(norm_act(self.conv_norm_out, h, "silu"))
        return out.to(x.dtype)

    def check(self, x: Tensor, t: Tensor, prepared: Prepared) -> None:
        """Raises ValueError unless `forward` can take them."""
        check_input(self.config, x, t, prepared, 0)

    def prepare(self, cond: Cond) -> Prepared:
        """Compute once what does not depend on x and t; `forward` takes the result in place of the Cond.

        cond.labels: (B,) ints with num_class_embeds, (B,) numbers with class_embed_type "timestep", (B, E) vectors with
        "identity", otherwise None. Text and mask are passed over. Raises ValueError for other labels, for `added`, and
        for an edit.
        """
        if not torch.compiler.is_exporting():
            check_cond(self.config, cond, self.reads_text)
        return Prepared(None if cond.labels is None else self._embed_labels(cond.labels), (), None)

    def _sinusoidal(self, t: Tensor) -> Tensor:
        """(B,) -> (B, C) of the first level."""
        config = self.config
        dim = config.block_out_channels[0]
        embedded = sinusoidal(t, dim, cos_first=config.flip_sin_to_cos, freq_shift=config.freq_shift)
        return embedded.to(self.conv_in.weight.dtype)

    def _embed_labels(self, labels: Tensor) -> Tensor:
        """(B,) numbers or classes, or (B, E) vectors -> (B, E)."""
        if self.config.class_embed_type == "timestep":
            labels = self._sinusoidal(labels)
        elif self.config.class_embed_type == "identity":
            labels = labels.to(self.conv_in.weight.dtype)
        assert self.class_embedding is not None
        embedded: Tensor = self.class_embedding(labels)
        return embedded


def _class_embedding(config: UNet2DConfig) -> nn.Module | None:
    match config.class_embed_type:
        case "timestep":
            return TimestepEmbedding(config.block_out_channels[0], config.embed_dim)
        case "identity":
            return nn.Identity()
    return None if config.num_class_embeds is None else nn.Embedding(config.num_class_embeds, config.embed_dim)


def _resnet(config: UNet2DConfig, out_scale: float = 1.0) -> ResnetSpec:
    return ResnetSpec(
        embed_dim=config.embed_dim,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        act=config.act_fn,
        scale_shift=config.resnet_time_scale_shift == "scale_shift",
        out_scale=out_scale,
        dropout=config.dropout,
    )


def _attention(config: UNet2DConfig, channels: int, groups: int | None, out_scale: float = 1.0) -> PixelSpec:
    return PixelSpec(
        heads=channels // (config.attention_head_dim or channels),
        groups=groups,
        eps=config.norm_eps,
        out_scale=out_scale,
    )


def _down_specs(config: UNet2DConfig) -> Iterator[BlockSpec]:
    channels = config.block_out_channels
    for level, name in enumerate(config.down_block_types):
        kind = DOWN_KINDS[name]
        yield BlockSpec(
            in_channels=channels[max(level - 1, 0)],
            out_channels=channels[level],
            layers=config.layers_per_block,
            resnet=_resnet(config),
            attention=_attention(config, channels[level], config.norm_num_groups) if kind.attention else None,
            resample=(kind.resample or config.downsample_type) if level < config.levels - 1 else None,
            padding=config.downsample_padding,
        )


def _mid_spec(config: UNet2DConfig) -> BlockSpec:
    channels, scale = config.block_out_channels[-1], config.mid_block_scale_factor
    return BlockSpec(
        in_channels=channels,
        out_channels=channels,
        layers=2,
        resnet=_resnet(config, scale),
        attention=_attention(config, channels, config.mid_groups, scale) if config.add_attention else None,
    )


def _up_specs(config: UNet2DConfig) -> Iterator[BlockSpec]:
    channels, last = config.block_out_channels, config.levels - 1
    for index, name in enumerate(config.up_block_types):
        kind, level = UP_KINDS[name], last - index
        yield BlockSpec(
            in_channels=channels[min(level + 1, last)],
            out_channels=channels[level],
            layers=config.layers_per_block + 1,
            resnet=_resnet(config),
            attention=_attention(config, channels[level], config.norm_num_groups) if kind.attention else None,
            resample=(kind.resample or config.upsample_type) if level > 0 else None,
            skip_channels=channels[max(level - 1, 0)],
        )
