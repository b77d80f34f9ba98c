"""The text encoder's first lesson, without pictures: a caption in, a coarse map of colours and shapes out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pydiff.embedded import checkpoint, data, recipe
from pydiff.embedded.world import SHAPES


class LayoutReader(nn.Module):
    """One query per cell of the grid looks at the words and says what stands there; thrown away after the lesson."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(data.GRID**2, width) * 0.5)
        self.attentions = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(data.COLOUR_NAMES) + len(SHAPES) + 1)

    def forward(self, states: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        h = self.queries.expand(len(states), -1, -1)  # (B, cells, D)
        for attention in self.attentions:
            h = h + attention(self.norm(h), states, states, key_padding_mask=padding, need_weights=False)[0]
        colours, shapes = self.head(self.norm(h)).split((len(data.COLOUR_NAMES), len(SHAPES) + 1), dim=-1)
        return colours, shapes


def train_text(text: nn.Module, tokenizer: Any, phase: recipe.Phase, path: Path) -> None:
    """Train the encoder, print cell accuracy, write its weights to path."""
    rng = np.random.default_rng(0)
    torch.manual_seed(1)
    reader = LayoutReader(recipe.TEXT["d_model"], 4)
    parameters = [*text.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=phase.learning_rate, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, phase.learning_rate, phase.steps, pct_start=0.1)
    begun = time.monotonic()
    for step, batch in enumerate(data.background(lambda: data.layouts(rng, phase.batch)), start=1):
        tokens = tokenizer(batch.captions, padding=True, return_tensors="pt")
        states = text(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        colours, shapes = reader(states, tokens.attention_mask == 0)
        loss = cross_entropy(colours.flatten(0, 1), batch.colours.flatten())
        loss = loss + cross_entropy(shapes.flatten(0, 1), batch.shapes.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 50 == 0 or step == phase.steps:
            things = batch.shapes != len(SHAPES)
            colour = (colours.argmax(-1) == batch.colours)[things].float().mean().item()
            shape = (shapes.argmax(-1) == batch.shapes)[things].float().mean().item()
            print(
                f"text {step} loss {loss.item():.3f}, cells of things right: colour {colour:.3f} shape {shape:.3f}",
                flush=True,
            )
        if step == phase.steps:
            break
    tensors = {f"model.{name}": value for name, value in text.state_dict().items()}
    checkpoint.save(path, tensors, {"step": phase.steps, "seconds": round(time.monotonic() - begun, 1)})
