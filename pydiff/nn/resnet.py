"""The residual block, and changes of size."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pydiff.nn.activations import ACTIVATIONS, norm_act
from pydiff.nn.edit import AttentionEdit
from pydiff.nn.layer import Layer


class ResnetSpec(NamedTuple):
    """What all residual blocks of a level share."""

    embed_dim: int | None  # width of the embedding of t; None where there is none
    groups: int
    eps: float
    act: str = "silu"
    scale_shift: bool = False  # the embedding scales and shifts the second norm; otherwise it is added before it
    skip_embed_act: bool = False  # the embedding arrives activated
    out_scale: float = 1.0  # the sum is divided by it
    dropout: float = 0.0  # in training only


class ResnetBlock(Layer):
    """(x + conv(act(norm(conv(act(norm x)), emb)))) / out_scale (Dhariwal and Nichol 2021, appendix A).

    x (B, C_in, H, W), emb (B, E) -> (B, C_out, H', W'); resample "down" halves the size by averages of 2x2, "up" grows
    it to the nearest pixels of `size` (H', W'). Without an embed_dim there is no emb. An edit may put
    the convolutions' result of another row in place of a row's own.
    """

    def __init__(self, in_channels: int, out_channels: int, spec: ResnetSpec, resample: str | None = None) -> None:
        super().__init__()
        self.spec, self.resample = spec, resample
        self.norm1 = nn.GroupNorm(spec.groups, in_channels, eps=spec.eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj: nn.Linear | None = None
        if spec.embed_dim is not None:
            self.time_emb_proj = nn.Linear(spec.embed_dim, out_channels * (2 if spec.scale_shift else 1))
        self.norm2 = nn.GroupNorm(spec.groups, out_channels, eps=spec.eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(
        self,
        x: Tensor,
        emb: Tensor | None = None,
        size: tuple[int, int] | None = None,
        edit: AttentionEdit | None = None,
    ) -> Tensor:
        spec = self.spec
        h = norm_act(self.norm1, x, spec.act)
        if self.resample == "down":
            x, h = F.avg_pool2d(x, 2), F.avg_pool2d(h, 2)
        elif self.resample == "up":
            x, h = F.interpolate(x, size=size), F.interpolate(h, size=size)
        h, scale, shift = self.conv1(h), None, None
        if self.time_emb_proj is not None:
            assert emb is not None
            told = self.time_emb_proj(emb if spec.skip_embed_act else ACTIVATIONS[spec.act](emb))
            if spec.scale_shift:
                scale, shift = told.chunk(2, dim=1)
            else:
                h = h + told[:, :, None, None]
        h = norm_act(self.norm2, h, spec.act, scale, shift)
        h = self.conv2(F.dropout(h, spec.dropout, self.training))
        injected = None if edit is None else edit.injected(self.name, h.shape[2] * h.shape[3])
        h = h if injected is None else h[injected]
        out: Tensor = (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h
        return out if spec.out_scale == 1 else out / spec.out_scale


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)).

    padding 1 on every side, or 0: then one row below and one column on the right (floor in place of ceil).
    """

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))
        return h


class Upsample(nn.Module):
    """Nearest pixels of `size`, then a 3x3 convolution: (B, C, H, W) -> (B, C, *size)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        h: Tensor = self.conv(F.interpolate(x, size=size))
        return h
