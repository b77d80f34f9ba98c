"""What Paint by Example is told of a picture: one token, which holds what is shown and not where (Yang et al. 2022,
section 3.2).

    CLIP's pooled state of the picture -> transformer blocks over this one token -> norm -> projection

Modules carry the names of the checkpoint's keys (diffusers' PaintByExampleImageEncoder), so state dicts load without a
map, but for CLIP's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pydiff.models.clip import stored_key, vision_network
from pydiff.models.prior import PriorBlock

CLIP_LAYERS_PER_BLOCK = 5


class Mapper(nn.Module):
    """Transformer blocks of one head, each a residual: (B, 1, C) -> (B, 1, C)."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PriorBlock(channels, heads=1) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        seen = x.new_zeros(1, 1, 1, 1)  # the token sees itself
        for block in self.blocks:
            x, _ = block(x, seen)
        return x


class ExampleNetwork(nn.Module):
    """The token of a picture of the thing to paint, and a learned one for no picture."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        config: Any = model.config
        width, blocks = config.hidden_size, (config.num_hidden_layers + 1) // CLIP_LAYERS_PER_BLOCK
        self.model = model
        self.mapper = Mapper(width, blocks)
        self.final_layer_norm = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, config.projection_dim)
        self.uncond_vector = nn.Parameter(torch.zeros(1, 1, config.projection_dim))

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures as CLIP reads them, (B, 3, S, S) -> tokens (B, 1, D)."""
        pooled: Tensor = self.model(pictures).pooler_output
        tokens: Tensor = self.proj_out(self.final_layer_norm(self.mapper(pooled[:, None])))
        return tokens


def example_network(config: Mapping[str, Any]) -> ExampleNetwork:
    """The network of a config.json, which is CLIP's. Raises ValueError as `pydiff.models.clip.vision_fields` does."""
    return ExampleNetwork(vision_network(config, projected=False))


def example_key(name: str, network: ExampleNetwork) -> str | None:
    """A checkpoint's key in the network, as `pydiff.models.clip.stored_key` gives CLIP's."""
    if not name.startswith("model."):
        return name
    key = stored_key(name.removeprefix("model."), "vision_model", network.model)
    return None if key is None else f"model.{key}"
