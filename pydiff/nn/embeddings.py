"""Embeddings of times, noise levels and pooled text: everything that a residual block is told as one vector."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pydiff.nn.activations import ACTIVATIONS
from pydiff.nn.attention import split_heads
from pydiff.ops.attention import attention

_MAX_PERIOD = 10000


def sinusoidal(t: Tensor, dim: int, *, cos_first: bool, freq_shift: float) -> Tensor:
    """Sines and cosines of t at geometric frequencies 10000^(-i / (dim/2 - freq_shift)) (Ho et al. 2020).

    t (N,) in training steps, of any number type -> (N, dim) float32; sines first unless `cos_first`; an odd dim ends
    in 0.
    """
    half = dim // 2
    exponent = -math.log(_MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(exponent / (half - freq_shift))
    parts = (angle.cos(), angle.sin()) if cos_first else (angle.sin(), angle.cos())
    return F.pad(torch.cat(parts, dim=-1), (0, dim % 2))


class TimestepEmbedding(nn.Module):
    """Two linear layers over a sinusoidal embedding or over any other vector: (N, in_dim) -> (N, out_dim)."""

    def __init__(self, in_dim: int, out_dim: int, act: str = "silu", post_act: str | None = None) -> None:
        super().__init__()
        self.act, self.post_act = act, post_act
        self.linear_1 = nn.Linear(in_dim, out_dim)
        self.linear_2 = nn.Linear(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.linear_2(ACTIVATIONS[self.act](self.linear_1(x)))
        return h if self.post_act is None else ACTIVATIONS[self.post_act](h)


class AttentionPooling(nn.Module):
    """One vector from T: the mean of the states asks all of them, and itself (GLIDE, Nichol et al. 2021)."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(1, dim))
        bound = (3 / dim) ** 0.5  # a deviation of dim^-0.5; normal_ on the meta device would import torch._dynamo
        nn.init.uniform_(self.positional_embedding, -bound, bound)
        self.k_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)."""
        mean = states.mean(dim=1, keepdim=True) + self.positional_embedding
        states = torch.cat([mean, states], dim=1)  # (B, 1 + T, D)
        q, k, v = self.q_proj(mean), self.k_proj(states), self.v_proj(states)
        pooled = attention(*(split_heads(tensor, self.heads) for tensor in (q, k, v)))  # (B, heads, 1, d)
        return pooled.flatten(1)


class TextTimeEmbedding(nn.Module):
    """DeepFloyd IF's pooled text, added to the embedding of t: (B, T, D) encoder states -> (B, E)."""

    def __init__(self, text_dim: int, out_dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(text_dim)
        self.pool = AttentionPooling(heads, text_dim)
        self.proj = nn.Linear(text_dim, out_dim)
        self.norm2 = nn.LayerNorm(out_dim)

    def forward(self, text: Tensor) -> Tensor:
        pooled: Tensor = self.norm2(self.proj(self.pool(self.norm1(text))))
        return pooled
