"""T5's encoder (Raffel et al. 2020; gated feed-forward of T5 1.1), as DeepFloyd IF and the embedded cascade use it.

Module names are the checkpoint's keys. transformers is the oracle in the tests; importing it would cost more than
everything else between typing a prompt and the first picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pydiff.models.t5_config import T5Config

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "silu": F.silu,
}


def embedding(count: int, width: int) -> nn.Embedding:
    """An embedding whose values come from a checkpoint: drawing normal ones would import torch._dynamo (a second)."""
    return nn.Embedding(count, width, _weight=torch.zeros(count, width))


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        wide = x.to(dtype)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(self.weight.dtype)


class SelfAttention(nn.Module):
    """softmax(Q K^T + relative bias) V; T5 does not scale the scores."""

    def __init__(self, config: T5Config, bias: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q, self.k, self.v = (nn.Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if bias:
            self.relative_attention_bias = embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)  # (B, heads, T, d)
        return cast(Tensor, self.o(out.transpose(1, 2).flatten(-2)))


class FeedForward(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.gated = config.gated
        if self.gated:
            self.wi_0, self.wi_1 = (nn.Linear(config.d_model, config.d_ff, bias=False) for _ in range(2))
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.wi_0(x)) * self.wi_1(x) if self.gated else self.activation(self.wi(x))
        return cast(Tensor, self.wo(h.to(self.wo.weight.dtype)))


class AttentionLayer(nn.Module):
    def __init__(self, config: T5Config, bias: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, bias)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + cast(Tensor, self.SelfAttention(self.layer_norm(x), bias))


class FeedForwardLayer(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = FeedForward(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.DenseReluDense(self.layer_norm(x)))


class Block(nn.Module):
    def __init__(self, config: T5Config, bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(config, bias), FeedForwardLayer(config)])


class Stack(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.block = nn.ModuleList(Block(config, bias=index == 0) for index in range(config.num_layers))
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        bias = self._bias(x.shape[1], x.device)  # (1, heads, T, T), shared by all blocks
        if mask is not None:
            blocked = (mask == 0)[:, None, None, :]
            bias = bias.masked_fill(blocked, torch.finfo(bias.dtype).min)
        for block in self.block:
            attention, feed_forward = cast(Block, block).layer
            x = feed_forward(attention(x, bias))
        return cast(Tensor, self.final_layer_norm(x))

    def _bias(self, length: int, device: torch.device) -> Tensor:
        position = torch.arange(length, device=device)
        bucket = relative_bucket(
            position[None, :] - position[:, None],
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        )
        table = cast(nn.Embedding, self.block[0].layer[0].SelfAttention.relative_attention_bias)  # type: ignore[index, union-attr]
        return cast(Tensor, table(bucket)).permute(2, 0, 1)[None]


def relative_bucket(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """Bucket of a signed distance: half of the buckets for each direction, exact up to a quarter, then logarithmic."""
    half = buckets // 2
    exact = half // 2
    size = distance.abs()
    scale = (half - exact) / math.log(max_distance / exact)
    far = exact + (torch.log(size.clamp(min=1).float() / exact) * scale).long()
    return torch.where(distance > 0, half, 0) + torch.where(size < exact, size, far.clamp(max=half - 1))


class T5Encoder(nn.Module):
    """Token ids to states."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids (B, T) integers, mask (B, T) 1 = a token, 0 = padding; returns (B, T, D)."""
        return cast(Tensor, self.encoder(self.shared(ids), mask))

    def cast(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> T5Encoder:
        """Move and cast, in place. Beside float16, `wo` is float32, as in transformers: what it makes overflows."""
        for name, parameter in self.named_parameters():
            keep = dtype == torch.float16 and name.endswith(".wo.weight")
            parameter.data = parameter.data.to(device=device, dtype=torch.float32 if keep else dtype)
        return self
