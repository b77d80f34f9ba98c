"""Attention of pixels to pixels and to text, in two families.

Separate (Stable Diffusion): a transformer block attends to the pixels, then to the text. Joint (Imagen, DeepFloyd IF):
the keys of text and pixels stand in one softmax, text first. Networks that read no text attend to pixels alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pydiff.nn.activations import norm_act
from pydiff.nn.attend import attend_pixels, attend_text
from pydiff.nn.cond import Prepared
from pydiff.nn.layer import Layer
from pydiff.nn.merge import left, match
from pydiff.nn.names import TEXT_NORM_GROUPS


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads d) -> (B, heads, N, d)."""
    return x.view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads d)."""
    return x.transpose(1, 2).flatten(2)


class AttentionSpec(NamedTuple):
    """The attention of one level."""

    family: str  # "separate" | "joint"
    heads: int
    text_dim: int
    groups: int
    only_text: bool  # attend to text where pixels would attend to pixels
    depth: int = 1  # separate: transformer blocks per layer
    linear_projection: bool = False  # separate: projections are stored as matrices, not as 1x1 convolutions
    text_norm: str | None = None  # joint: None | "group_norm" | "layer_norm" over the text states


class PixelSpec(NamedTuple):
    """The attention of one level that reads no text."""

    heads: int
    groups: int | None  # of its norm; None = no norm
    eps: float
    out_scale: float = 1.0  # the sum is divided by it


def over_left(
    layer: Layer, attend: Callable[[Tensor, Prepared], Tensor], x: Tensor, size: tuple[int, int], cond: Prepared
) -> Tensor:
    """What a layer's `attend` makes of x (B, N, C), pictures of this height and width: where the layer merges, of the
    pixels that are left, copied to those that they stand for."""
    count = left(size, cond.merge) if layer.merges and cond.merge else x.shape[1]
    if count == x.shape[1]:
        return attend(x, cond)
    matches = match(x, size, count)
    return matches.unmerged(attend(matches.merged(x), cond))


class TextLayer(Layer):
    """A layer that reads text. `layer` is its place in `Prepared.text`, given by the network that holds it."""

    layer = 0
    heads: int

    def text_keys(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, T, d) of text (B, T, text_dim)."""
        raise NotImplementedError


