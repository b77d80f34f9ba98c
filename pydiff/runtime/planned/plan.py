"""The plan of one U-Net for one size: its steps, its memory, and where x, the conditioning and the result are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from pydiff.models.unet import UNet
from pydiff.nn.attend import attend_pixels, attend_text
from pydiff.nn.attention import JointAttention, TextAttention
from pydiff.nn.blocks import DownBlock, UpBlock
from pydiff.nn.cond import Prepared
from pydiff.nn.edit import AttentionEdit
from pydiff.nn.resnet import Downsample, ResnetBlock, Upsample
from pydiff.runtime.planned.blocks import Context, attention, downsample, resnet, resnets, upsample
from pydiff.runtime.planned.memory import View
from pydiff.runtime.planned.recorder import ACTS, Attend, Head, Recorder, heads_of
from pydiff.runtime.planned.telling import Tell, Telling, Times
from pydiff.runtime.planned.weights import Weights


class Plan:
    """x (B, C, height, width), T tokens: used by one call at a time. outer: the outermost level alone, over what
    another call left of the others (see `pydiff.step_cache`). merge: the share of pixels that are merged."""

    def __init__(
        self, unet: UNet, weights: Weights, shape: tuple[int, int, int, int], tokens: int, outer: bool, merge: float
    ) -> None:
        batch, channels, height, width = shape
        r = Recorder(weights)
        self.tokens, self.layers = tokens, unet.text_layers
        self.x = r.new((batch, height, width, channels), kept=True)
        self.telling = Telling(r, unet, batch)
        self.begin = len(r.steps)
        self.bias = r.bias = r.new((batch, 1, 1, tokens), torch.float32, kept=True) if tokens else None
        self.text = list(_text_views(r, unet, shape, tokens))
        text: dict[nn.Module, View] = dict(zip(self.layers, self.text, strict=True))
        self.walk = Walk(r, unet, Context(self.telling.told, text, tokens, merge))
        self.out = self.walk.record(self.x, outer)
        self.attends: list[Attend] = r.attends
        self.program, self.arena = r.written()
        self.bound: Prepared | None = None

    @property
    def deep(self) -> Tensor:
        """What came up to the outermost level, (B, C, height, width), in place."""
        return self.arena.tensor(self.walk.deep).permute(0, 3, 1, 2)

    def run(self, x: Tensor, tell: Tell, prepared: Prepared) -> Tensor:
        """-> the prediction (B, C_out, height, width) in float32."""
        self.arena.tensor(self.x).copy_(x.permute(0, 2, 3, 1))
        first = 0 if isinstance(tell, Times) else self.begin
        self.telling.take(self.arena, tell)
        self._bind(prepared)
        if prepared.edit is None:
            self._steps(first, len(self.program))
        else:
            self._edited(first, prepared.edit, prepared.bias)
        return self.arena.tensor(self.out).permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)

    def _steps(self, first: int, last: int) -> None:
        self.program.run(first, last, torch.get_num_threads())

    def _edited(self, done: int, edit: AttentionEdit, bias: Tensor | None) -> None:
        """All steps from one on, with the layers of attention run as the edit says."""
        for attend in self.attends:
            self._steps(done, attend.step)
            q, k, v, out = (heads_of(view, attend.heads, self.arena) for view in attend[4:8])
            if attend.kind == "pixels":
                out.copy_(attend_pixels(q, k, v, edit, attend.name))
            else:
                out.copy_(attend_text(q, k, v, bias if attend.masked else None, edit, attend.name))
            done = attend.step + 1
        self._steps(done, len(self.program))

    def _bind(self, prepared: Prepared) -> None:
        """Copy the text's keys, values and biases to where the steps read them."""
        if self.bound is not None and self.bound.text is prepared.text and self.bound.bias is prepared.bias:
            return
        for layer, view, (k, v) in zip(self.layers, self.text, prepared.text, strict=True):
            both = self.arena.tensor(view)[:, 0, : self.tokens].unflatten(2, (2, layer.heads, -1))
            both.copy_(torch.stack((k, v), 2).permute(0, 3, 2, 1, 4))  # (B, T, 2, heads, d)
        if self.bias is not None:
            bias = self.arena.tensor(self.bias)[:, 0, 0]
            bias.zero_() if prepared.bias is None else bias.copy_(prepared.bias[:, 0, 0])
        self.bound = prepared


def _text_views(r: Recorder, unet: UNet, shape: tuple[int, int, int, int], tokens: int) -> Iterator[View]:
    """Where each layer that reads text finds its keys and values, with room for the pixels' in joint attention."""
    sizes = dict(_sizes(unet, shape[2:]))
    for layer in unet.text_layers:
        assert isinstance(layer, (TextAttention, JointAttention))
        joint = isinstance(layer, JointAttention) and not layer.only_text
        items = tokens + math.prod(sizes[layer]) if joint else tokens
        yield r.new((shape[0], 1, items, 2 * layer.to_q.out_features), kept=True)


