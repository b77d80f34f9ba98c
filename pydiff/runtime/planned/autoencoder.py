"""An autoencoder that runs by plans: the Codec of a stage on the CPU."""

from __future__ import annotations

from collections.abc import Hashable
from typing import cast

import torch
from torch import Tensor, nn

from pydiff.models.autoencoder import Autoencoder, Decoder, DecoderBlock, Encoder, EncoderBlock
from pydiff.models.coding import Coding
from pydiff.nn.resnet import Downsample, Upsample
from pydiff.runtime.planned.blocks import Context, attention, downsample, resnet, resnets, upsample
from pydiff.runtime.planned.memory import View
from pydiff.runtime.planned.plans import Plans
from pydiff.runtime.planned.recorder import ACTS, Head, Recorder
from pydiff.runtime.planned.weights import Weights

NOTHING = Context({}, {}, 0)


class CodingPlan:
    """One of the two networks for x (B, C, h, w): used by one call at a time."""

    def __init__(self, module: Autoencoder, weights: Weights, shape: tuple[int, int, int, int], decodes: bool) -> None:
        batch, channels, height, width = shape
        r = Recorder(weights)
        self.x = h = r.new((batch, height, width, channels), kept=True)
        if decodes:
            h = h if module.post_quant_conv is None else r.conv(h, module.post_quant_conv)
            self.out = _decoder(r, module.decoder, h)
        else:
            self.out = _encoder(r, module.encoder, h)
            self.out = self.out if module.quant_conv is None else r.conv(self.out, module.quant_conv)
        self.out.buffer.kept = True
        self.program, self.arena = r.written()

    def run(self, x: Tensor) -> Tensor:
        self.arena.tensor(self.x).copy_(x.permute(0, 2, 3, 1))
        self.program.run(0, len(self.program), torch.get_num_threads())
        return self.arena.tensor(self.out).permute(0, 3, 1, 2).clone()


class PlannedAutoencoder(Coding, nn.Module):
    """See `pydiff.networks.Codec`; as `PlannedUNet`, but that one plan is kept: those of large pictures are large."""

    def __init__(self, module: Autoencoder) -> None:
        super().__init__()
        self.module, self.config = module, module.config
        weights = Weights(module.like.dtype)

        def make(size: Hashable) -> CodingPlan:
            shape, decodes = cast(tuple[tuple[int, int, int, int], bool], size)
            return CodingPlan(module, weights, shape, decodes)

        self._plans = Plans(make, most=1)

    @property
    def like(self) -> Tensor:
        return self.module.like

    def _moments(self, image: Tensor) -> Tensor:
        return self._made(image, decodes=False) if not torch.is_grad_enabled() else self.module._moments(image)

    def _picture(self, latents: Tensor) -> Tensor:
        return self._made(latents, decodes=True) if not torch.is_grad_enabled() else self.module._picture(latents)

    def _made(self, x: Tensor, decodes: bool) -> Tensor:
        with self._plans.of((tuple(x.shape), decodes)) as plan:
            return plan.run(x)


def _encoder(r: Recorder, network: Encoder, x: View) -> View:
    h = r.conv(x, network.conv_in)
    for level in network.down_blocks:
        level = cast(EncoderBlock, level)
        for block in resnets(level):
            h = resnet(r, block, h, NOTHING)
        for downsampler in level.downsamplers:
            h = downsample(r, cast(Downsample, downsampler), h, None)
    return _closed(r, network, _middle(r, network, h))


def _decoder(r: Recorder, network: Decoder, x: View) -> View:
    h = _middle(r, network, r.conv(x, network.conv_in))
    for level in network.up_blocks:
        level = cast(DecoderBlock, level)
        for block in resnets(level):
            h = resnet(r, block, h, NOTHING)
        for upsampler in level.upsamplers:
            h = upsample(r, cast(Upsample, upsampler), h, (2 * h.grid[1], 2 * h.grid[2]), None)
    return _closed(r, network, h)


def _middle(r: Recorder, network: Encoder | Decoder, h: View) -> View:
    first, *rest = resnets(network.mid_block)
    h = resnet(r, first, h, NOTHING)
    for index, block in enumerate(rest):
        if network.mid_block.attentions:
            h = attention(r, network.mid_block.attentions[index], h, NOTHING, None)
        h = resnet(r, block, h, NOTHING)
    return h


def _closed(r: Recorder, network: Encoder | Decoder, h: View) -> View:
    head = Head(r.statistics(h, network.conv_norm_out), ACTS["silu"])
    return r.conv(h, network.conv_out, head=head)
