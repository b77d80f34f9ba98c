"""The diffusion prior of unCLIP: from a prompt, the CLIP embedding of a picture (Ramesh et al. 2022, section 2.2).

    [text states | text embedding | t | x | learned query] -> causal transformer -> the query's state -> x0

No token sees a later one, so nothing of the text depends on x and t: `prepare` computes its keys and values once a run,
and a step computes the last three tokens alone.

Modules carry the names of the checkpoint's keys (diffusers' PriorTransformer), so state dicts load without a map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pydiff.models.rules import COUNT, DROPOUT, LAYERS, Rule, check_fields, named, one_of, optional, read_fields, whole
from pydiff.nn.activations import ACTIVATIONS
from pydiff.nn.attention import FeedForward, merge_heads, split_heads
from pydiff.nn.embeddings import TimestepEmbedding, sinusoidal

CLASS_NAME = "PriorTransformer"
LATE = 3  # tokens that depend on x and t: t, x and the query

Keys = tuple[Tensor, Tensor]  # keys and values (B, heads, N, d)


@dataclasses.dataclass(frozen=True)
class PriorConfig:
    """The fields of diffusers' PriorTransformer, under its names and with its defaults.

    Raises ValueError, naming the field, for values that are not supported or that contradict each other.
    """

    num_attention_heads: int = 32
    attention_head_dim: int = 64
    num_layers: int = 20
    embedding_dim: int = 768
    num_embeddings: int = 77
    additional_embeddings: int = 4
    dropout: float = 0.0  # in training only, which this network is not made for
    time_embed_act_fn: str = "silu"
    norm_in_type: str | None = None
    embedding_proj_norm_type: str | None = None
    encoder_hid_proj_type: str = "linear"
    added_emb_type: str = "prd"
    time_embed_dim: int | None = None
    embedding_proj_dim: int | None = None
    clip_embed_dim: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PriorConfig:
        """Read the object of a config.json; fields that start with "_" are diffusers' own and are passed over.

        Raises ValueError for another class of model, an unknown field, or a value that `PriorConfig` refuses.
        """
        return cls(**read_fields(values, CLASS_NAME, _RULES))

    @property
    def channels(self) -> int:
        """Width of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def text_embed_dim(self) -> int:
        """Width of the text embedding that the network is given."""
        return self.embedding_proj_dim or self.embedding_dim

    def __post_init__(self) -> None:
        check_fields(self, _RULES)
        for name, width, of in (
            ("time_embed_dim", self.channels, "num_attention_heads * attention_head_dim"),
            ("clip_embed_dim", self.embedding_dim, "embedding_dim"),
        ):
            value = getattr(self, name)
            if value is not None and value != width:
                raise ValueError(f"{name} is {value}; expected null or {width}, which is {of}")


_RULES: dict[str, Rule] = {
    "num_attention_heads": whole(1, 1024),
    "attention_head_dim": whole(1, 1024),
    "num_layers": LAYERS,
    "embedding_dim": COUNT,
    "num_embeddings": COUNT,
    "additional_embeddings": one_of(4),  # the text embedding, t, x and the query
    "dropout": DROPOUT,
    "time_embed_act_fn": named(ACTIVATIONS),
    "norm_in_type": one_of(None, "layer"),
    "embedding_proj_norm_type": one_of(None, "layer"),
    "encoder_hid_proj_type": one_of("linear"),
    "added_emb_type": one_of("prd"),
    "time_embed_dim": optional(COUNT),
    "embedding_proj_dim": optional(COUNT),
    "clip_embed_dim": optional(COUNT),
}


class PriorText(NamedTuple):
    """What the network computes from a prompt alone: constant over the steps of a run. Made by `Prior.prepare`."""

    keys: tuple[Keys, ...]  # of text states and text embedding, per block
    bias: Tensor  # (B, 1, 3, T + 4) added to the scores of the last three tokens: 0 = seen, -inf = not


class CausalAttention(nn.Module):
    """Tokens attend to tokens: x (B, N, C), bias of the scores, keys of those before x -> (B, N, C), keys with x."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, bias: Tensor, before: Keys | None) -> tuple[Tensor, Keys]:
        q, k, v = (split_heads(project(x), self.heads) for project in (self.to_q, self.to_k, self.to_v))
        if before is not None:
            k, v = torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)
        return self.to_out[0](merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))), (k, v)


class PriorBlock(nn.Module):
    """Attention, then feed-forward, each with a norm before and a residual around; arguments of `CausalAttention`."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = CausalAttention(channels, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, gated=False)

    def forward(self, x: Tensor, bias: Tensor, before: Keys | None = None) -> tuple[Tensor, Keys]:
        h, keys = self.attn1(self.norm1(x), bias, before)
        x = x + h
        return x + self.ff(self.norm3(x)), keys


