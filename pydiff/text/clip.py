"""CLIP's text networks as Stable Diffusion, Stable Diffusion XL and unCLIP read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from pydiff.models.clip import inner, text_fields
from pydiff.models.rules import Rule, optional, whole
from pydiff.text.encoders import CHUNKS, WEIGHTING, Encoded, TextEncoder, TextOptions
from pydiff.text.tokenizer_files import fitted, read_with_transformers
from pydiff.text.tokens import PromptTokenizer, Rows
from pydiff.text.weighting import weigh
from pydiff.weights.clip import load_clip_text
from pydiff.weights.files import read_config


class Reading(NamedTuple):
    """What a family of pipelines takes from its CLIP networks. skip: layers it leaves out at the end; normed: whether
    the final layer norm follows; pooled, masked: whether it is given those; fixed: whether it reads one window only."""

    skip: int
    normed: bool
    pooled: bool = False
    masked: bool = False
    fixed: bool = False


STABLE_DIFFUSION = Reading(skip=0, normed=True)
STABLE_DIFFUSION_XL = Reading(skip=1, normed=False, pooled=True)
UNCLIP = Reading(skip=0, normed=True, pooled=True, masked=True, fixed=True)


class ClipEncoder(TextEncoder):
    """One or more CLIP text networks, whose states are joined along D; pooled is the projection of the last one's.

    As diffusers' `encode_prompt` of StableDiffusionPipeline, StableDiffusionXLPipeline and UnCLIPPipeline.
    """

    def __init__(
        self,
        tokenizers: Sequence[PromptTokenizer],
        networks: Sequence[nn.Module],
        reading: Reading,
        absent_is_zero: bool = False,
    ) -> None:
        self.tokenizers, self.networks = tuple(tokenizers), tuple(networks)
        self.reading, self.absent_is_zero = reading, absent_is_zero

    @property
    def width(self) -> int:
        return sum(_config(network).hidden_size for network in self.networks)

    @property
    def pooled_width(self) -> int | None:
        return _config(self.networks[-1]).projection_dim if self.reading.pooled else None

    @property
    def rules(self) -> Mapping[str, Rule]:
        if self.reading.fixed:
            return WEIGHTING
        layers = min(_config(network).num_hidden_layers for network in self.networks)
        return {**WEIGHTING, **CHUNKS, "clip_skip": optional(whole(0, layers - self.reading.skip))}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        for network in self.networks:
            network.to(device=device, dtype=dtype)
        return self

    def _run(self, rows: Sequence[Rows], options: TextOptions) -> Encoded:
        states, pooled = [], None
        for network, row in zip(self.networks, rows, strict=True):
            made, pooled = self._states(network, row, self.reading.skip + (options.clip_skip or 0))
            states.append(weigh(made, row.weights))
        device = states[0].device
        return Encoded(
            torch.cat([part.to(device) for part in states], dim=-1),
            pooled if self.reading.pooled else None,
            rows[0].mask.to(device) if self.reading.masked else None,
        )

    def _states(self, network: nn.Module, rows: Rows, skip: int) -> tuple[Tensor, Tensor | None]:
        """States (R, T, D) and, where the network projects it, the pooled state (R, P)."""
        device = next(network.parameters()).device
        masked = getattr(_config(network), "use_attention_mask", False)
        mask = rows.mask.long().to(device) if masked else None
        out = network(rows.ids.to(device), attention_mask=mask, output_hidden_states=True)
        states = out.hidden_states[-(skip + 1)]
        if self.reading.normed:
            states = inner(network).final_layer_norm(states)
        return states, getattr(out, "text_embeds", None)


def load_clip_encoder(
    folders: Sequence[tuple[Path, Path]],
    reading: Reading,
    dtype: torch.dtype = torch.float32,
    *,
    variant: str | None = None,
    absent_is_zero: bool = False,
) -> ClipEncoder:
    """From a tokenizer's and a network's folder each; where states are pooled, the last network projects.

    Raises ValueError for what `load_network` refuses, a tokenizer that is missing or does not fit, and where
    transformers is not installed.
    """
    tokenizers = [_load_tokenizer(words, weights) for words, weights in folders]
    last = folders[-1][1]
    networks = [
        load_clip_text(weights, reading.pooled and weights == last, dtype, variant=variant) for _, weights in folders
    ]
    return ClipEncoder(tokenizers, networks, reading, absent_is_zero)


def _load_tokenizer(folder: Path, weights: Path) -> PromptTokenizer:
    read = read_with_transformers(folder, "CLIPTokenizer", ("vocab.json", "merges.txt"))
    fields = read_config(weights, text_fields)
    said, most = read.model_max_length, fields["max_position_embeddings"]
    window = min(said, most) if isinstance(said, int) else said
    return fitted(folder, read.backend_tokenizer, window, read.pad_token_id, fields["vocab_size"])


def _config(network: nn.Module) -> Any:
    return network.config
