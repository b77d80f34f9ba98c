"""The U-Net of Stable Diffusion and DeepFloyd IF: one network, whose levels a configuration names.

    x -> conv_in -> down_blocks -> mid_block -> up_blocks -> norm, act, conv_out -> prediction
                         |______ skips _______^
    t (+ labels, pooled text) -> one vector that every residual block is told;  text -> keys and values of attention

Modules carry the names of the checkpoint's keys (diffusers' UNet2DConditionModel), so state dicts load without a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pydiff.models.unet_checks import check_cond, check_input
from pydiff.models.unet_config import DOWN_KINDS, MID_KINDS, UP_KINDS, Kind, UNetConfig
from pydiff.nn.activations import ACTIVATIONS, norm_act
from pydiff.nn.attention import AttentionSpec, TextLayer
from pydiff.nn.blocks import BlockSpec, DownBlock, MidBlock, UpBlock
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.embeddings import TextTimeEmbedding, TimestepEmbedding, sinusoidal
from pydiff.nn.layer import Layered, name_layers
from pydiff.nn.resnet import ResnetSpec

__all__ = ["UNet", "UNetConfig"]

_MASKED = -10000.0  # score bias of a token that is not attended to


class UNet(Layered):
    """eps, v or x0 (as trained; with 2C channels also the variance) of a noisy picture.

    Ronneberger et al. 2015; Ho et al. 2020; Rombach et al. 2022 (separate attention); Saharia et al. 2022 (joint).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, edges = config.block_out_channels[0], (config.conv_in_kernel // 2, config.conv_out_kernel // 2)
        self.conv_in = nn.Conv2d(config.in_channels, channels, config.conv_in_kernel, padding=edges[0])

        self.time_embedding = TimestepEmbedding(channels, config.embed_dim, config.act_fn, config.timestep_post_act)
        self.class_embedding = _class_embedding(config)
        self.add_embedding = _add_embedding(config)
        self.encoder_hid_proj: nn.Linear | None = None
        if config.encoder_hid_dim is not None:
            self.encoder_hid_proj = nn.Linear(config.encoder_hid_dim, config.per_level("cross_attention_dim")[0])

        mid = _mid_spec(config)
        self.down_blocks = nn.ModuleList(map(DownBlock, _down_specs(config)))
        self.mid_block: MidBlock | None = None if mid is None else MidBlock(mid)
        self.up_blocks = nn.ModuleList(map(UpBlock, _up_specs(config)))

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels, eps=config.norm_eps)
        self.conv_out = nn.Conv2d(channels, config.out_channels, config.conv_out_kernel, padding=edges[1])

        self.text_layers = [layer for layer in self.modules() if isinstance(layer, TextLayer)]
        for index, layer in enumerate(self.text_layers):
            layer.layer = index
        self.layers = name_layers(self)
        self.reads_text = bool(self.text_layers) or config.addition_embed_type == "text"

    def forward(self, x: Tensor, t: Tensor, cond: Cond | Prepared) -> Tensor:
        """x (B, C_in, H, W) noisy picture, t (B,) or scalar training step (any number type), cond of the same B.

        Returns (B, C_out, H, W) in x's dtype. H and W may be any size that halves once per level. Raises ValueError for
        other shapes and for what `prepare` refuses.
        """
        return self.reusing(x, t, cond, None)[0]

    def reusing(self, x: Tensor, t: Tensor, cond: Cond | Prepared, deep: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same, and what came up to the outermost level, (B, C, H, W); deep: that of another call, in whose place
        it stands, so that the outermost level alone runs. See `pydiff.step_cache`."""
        config = self.config
        prepared = cond if isinstance(cond, Prepared) else self.prepare(cond)
        t = torch.as_tensor(t, device=x.device)
        if not torch.compiler.is_exporting():  # where sizes are symbols
            self.check(x, t, prepared)
        emb = self.embed(t.expand(x.shape[0]), prepared)

        h = x.to(self.conv_in.weight.dtype)
        h = self.conv_in(2 * h - 1 if config.center_input_sample else h)
        skips = [h]
        if deep is None:
            deep = self._inner(h, emb, prepared, skips)
        else:
            skips += self.down_blocks[0].of_this_size(h, emb, prepared)  # type: ignore[operator]
        h = self.up_blocks[-1](deep, emb, prepared, skips)
        out: Tensor = self.conv_out(norm_act(self.conv_norm_out, h, config.act_fn))
        return out.to(x.dtype), deep

    def _inner(self, h: Tensor, emb: Tensor, prepared: Prepared, skips: list[Tensor]) -> Tensor:
        """All the way down and up but for the outermost level's way up, which takes the skips that are left."""
        for down in self.down_blocks:
            h, made = down(h, emb, prepared)
            skips += made
        if self.mid_block is not None:
            h = self.mid_block(h, emb, prepared)
        for up in self.up_blocks[:-1]:
            h = up(h, emb, prepared, skips)
        return h

    def check(self, x: Tensor, t: Tensor, prepared: Prepared) -> None:
        """Raises ValueError unless `forward` can take them."""
        check_input(self.config, x, t, prepared, len(self.text_layers))

    def embed(self, t: Tensor, prepared: Prepared) -> Tensor:
        """What every residual block is told: t (B,) and what does not depend on it -> (B, E)."""
        config = self.config
        emb: Tensor = self.time_embedding(self.times(t))
        added = self.told(prepared)
        emb = emb if added is None else emb + added
        if config.time_embedding_act_fn is not None:
            emb = ACTIVATIONS[config.time_embedding_act_fn](emb)
        return emb

    def prepare(self, cond: Cond) -> Prepared:
        """Compute once what does not depend on x and t; `forward` takes the result in place of the Cond.

        Text is passed over by a network that reads none. Raises ValueError for a part of the Cond that is missing, of
        another shape, or that this network cannot use.
        """
        if not torch.compiler.is_exporting():
            check_cond(self.config, cond, self.reads_text)
        dtype = self.conv_in.weight.dtype
        text = cond.text.to(dtype) if cond.text is not None and self.reads_text else None
        emb = None if cond.labels is None else self._embed_labels(cond.labels)
        if self.add_embedding is not None:
            pooled = self._embed_added(cond.added or {}, text)
            emb = pooled if emb is None else emb + pooled
        keys: tuple[tuple[Tensor, Tensor], ...] = ()
        if text is not None and self.text_layers:
            text = text if self.encoder_hid_proj is None else self.encoder_hid_proj(text)
            keys = tuple(layer.text_keys(text) for layer in self.text_layers)
        bias = None
        if cond.mask is not None and self.text_layers:
            bias = ((1 - cond.mask.to(dtype)) * _MASKED)[:, None, None, :]
        return Prepared(emb, keys, bias, cond.edit)

    def times(self, t: Tensor) -> Tensor:
        """Sines and cosines (B, C) of t (B,)."""
        return self._sinusoidal(t, self.config.block_out_channels[0])

    def told(self, prepared: Prepared) -> Tensor | None:
        """What is added to the embedding of t (B, E): each row's own, or that of the row that an edit names."""
        rows = None if prepared.edit is None else prepared.edit.pooled
        return prepared.emb if rows is None or prepared.emb is None else prepared.emb[rows]

    def _sinusoidal(self, t: Tensor, dim: int) -> Tensor:
        config = self.config
        embedded = sinusoidal(t, dim, cos_first=config.flip_sin_to_cos, freq_shift=config.freq_shift)
        return embedded.to(self.conv_in.weight.dtype)

    def _embed_labels(self, labels: Tensor) -> Tensor:
        """(B,) levels or classes, or (B, D) vectors -> (B, E)."""
        if self.config.class_embed_type == "timestep":
            labels = self.times(labels)
        elif self.config.class_embed_type is not None:
            labels = labels.to(self.conv_in.weight.dtype)
        assert self.class_embedding is not None
        embedded: Tensor = self.class_embedding(labels)
        return embedded

    def _embed_added(self, added: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        """The pooled text of IF, or the pooled text and the sizes of Stable Diffusion XL -> (B, E)."""
        assert self.add_embedding is not None
        if self.config.addition_embed_type == "text":
            vector = text
        else:
            dim, ids = self.config.addition_time_embed_dim or 0, added["time_ids"]
            times = self._sinusoidal(ids.flatten(), dim).reshape(ids.shape[0], -1)
            vector = torch.cat([added["text_embeds"].to(times.dtype), times], dim=-1)
        embedded: Tensor = self.add_embedding(vector)
        return embedded


def _class_embedding(config: UNetConfig) -> nn.Module | None:
    width = config.projection_class_embeddings_input_dim or 0
    match config.class_embed_type:
        case "timestep":
            return TimestepEmbedding(config.block_out_channels[0], config.embed_dim, config.act_fn)
        case "identity":
            return nn.Identity()
        case "projection":
            return TimestepEmbedding(width, config.embed_dim)
        case "simple_projection":
            return nn.Linear(width, config.embed_dim)
    return None if config.num_class_embeds is None else nn.Embedding(config.num_class_embeds, config.embed_dim)


def _add_embedding(config: UNetConfig) -> nn.Module | None:
    if config.addition_embed_type == "text":
        return TextTimeEmbedding(config.text_dim, config.embed_dim, config.addition_embed_type_num_heads)
    if config.addition_embed_type == "text_time":
        return TimestepEmbedding(config.projection_class_embeddings_input_dim or 0, config.embed_dim)
    return None


def _resnet(config: UNetConfig, skip_embed_act: bool, out_scale: float) -> ResnetSpec:
    return ResnetSpec(
        embed_dim=config.embed_dim,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        act=config.act_fn,
        scale_shift=config.resnet_time_scale_shift == "scale_shift",
        skip_embed_act=skip_embed_act,
        out_scale=out_scale,
        dropout=config.dropout,
    )


def _level_resnet(config: UNetConfig, kind: Kind) -> ResnetSpec:
    if kind.resample == "resnet":
        return _resnet(config, config.resnet_skip_time_act, config.resnet_out_scale_factor)
    return _resnet(config, False, 1.0)


def _attention(config: UNetConfig, kind: Kind, level: int, only_text: bool, head_level: int) -> AttentionSpec | None:
    if kind.attention is None:
        return None
    head = config.per_level("attention_head_dim")[head_level]  # separate: how many heads; joint: the size of one
    return AttentionSpec(
        family=kind.attention,
        heads=head if kind.attention == "separate" else config.block_out_channels[level] // head,
        text_dim=config.per_level("cross_attention_dim")[level],
        groups=config.norm_num_groups,
        only_text=only_text,
        depth=config.per_level("transformer_layers_per_block")[level],
        linear_projection=config.use_linear_projection,
        text_norm=config.cross_attention_norm,
    )


def _down_specs(config: UNetConfig) -> Iterator[BlockSpec]:
    channels, only_text = config.block_out_channels, config.per_level("only_cross_attention")
    for level, name in enumerate(config.down_block_types):
        kind = DOWN_KINDS[name]
        yield BlockSpec(
            in_channels=channels[max(level - 1, 0)],
            out_channels=channels[level],
            layers=config.per_level("layers_per_block")[level],
            resnet=_level_resnet(config, kind),
            attention=_attention(config, kind, level, only_text[level], level),
            resample=kind.resample if level < config.levels - 1 else None,
            padding=config.downsample_padding,
        )


def _mid_spec(config: UNetConfig) -> BlockSpec | None:
    if config.mid_block_type is None:
        return None
    kind, channels, last = MID_KINDS[config.mid_block_type], config.block_out_channels[-1], config.levels - 1
    joint = kind.attention == "joint"
    only_text = config.mid_block_only_cross_attention
    if only_text is None:
        only_text = config.only_cross_attention is True
    return BlockSpec(
        in_channels=channels,
        out_channels=channels,
        layers=2 if kind.attention else 1,
        resnet=_resnet(config, joint and config.resnet_skip_time_act, config.mid_block_scale_factor),
        attention=_attention(config, kind, last, joint and only_text, last),
    )


def _up_specs(config: UNetConfig) -> Iterator[BlockSpec]:
    channels, only_text = config.block_out_channels, config.per_level("only_cross_attention")
    last = config.levels - 1
    for index, name in enumerate(config.up_block_types):
        kind, level = UP_KINDS[name], last - index
        yield BlockSpec(
            in_channels=channels[min(level + 1, last)],
            out_channels=channels[level],
            layers=config.per_level("layers_per_block")[level] + 1,
            resnet=_level_resnet(config, kind),
            attention=_attention(config, kind, level, only_text[level], index if kind.attention == "joint" else level),
            resample=kind.resample if level > 0 else None,
            skip_channels=channels[max(level - 1, 0)],
        )