class Prior(nn.Module):
    """x0 of a noisy picture embedding, of zero mean and unit deviation in each element (Ramesh et al. 2022)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        channels, dim = config.channels, config.embedding_dim
        self.time_embedding = TimestepEmbedding(channels, channels, config.time_embed_act_fn)
        self.proj_in = nn.Linear(dim, channels)
        normed = config.embedding_proj_norm_type is not None
        self.embedding_proj_norm = nn.LayerNorm(config.text_embed_dim) if normed else None
        self.embedding_proj = nn.Linear(config.text_embed_dim, channels)
        self.encoder_hidden_states_proj = nn.Linear(dim, channels)
        self.positional_embedding = nn.Parameter(torch.zeros(1, config.num_embeddings + 1 + LATE, channels))
        self.prd_embedding = nn.Parameter(torch.zeros(1, 1, channels))
        self.norm_in = None if config.norm_in_type is None else nn.LayerNorm(channels)
        self.transformer_blocks = nn.ModuleList(
            PriorBlock(channels, config.num_attention_heads) for _ in range(config.num_layers)
        )
        self.norm_out = nn.LayerNorm(channels)
        self.proj_to_clip_embeddings = nn.Linear(channels, dim)
        self.clip_mean = nn.Parameter(torch.zeros(1, dim))
        self.clip_std = nn.Parameter(torch.ones(1, dim))

    def forward(
        self, x: Tensor, t: Tensor, text_embeds: Tensor, text_states: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """`predict` with the text of `prepare`, whose arguments and refusals these are."""
        return self.predict(x, t, self.prepare(text_embeds, text_states, mask))

    def prepare(self, text_embeds: Tensor, text_states: Tensor, mask: Tensor | None = None) -> PriorText:
        """Compute once what does not depend on x and t.

        text_embeds (B, P) and text_states (B, T, D): CLIP's embedding of the prompts and the states of its last layer;
        T is fixed, shorter prompts are padded. mask (B, T): 1 = attend, 0 = padding; None = attend to all. Raises
        ValueError for other shapes and for a mask that hides a first token.
        """
        self._check_text(text_embeds, text_states, mask)
        dtype = self.proj_in.weight.dtype
        pooled, tokens = text_embeds.to(dtype), text_states.shape[1] + 1
        pooled = pooled if self.embedding_proj_norm is None else self.embedding_proj_norm(pooled)
        states = self.encoder_hidden_states_proj(text_states.to(dtype))
        h = self._placed(torch.cat([states, self.embedding_proj(pooled)[:, None]], dim=1), slice(tokens))
        bias = self._bias(mask, tokens + LATE, h)
        keys = []
        for block in self.transformer_blocks:
            h, made = block(h, bias[..., :tokens, :tokens])
            keys.append(made)
        return PriorText(tuple(keys), bias[..., tokens:, :].expand(h.shape[0], -1, -1, -1))

    def predict(self, x: Tensor, t: Tensor, text: PriorText) -> Tensor:
        """x (B, D) noisy embedding, t (B,) or scalar training step (any number type), text of the same B.

        Returns the estimate of x0 (B, D) in x's dtype. Raises ValueError for other shapes.
        """
        t = torch.as_tensor(t, device=x.device)
        self._check_input(x, t, text)
        dtype, batch = self.proj_in.weight.dtype, x.shape[0]
        times = sinusoidal(t.expand(batch), self.config.channels, cos_first=True, freq_shift=0).to(dtype)
        late = [self.time_embedding(times), self.proj_in(x.to(dtype)), self.prd_embedding[:, 0].expand(batch, -1)]
        h = self._placed(torch.stack(late, dim=1), slice(-LATE, None))
        for block, keys in zip(self.transformer_blocks, text.keys, strict=True):
            h, _ = block(h, text.bias, keys)
        out: Tensor = self.proj_to_clip_embeddings(self.norm_out(h[:, -1]))
        return out.to(x.dtype)

    def unnormalised(self, x: Tensor) -> Tensor:
        """The CLIP embedding (B, D) of a finished x (B, D): its elements have CLIP's own mean and deviation."""
        return x * self.clip_std + self.clip_mean

    def _placed(self, tokens: Tensor, where: slice) -> Tensor:
        """Tokens (B, N, C) with the embedding of their positions, as the first block takes them."""
        h = tokens + self.positional_embedding[:, where]
        return h if self.norm_in is None else self.norm_in(h)

    def _bias(self, mask: Tensor | None, tokens: int, like: Tensor) -> Tensor:
        """(B or 1, 1, N, N): a token sees itself and those before it which are not padding."""
        seen = torch.ones(1, tokens, tokens, dtype=torch.bool, device=like.device).tril()
        if mask is not None:
            shown = mask.bool().to(like.device)[:, None, :]
            seen = seen & torch.cat([shown, shown.new_ones(*shown.shape[:2], 1 + LATE)], dim=2)
        return torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, -torch.inf)[:, None]

    def _check_text(self, pooled: Tensor, states: Tensor, mask: Tensor | None) -> None:
        config = self.config
        width, expected = config.text_embed_dim, (config.num_embeddings, config.embedding_dim)
        if pooled.ndim != 2 or pooled.shape[1] != width:
            raise ValueError(f"text_embeds has shape {tuple(pooled.shape)}; expected (B, {width})")
        if states.shape != (pooled.shape[0], *expected):
            raise ValueError(
                f"text_states has shape {tuple(states.shape)}; expected {(pooled.shape[0], *expected)}: "
                "pad the prompts to this many tokens"
            )
        if mask is None:
            return
        if mask.shape != states.shape[:2]:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}; expected {tuple(states.shape[:2])}, one value per token"
            )
        if not bool(mask[:, 0].bool().all()):
            raise ValueError("mask hides the first token of a prompt; expected padding after the words")

    def _check_input(self, x: Tensor, t: Tensor, text: PriorText) -> None:
        dim, batch = self.config.embedding_dim, text.bias.shape[0]
        if x.ndim != 2 or x.shape[1] != dim or not x.is_floating_point():
            raise ValueError(f"x is {x.dtype} {tuple(x.shape)}; expected floats (B, {dim})")
        if t.ndim > 1 or t.numel() not in (1, x.shape[0]):
            raise ValueError(f"t has shape {tuple(t.shape)}; expected a scalar or ({x.shape[0]},), one per row of x")
        if batch != x.shape[0]:
            raise ValueError(f"the text is of {batch} prompts, but x has {x.shape[0]} rows; give one row per prompt")
        if len(text.keys) != self.config.num_layers:
            raise ValueError(
                f"the text holds keys for {len(text.keys)} blocks, not {self.config.num_layers}; "
                "prepare it with this network"
            )
