"""The blocks of `pydiff.nn`, recorded: each function makes the steps that the module's forward takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

from torch import nn

from pydiff.nn.attention import (
    GEGLU,
    GELU,
    BasicTransformerBlock,
    FeedForward,
    JointAttention,
    PixelAttention,
    SelfAttention,
    TextAttention,
    Transformer2D,
)
from pydiff.nn.layer import Layer
from pydiff.nn.merge import left
from pydiff.nn.resnet import Downsample, ResnetBlock, Upsample
from pydiff.runtime.planned import recorder
from pydiff.runtime.planned.memory import View
from pydiff.runtime.planned.recorder import ACTS, PLAIN, Ending, Head, Recorder


class Context(NamedTuple):
    """What blocks read beside x: what each residual block is told (B, 1, 1, n) float32; per layer that reads text its
    keys and values (B, 1, T, 2 C), or in joint attention (B, 1, T + N, 2 C) with room for the pixels' own. merge: the
    share of pixels that are merged."""

    told: dict[ResnetBlock, View]
    text: dict[nn.Module, View]
    tokens: int
    merge: float = 0.0


Attended = Callable[[View, Ending, View | None], View]


def resnet(
    r: Recorder,
    block: ResnetBlock,
    x: View,
    context: Context,
    size: tuple[int, int] | None = None,
    out: View | None = None,
) -> View:
    spec, told = block.spec, context.told.get(block)
    h, head = x, Head(r.statistics(x, block.norm1), ACTS[spec.act])
    if block.resample is not None:
        mean = block.resample == "down"
        height, width = (x.grid[1] // 2, x.grid[2] // 2) if mean else size or x.grid[1:]
        h = r.resample(r.normalise(x, head), height, width, mean=mean)
        x = r.resample(x, height, width, mean=mean)
        h = r.conv(h, block.conv1, Ending(told=None if spec.scale_shift else told))
    else:
        h = r.conv(h, block.conv1, Ending(told=None if spec.scale_shift else told), head=head)
    scale = shift = None
    if spec.scale_shift and told is not None:
        scale, shift = told.columns(0, h.channels), told.columns(h.channels, 2 * h.channels)
    head = Head(r.statistics(h, block.norm2, scale, shift), ACTS[spec.act])
    shortcut = x if block.conv_shortcut is None else r.conv(x, block.conv_shortcut)
    return r.conv(h, block.conv2, Ending(residual=shortcut, scale=1 / spec.out_scale), head=head, out=out)


def resnets(level: nn.Module) -> list[ResnetBlock]:
    """The residual blocks of a level of any network."""
    return [block for block in cast(nn.ModuleList, level.resnets) if isinstance(block, ResnetBlock)]


def downsample(r: Recorder, block: Downsample, x: View, out: View | None) -> View:
    return r.conv(x, block.conv, out=out)


def upsample(r: Recorder, block: Upsample, x: View, size: tuple[int, int], out: View | None) -> View:
    return r.conv(r.resample(x, *size, mean=False), block.conv, out=out)


def attention(r: Recorder, block: nn.Module, x: View, context: Context, out: View | None) -> View:
    if isinstance(block, Transformer2D):
        return _transformer(r, block, x, context, out)
    if isinstance(block, JointAttention):
        return _joint(r, block, x, context, out)
    assert isinstance(block, PixelAttention)
    h = x if block.group_norm is None else r.normalise(x, Head(r.statistics(x, block.group_norm)))
    ending = Ending(residual=x, scale=1 / block.out_scale)
    return _over_left(r, block, partial(_self_attention, r, block), h, context, ending, out)


def _over_left(
    r: Recorder, block: Layer, attend: Attended, x: View, context: Context, ending: Ending, out: View | None = None
) -> View:
    """See `pydiff.nn.attention.over_left`."""
    pixels = math.prod(x.grid[1:])
    count = left(x.grid[1:], context.merge) if block.merges and context.merge else pixels
    if count == pixels:
        return attend(x, ending, out)
    matches = r.match(x, count)
    return r.unmerge(attend(r.merge(x, matches), PLAIN, None), matches, ending, out)


def _self_attention(r: Recorder, block: SelfAttention, x: View, ending: Ending, out: View | None) -> View:
    made = r.product(x, r.weights.linear(block.to_q, block.to_k, block.to_v)).lines()
    width = made.channels // 3
    q, k, v = (made.columns(i * width, (i + 1) * width) for i in range(3))
    h = r.attention(block.name, block.heads, q, k, v, kind="pixels").as_pictures(*x.grid[1:])
    return r.product(h, r.weights.linear(_linear(block.to_out[0])), ending, out)


def _text_attention(r: Recorder, block: TextAttention, x: View, context: Context, ending: Ending) -> View:
    q, both = r.product(x, r.weights.linear(block.to_q)).lines(), context.text[block]
    k, v = both.columns(0, q.channels), both.columns(q.channels, 2 * q.channels)
    h = r.attention(block.name, block.heads, q, k, v, kind="text", masked=block.masked)
    return r.product(h.as_pictures(*x.grid[1:]), r.weights.linear(_linear(block.to_out[0])), ending)


def _joint(r: Recorder, block: JointAttention, x: View, context: Context, out: View | None) -> View:
    h = r.normalise(x, Head(r.statistics(x, block.group_norm)))
    attend = partial(_joint_attention, r, block, context)
    return _over_left(r, block, attend, h, context, Ending(residual=x), out)


def _joint_attention(
    r: Recorder, block: JointAttention, context: Context, x: View, ending: Ending, out: View | None
) -> View:
    both, width = context.text[block], x.channels
    if not block.only_text:
        both = both.items(0, context.tokens + x.grid[1] * x.grid[2])
        pixels = both.items(context.tokens, both.grid[2]).as_pictures(*x.grid[1:])
        r.product(x, r.weights.linear(block.to_k, block.to_v), out=pixels)
    q = r.product(x, r.weights.linear(block.to_q)).lines()
    k, v = both.columns(0, width), both.columns(width, 2 * width)
    h = r.attention(block.name, block.heads, q, k, v, kind="text", masked=True).as_pictures(*x.grid[1:])
    return r.product(h, r.weights.linear(_linear(block.to_out[0])), ending, out)


def _transformer(r: Recorder, block: Transformer2D, x: View, context: Context, out: View | None) -> View:
    h = r.normalise(x, Head(r.statistics(x, block.norm)))
    h = r.product(h, r.weights.linear(_linear(block.proj_in)))
    for inner in block.transformer_blocks:
        assert isinstance(inner, BasicTransformerBlock)
        h = _basic(r, inner, h, context)
    return r.product(h, r.weights.linear(_linear(block.proj_out)), Ending(residual=x), out)


def _basic(r: Recorder, block: BasicTransformerBlock, x: View, context: Context) -> View:
    h, residual = r.layer_norm(x, block.norm1), Ending(residual=x)
    if isinstance(block.attn1, TextAttention):
        x = _text_attention(r, block.attn1, h, context, residual)
    else:
        x = _over_left(r, block.attn1, partial(_self_attention, r, block.attn1), h, context, residual)
    x = _text_attention(r, block.attn2, r.layer_norm(x, block.norm2), context, Ending(residual=x))
    return _feed_forward(r, block.ff, r.layer_norm(x, block.norm3), Ending(residual=x))


def _feed_forward(r: Recorder, block: FeedForward, x: View, ending: Ending) -> View:
    widen, narrow = block.net[0], _linear(block.net[2])
    if isinstance(widen, GEGLU):
        h = r.product(x, r.weights.gated(widen.proj), Ending(act=recorder.GEGLU))
    else:
        assert isinstance(widen, GELU)
        h = r.product(x, r.weights.linear(widen.proj), Ending(act=recorder.GELU))
    return r.product(h, r.weights.linear(narrow), ending)


def _linear(module: nn.Module) -> nn.Linear | nn.Conv2d:
    assert isinstance(module, (nn.Linear, nn.Conv2d))
    return module