class SelfAttention(Layer):
    """Pixels attend to pixels: (B, N, C) -> (B, N, C)."""

    attends = "pixels"

    def __init__(self, channels: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(channels, channels, bias=bias)
        self.to_v = nn.Linear(channels, channels, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, cond: Prepared) -> Tensor:
        q, k, v = (split_heads(project(x), self.heads) for project in (self.to_q, self.to_k, self.to_v))
        h = attend_pixels(q, k, v, cond.edit, self.name)
        out: Tensor = self.to_out[0](merge_heads(h))
        return out


class PixelAttention(SelfAttention):
    """(x + pixels attending to pixels, normalised) / out_scale: (B, C, H, W) -> (B, C, H, W) (Ho et al. 2020)."""

    def __init__(self, channels: int, spec: PixelSpec) -> None:
        super().__init__(channels, spec.heads, bias=True)
        self.out_scale = spec.out_scale
        self.group_norm = None if spec.groups is None else nn.GroupNorm(spec.groups, channels, eps=spec.eps)

    def forward(self, x: Tensor, cond: Prepared) -> Tensor:
        h = x if self.group_norm is None else norm_act(self.group_norm, x, None)
        h = h.flatten(2).mT.contiguous()  # (B, N, C)
        out = x + over_left(self, super().forward, h, (x.shape[2], x.shape[3]), cond).mT.reshape(x.shape)
        return out if self.out_scale == 1 else out / self.out_scale


class TextAttention(TextLayer):
    """Pixels attend to text: (B, N, C) -> (B, N, C)."""

    attends = "text"

    def __init__(self, channels: int, heads: int, text_dim: int, masked: bool = True) -> None:
        super().__init__()
        self.heads, self.masked = heads, masked
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(text_dim, channels, bias=False)
        self.to_v = nn.Linear(text_dim, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def text_keys(self, text: Tensor) -> tuple[Tensor, Tensor]:
        return split_heads(self.to_k(text), self.heads), split_heads(self.to_v(text), self.heads)

    def forward(self, x: Tensor, cond: Prepared) -> Tensor:
        q, bias = split_heads(self.to_q(x), self.heads), cond.bias if self.masked else None
        out: Tensor = self.to_out[0](merge_heads(attend_text(q, *cond.text[self.layer], bias, cond.edit, self.name)))
        return out


class JointAttention(TextLayer):
    """x + pixels attending to text and pixels in one softmax, text keys first: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, spec: AttentionSpec) -> None:
        super().__init__()
        self.heads, self.only_text = spec.heads, spec.only_text
        self.attends = "text" if spec.only_text else "text and pixels"
        self.group_norm = nn.GroupNorm(spec.groups, channels, eps=1e-5)
        self.norm_cross: nn.GroupNorm | nn.LayerNorm | None = None
        if spec.text_norm == "group_norm":
            self.norm_cross = nn.GroupNorm(TEXT_NORM_GROUPS, spec.text_dim, eps=1e-5)
        elif spec.text_norm == "layer_norm":
            self.norm_cross = nn.LayerNorm(spec.text_dim)
        self.to_q = nn.Linear(channels, channels)
        if not spec.only_text:
            self.to_k = nn.Linear(channels, channels)
            self.to_v = nn.Linear(channels, channels)
        self.add_k_proj = nn.Linear(spec.text_dim, channels)
        self.add_v_proj = nn.Linear(spec.text_dim, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def text_keys(self, text: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.norm_cross, nn.GroupNorm):  # statistics over tokens and a group of channels
            text = norm_act(self.norm_cross, text.mT.contiguous(), None).mT
        elif self.norm_cross is not None:
            text = self.norm_cross(text)
        return split_heads(self.add_k_proj(text), self.heads), split_heads(self.add_v_proj(text), self.heads)

    def forward(self, x: Tensor, cond: Prepared) -> Tensor:
        h = norm_act(self.group_norm, x, None).flatten(2).mT.contiguous()  # (B, N, C)
        return x + over_left(self, self._attended, h, (x.shape[2], x.shape[3]), cond).mT.reshape(x.shape)

    def _attended(self, h: Tensor, cond: Prepared) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q, (k, v), bias = split_heads(self.to_q(h), self.heads), cond.text[self.layer], cond.bias
        if not self.only_text:
            k = torch.cat([k, split_heads(self.to_k(h), self.heads)], dim=2)  # (B, heads, T + N, d)
            v = torch.cat([v, split_heads(self.to_v(h), self.heads)], dim=2)
        out: Tensor = self.to_out[0](merge_heads(attend_text(q, k, v, bias, cond.edit, self.name)))
        return out


class GEGLU(nn.Module):
    """A linear layer whose one half is gated by the gelu of the other (Shazeer 2020)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.proj(x).chunk(2, dim=-1)
        out: Tensor = h * F.gelu(gate)
        return out


class GELU(nn.Module):
    """The gelu of a linear layer (Hendrycks and Gimpel 2016)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """(B, N, C) -> (B, N, C) through four times the width, gated or not."""

    def __init__(self, channels: int, gated: bool = True) -> None:
        super().__init__()
        widen = (GEGLU if gated else GELU)(channels, 4 * channels)
        self.net = nn.Sequential(widen, nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.net(x)
        return h


class BasicTransformerBlock(nn.Module):
    """Attention to pixels, to text, feed-forward, each with a norm before and a residual around: (B, N, C) -> same, of
    pictures of this height and width."""

    def __init__(self, channels: int, spec: AttentionSpec) -> None:
        super().__init__()
        heads, text_dim = spec.heads, spec.text_dim
        self.norm1 = nn.LayerNorm(channels)
        self.attn1: SelfAttention | TextAttention
        if spec.only_text:
            self.attn1 = TextAttention(channels, heads, text_dim, masked=False)  # so diffusers trains and runs it
        else:
            self.attn1 = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = TextAttention(channels, heads, text_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, cond: Prepared, size: tuple[int, int]) -> Tensor:
        x = x + over_left(self.attn1, self.attn1, self.norm1(x), size, cond)
        x = x + self.attn2(self.norm2(x), cond)
        h: Tensor = self.ff(self.norm3(x))
        return x + h


class Transformer2D(nn.Module):
    """x + transformer blocks over the pixels of x: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, spec: AttentionSpec) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(spec.groups, channels, eps=1e-6)
        self.proj_in = _projection(channels, spec.linear_projection)
        self.transformer_blocks = nn.ModuleList(BasicTransformerBlock(channels, spec) for _ in range(spec.depth))
        self.proj_out = _projection(channels, spec.linear_projection)

    def forward(self, x: Tensor, cond: Prepared) -> Tensor:
        h = norm_act(self.norm, x, None).flatten(2).mT.contiguous()  # (B, N, C)
        h = F.linear(h, self.proj_in.weight.flatten(1), self.proj_in.bias)
        for block in self.transformer_blocks:
            h = block(h, cond, (x.shape[2], x.shape[3]))
        h = F.linear(h, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return x + h.mT.reshape(x.shape)


def _projection(channels: int, linear: bool) -> nn.Linear | nn.Conv2d:
    return nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)


def make_attention(channels: int, spec: AttentionSpec | PixelSpec) -> Transformer2D | JointAttention | PixelAttention:
    """The attention of a level with this many channels, of the family that spec names."""
    if isinstance(spec, PixelSpec):
        return PixelAttention(channels, spec)
    return Transformer2D(channels, spec) if spec.family == "separate" else JointAttention(channels, spec)
