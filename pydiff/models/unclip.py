"""What unCLIP's decoder is told: a CLIP embedding of the picture beside the prompt (Ramesh et al. 2022, section 2.1).

Modules carry the names of the checkpoint's keys (diffusers' UnCLIPTextProjModel), so state dicts load without a map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pydiff.models.rules import COUNT, Rule, check_fields, read_fields, whole

CLASS_NAME = "UnCLIPTextProjModel"


@dataclasses.dataclass(frozen=True)
class TextProjectionConfig:
    """The fields of diffusers' UnCLIPTextProjModel, under its names and with its defaults.

    Raises ValueError, naming the field, for values that are not supported.
    """

    time_embed_dim: int
    cross_attention_dim: int
    clip_extra_context_tokens: int = 4
    clip_embeddings_dim: int = 768

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextProjectionConfig:
        """Read the object of a config.json; fields that start with "_" are diffusers' own and are passed over.

        Raises ValueError for another class of model, an unknown or missing field, or a value that
        `TextProjectionConfig` refuses.
        """
        given = read_fields(values, CLASS_NAME, _RULES)
        missing = [name for name in ("time_embed_dim", "cross_attention_dim") if name not in given]
        if missing:
            raise ValueError(f"the config of a {CLASS_NAME} lacks {', '.join(missing)}; give the widths of the decoder")
        return cls(**given)

    def __post_init__(self) -> None:
        check_fields(self, _RULES)


_RULES: dict[str, Rule] = {
    "time_embed_dim": COUNT,
    "cross_attention_dim": COUNT,
    "clip_extra_context_tokens": whole(1, 1024),
    "clip_embeddings_dim": COUNT,
}


class TextProjection(nn.Module):
    """The conditioning of one branch of the decoder: of a picture's embedding, or of a learned one for no picture."""

    def __init__(self, config: TextProjectionConfig) -> None:
        super().__init__()
        self.config = config
        clip, width = config.clip_embeddings_dim, config.cross_attention_dim
        self.learned_classifier_free_guidance_embeddings = nn.Parameter(torch.zeros(clip))
        self.embedding_proj = nn.Linear(clip, config.time_embed_dim)
        self.clip_image_embeddings_project_to_time_embeddings = nn.Linear(clip, config.time_embed_dim)
        self.clip_extra_context_tokens_proj = nn.Linear(clip, config.clip_extra_context_tokens * width)
        self.encoder_hidden_states_proj = nn.Linear(clip, width)
        self.text_encoder_hidden_states_norm = nn.LayerNorm(width)

    def forward(self, image_embeds: Tensor | None, text_embeds: Tensor, text_states: Tensor) -> tuple[Tensor, Tensor]:
        """CLIP's embedding of the picture (B, P), None for the null branch; of the prompts (B, P); states (B, T, P).

        Returns the decoder's text (B, K + T, D), K tokens of the picture first, and its labels (B, E), which are added
        to the embedding of t. Both in the weights' dtype. Raises ValueError for other shapes.
        """
        self._check(image_embeds, text_embeds, text_states)
        dtype, batch = self.embedding_proj.weight.dtype, text_embeds.shape[0]
        image = self.learned_classifier_free_guidance_embeddings.expand(batch, -1)
        image = image if image_embeds is None else image_embeds.to(dtype)
        labels = self.clip_image_embeddings_project_to_time_embeddings(image)
        labels = labels + self.embedding_proj(text_embeds.to(dtype))
        tokens = self.clip_extra_context_tokens_proj(image)  # (B, D K), the tokens interleaved
        tokens = tokens.unflatten(1, (-1, self.config.clip_extra_context_tokens)).mT  # (B, K, D)
        states = self.text_encoder_hidden_states_norm(self.encoder_hidden_states_proj(text_states.to(dtype)))
        return torch.cat([tokens, states], dim=1), labels

    def widen_mask(self, mask: Tensor) -> Tensor:
        """The mask of the prompts (B, T) -> of the decoder's text (B, K + T): the picture is always attended to."""
        return F.pad(mask, (self.config.clip_extra_context_tokens, 0), value=1)

    def _check(self, image: Tensor | None, pooled: Tensor, states: Tensor) -> None:
        width = self.config.clip_embeddings_dim
        if pooled.ndim != 2 or pooled.shape[1] != width:
            raise ValueError(f"text_embeds has shape {tuple(pooled.shape)}; expected (B, {width})")
        if states.ndim != 3 or states.shape[0] != pooled.shape[0] or states.shape[2] != width:
            raise ValueError(f"text_states has shape {tuple(states.shape)}; expected ({pooled.shape[0]}, T, {width})")
        if image is not None and image.shape != pooled.shape:
            raise ValueError(
                f"image_embeds has shape {tuple(image.shape)}; expected {tuple(pooled.shape)}, one row per prompt"
            )