def _sizes(unet: UNet, size: tuple[int, int]) -> Iterator[tuple[nn.Module, tuple[int, int]]]:
    """The height and width that every block of attention sees."""
    levels = [size]
    for down in unet.down_blocks:
        assert isinstance(down, DownBlock)
        yield from ((block, levels[-1]) for block in down.attentions)
        for downsampler in down.downsamplers:
            levels.append(_halved(downsampler, levels[-1]))
    if unet.mid_block is not None:
        yield from ((block, levels[-1]) for block in unet.mid_block.attentions)
    for up in unet.up_blocks:
        assert isinstance(up, UpBlock)
        yield from ((block, levels[-1]) for block in up.attentions)
        if up.upsamplers:
            levels.pop()


def _halved(block: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    up = isinstance(block, Downsample) and block.padding > 0
    return (size[0] + up) // 2, (size[1] + up) // 2


class Walk:
    """The U-Net's forward, recorded. joined: what every residual block on the way up reads, x and the skip beside it,
    those that are made first being read last."""

    def __init__(self, r: Recorder, unet: UNet, context: Context) -> None:
        self.r, self.unet, self.context = r, unet, context
        self.widths = _widths(unet)
        self.joined: list[View] = []
        self.deep: View

    def record(self, x: View, outer: bool) -> View:
        """From x to the prediction in float32; of the outermost level alone, with `deep` given."""
        unet, levels, last = self.unet, list(self.unet.down_blocks), len(self.unet.up_blocks) - 1
        h = self.r.conv(x, unet.conv_in, out=self._skip(unet.conv_in.out_channels, x))
        h = self._down(cast(DownBlock, levels[0]), h, whole=not outer)
        if not outer:
            for level in levels[1:]:
                h = self._down(cast(DownBlock, level), h)
            h = self._middle(h)
            for level in unet.up_blocks[:last]:
                h = self._up(cast(UpBlock, level), h)
        self.deep = self.joined[-1].columns(0, self.widths[len(self.joined) - 1])
        self.deep.buffer.kept = True
        h = self._up(cast(UpBlock, unet.up_blocks[last]), self.deep)
        head = Head(self.r.statistics(h, unet.conv_norm_out), ACTS[unet.config.act_fn])
        out = self.r.new((*h.grid, unet.conv_out.out_channels), torch.float32, kept=True)
        return self.r.conv(h, unet.conv_out, head=head, out=out)

    def _skip(self, made: int, like: View, size: tuple[int, int] | None = None) -> View:
        """Where a skip of so many channels goes: behind the channels of what will stand beside it."""
        beside = self.widths[len(self.joined)]
        images, height, width = like.grid
        self.joined.append(self.r.new((images, *(size or (height, width)), beside + made)))
        return self.joined[-1].columns(beside, beside + made)

    def _down(self, down: DownBlock, h: View, whole: bool = True) -> View:
        r, context = self.r, self.context
        for index, block in enumerate(resnets(down)):
            to = self._skip(block.conv2.out_channels, h)
            h = resnet(r, block, h, context, None, None if down.attentions else to)
            h = attention(r, down.attentions[index], h, context, to) if down.attentions else h
        for downsampler in down.downsamplers if whole else ():
            size = _halved(downsampler, h.grid[1:])
            h = _resized(r, downsampler, h, context, size, self._skip(h.channels, h, size))
        return h

    def _middle(self, h: View) -> View:
        mid, r, context, to = self.unet.mid_block, self.r, self.context, self.joined[-1].columns(0, h.channels)
        if mid is None:
            return r.normalise(h, out=to)
        for index, block in enumerate(resnets(mid)):
            if index and mid.attentions:
                h = attention(r, mid.attentions[index - 1], h, context, None)
            h = resnet(r, block, h, context, None, to if index == len(mid.resnets) - 1 else None)
        return h

    def _up(self, up: UpBlock, h: View) -> View:
        """h: the place beside the first skip, which is filled by what was recorded last."""
        r, context, joined = self.r, self.context, self.joined
        for index, block in enumerate(resnets(up)):
            whole = joined.pop()
            follows = joined and not (index == len(up.resnets) - 1 and up.upsamplers)
            to = joined[-1].columns(0, block.conv2.out_channels) if follows else None
            h = resnet(r, block, whole, context, None, None if up.attentions else to)
            h = attention(r, up.attentions[index], h, context, to) if up.attentions else h
        for upsampler in up.upsamplers:
            h = _resized(r, upsampler, h, context, joined[-1].grid[1:], joined[-1].columns(0, h.channels))
        return h


def _resized(r: Recorder, block: nn.Module, h: View, context: Context, size: tuple[int, int], to: View) -> View:
    """The change of size between two levels."""
    if isinstance(block, Downsample):
        return downsample(r, block, h, to)
    if isinstance(block, Upsample):
        return upsample(r, block, h, size, to)
    return resnet(r, cast(ResnetBlock, block), h, context, size, to)


def _widths(unet: UNet) -> list[int]:
    """Channels of what stands beside each skip on the way up, for the skips in the order that they are made."""
    skips = [unet.conv_in.out_channels]
    for down in unet.down_blocks:
        assert isinstance(down, DownBlock)
        channels = [block.conv2.out_channels for block in resnets(down)]
        skips += channels + channels[-1:] * len(down.downsamplers)
    ins = [block.conv1.in_channels for up in unet.up_blocks for block in resnets(cast(UpBlock, up))]
    return [whole - skip for whole, skip in zip(reversed(ins), skips, strict=True)]
