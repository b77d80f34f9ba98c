"""Prompt-to-Prompt as others do it: attention processors for diffusers that form the maps, edit and multiply them.

The oracle of pydiff's edits, which form no map, and their peer in `python -m benchmarks.tasks edit`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pydiff.arrays import like
from pydiff.diffusion.edits import EditTable


class Maps:
    """Edits the maps of the conditional half of a batch, at the level that the callback counts."""

    def __init__(self, table: EditTable, pixels: str) -> None:
        self.table, self.pixels, self.level = table, pixels, 0

    def step(self, pipe: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        self.level = step + 1
        return {}

    def edited(self, maps: Tensor, text: int) -> Tensor:
        """maps (2B, heads, N, M), of which the first `text` columns are words; those of the null prompts come first."""
        row = self.table.at(self.level)
        null, own = maps.chunk(2)
        source = own[row.source]
        words, pixels = own[..., :text], own[..., text:]
        borrows = row.self_source is not None and maps.shape[2] <= self.table.self_max_pixels
        if text and row.borrows:
            moved = torch.einsum("bhni,bij->bhnj", source[..., :text], like(row.transfer, maps))
            edited = moved + words * like(row.keep, maps)[:, None, None]
            if pixels.shape[-1] and self.pixels == "rescale" and not borrows:
                pixels = pixels * (1 - edited.sum(-1, keepdim=True)) / pixels.sum(-1, keepdim=True)
            words = torch.cat([own[:1, ..., :text], edited[1:]])
            pixels = torch.cat([own[:1, ..., text:], pixels[1:]])
        if borrows:
            pixels = own[row.self_source][..., text:]
        return torch.cat([null, torch.cat([words, pixels], dim=-1)])


class Processor:
    """Both families of diffusers' attention, with the maps formed."""

    def __init__(self, maps: Maps) -> None:
        self.maps = maps

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        x, words = hidden_states, encoder_hidden_states
        joint = x.ndim == 4
        if joint:
            assert words is not None
            words = words if attn.norm_cross is None else attn.norm_encoder_hidden_states(words)
            x = attn.group_norm(x.flatten(2)).mT
            k = torch.cat([attn.add_k_proj(words), attn.to_k(x)], dim=1)
            v = torch.cat([attn.add_v_proj(words), attn.to_v(x)], dim=1)
            text = words.shape[1]
        else:
            text = 0 if words is None else words.shape[1]
            k, v = (project(x if words is None else words) for project in (attn.to_k, attn.to_v))
        q, k, v = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in (attn.to_q(x), k, v))
        maps = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        out = attn.to_out[0]((self.maps.edited(maps, text) @ v).transpose(1, 2).flatten(2))
        return out.mT.reshape(hidden_states.shape) + hidden_states if joint else out
