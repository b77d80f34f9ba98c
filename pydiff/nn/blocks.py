"""The levels of a U-Net: one block on the way down, one in the middle, one on the way up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pydiff.nn.attention import AttentionSpec, PixelSpec, make_attention
from pydiff.nn.cond import Prepared
from pydiff.nn.resnet import Downsample, ResnetBlock, ResnetSpec, Upsample


class BlockSpec(NamedTuple):
    """One level."""

    in_channels: int
    out_channels: int
    layers: int
    resnet: ResnetSpec
    attention: AttentionSpec | PixelSpec | None
    resample: str | None = None  # how the size changes at the end: None | "conv" | "resnet"
    skip_channels: int = 0  # up: channels that the last layer's skip brings
    padding: int = 1  # down, resample "conv": 1 or 0


def _attentions(spec: BlockSpec, layers: int) -> nn.ModuleList:
    if spec.attention is None:
        return nn.ModuleList()
    return nn.ModuleList(make_attention(spec.out_channels, spec.attention) for _ in range(layers))


class DownBlock(nn.Module):
    """Residual blocks, each with attention after it, then half the size.

    x (B, C, H, W), emb (B, E) -> x of the next level, and the skips that the way up takes: one per layer, and the
    halved x where there is one.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        ins = [spec.in_channels] + [spec.out_channels] * (spec.layers - 1)
        self.resnets = nn.ModuleList(ResnetBlock(channels, spec.out_channels, spec.resnet) for channels in ins)
        self.attentions = _attentions(spec, spec.layers)
        self.downsamplers = nn.ModuleList()
        if spec.resample == "conv":
            self.downsamplers.append(Downsample(spec.out_channels, spec.padding))
        elif spec.resample == "resnet":
            self.downsamplers.append(ResnetBlock(spec.out_channels, spec.out_channels, spec.resnet, "down"))

    def forward(self, x: Tensor, emb: Tensor, cond: Prepared) -> tuple[Tensor, list[Tensor]]:
        skips = self.of_this_size(x, emb, cond)
        x = skips[-1]
        for downsampler in self.downsamplers:
            x = downsampler(x) if isinstance(downsampler, Downsample) else downsampler(x, emb)
            skips.append(x)
        return x, skips

    def of_this_size(self, x: Tensor, emb: Tensor, cond: Prepared) -> list[Tensor]:
        """The skips before the size is halved."""
        skips = []
        for index, resnet in enumerate(self.resnets):
            x = resnet(x, emb, edit=cond.edit)
            x = self.attentions[index](x, cond) if self.attentions else x
            skips.append(x)
        return skips


class MidBlock(nn.Module):
    """Residual blocks, with attention between them where there is attention: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(spec.in_channels, spec.out_channels, spec.resnet) for _ in range(spec.layers)
        )
        self.attentions = _attentions(spec, spec.layers - 1)

    def forward(self, x: Tensor, emb: Tensor | None, cond: Prepared) -> Tensor:
        x = self.resnets[0](x, emb, edit=cond.edit)
        for index, resnet in enumerate(self.resnets[1:]):
            x = self.attentions[index](x, cond) if self.attentions else x
            x = resnet(x, emb, edit=cond.edit)
        return x


class UpBlock(nn.Module):
    """Residual blocks over x and a skip, each with attention after it, then the size of the next skip.

    x (B, C, H, W), emb (B, E) -> x of the next level; takes its skips from the end of `skips`.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        ins = [spec.in_channels] + [spec.out_channels] * (spec.layers - 1)
        skips = [spec.out_channels] * (spec.layers - 1) + [spec.skip_channels]
        self.resnets = nn.ModuleList(
            ResnetBlock(channels + skip, spec.out_channels, spec.resnet)
            for channels, skip in zip(ins, skips, strict=True)
        )
        self.attentions = _attentions(spec, spec.layers)
        self.upsamplers = nn.ModuleList()
        if spec.resample == "conv":
            self.upsamplers.append(Upsample(spec.out_channels))
        elif spec.resample == "resnet":
            self.upsamplers.append(ResnetBlock(spec.out_channels, spec.out_channels, spec.resnet, "up"))

    def forward(self, x: Tensor, emb: Tensor, cond: Prepared, skips: list[Tensor]) -> Tensor:
        for index, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), emb, edit=cond.edit)
            x = self.attentions[index](x, cond) if self.attentions else x
        for upsampler in self.upsamplers:
            size = skips[-1].shape[-2:]
            x = upsampler(x, size) if isinstance(upsampler, Upsample) else upsampler(x, emb, size)
        return x
