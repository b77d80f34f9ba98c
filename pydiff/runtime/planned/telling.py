"""What residual blocks are told of t and of all else but x: at every call, or of all steps of a run before it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pydiff.models.unet import UNet
from pydiff.nn.resnet import ResnetBlock
from pydiff.runtime.planned.memory import Arena, View
from pydiff.runtime.planned.recorder import ACTS, Ending, Head, Recorder
from pydiff.runtime.planned.weights import Weights


class Times(NamedTuple):
    """sines (B, C): sines and cosines of t. added (B, E): what is added to their embedding."""

    sines: Tensor
    added: Tensor | None


Tell = Times | Tensor  # or what all blocks are told, (B, n) float32, already computed


class Telling:
    """The steps from t to what every block is told, for so many rows: of every block its part of `out`, (B, 1, 1, n)
    float32, which one product makes."""

    def __init__(self, r: Recorder, unet: UNet, rows: int) -> None:
        self.sines = r.new((rows, 1, 1, unet.config.block_out_channels[0]), kept=True)
        self.added = r.new((rows, 1, 1, unet.config.embed_dim), kept=True)
        emb = _embedded(r, unet, self.sines, self.added)
        layers = {
            block: block.time_emb_proj
            for block in unet.modules()
            if isinstance(block, ResnetBlock) and block.time_emb_proj is not None
        }
        packed = r.weights.linear(*layers.values(), exact=True)
        self.out = r.product(emb, packed, out=r.new((*emb.grid, packed.outputs), torch.float32))
        self.told: dict[ResnetBlock, View] = {}
        first = 0
        for block, layer in layers.items():
            self.told[block] = self.out.columns(first, first + layer.out_features)
            first += layer.out_features

    def take(self, arena: Arena, tell: Tell) -> None:
        """Copy to where the steps read it, or to where they would leave it."""
        if isinstance(tell, Tensor):
            arena.tensor(self.out)[:, 0, 0].copy_(tell)
            return
        arena.tensor(self.sines)[:, 0, 0].copy_(tell.sines)
        added = arena.tensor(self.added)[:, 0, 0]
        added.zero_() if tell.added is None else added.copy_(tell.added)


class Foresight:
    """What blocks are told, of so many rows at once."""

    def __init__(self, unet: UNet, weights: Weights, rows: int) -> None:
        r = Recorder(weights)
        self.telling = Telling(r, unet, rows)
        self.telling.out.buffer.kept = True
        self.program, self.arena = r.written()

    def run(self, times: Times) -> Tensor:
        """(B, n) float32."""
        self.telling.take(self.arena, times)
        self.program.run(0, len(self.program), torch.get_num_threads())
        return self.arena.tensor(self.telling.out)[:, 0, 0].clone()


def _embedded(r: Recorder, unet: UNet, sines: View, added: View) -> View:
    """The embedding of t and of what else blocks are told, activated as they read it."""
    first, config = unet.time_embedding, unet.config
    h = r.product(sines, r.weights.linear(first.linear_1, exact=True), Ending(act=ACTS[first.act]))
    h = r.product(h, r.weights.linear(first.linear_2, exact=True), Ending(residual=added))
    activated = any(block.spec.skip_embed_act for block in unet.modules() if isinstance(block, ResnetBlock))
    for act in (config.time_embedding_act_fn, None if activated else config.act_fn):
        h = h if act is None else r.normalise(h, Head(act=ACTS[act]))
    return h
