"""Attention to the text, and edits of it: all text keys in one tile, so that maps are whole before they are used."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pydiff.kernels import tiles
from pydiff.kernels.tiles import (
    LOG2E,
    Blocks,
    Rows,
    Shape,
    cast,
    load_head,
    narrow,
    row_of,
    scaled,
    scores,
    store_head,
    weigh,
    wide,
    zeros,
)

MAX_KEYS = 256  # of one tile

BLOCKS: dict[Shape, Blocks] = {
    Shape(80, 16, 256, 256): Blocks(32, 256, 4, 1),
    Shape(80, 32, 256, 256): Blocks(16, 256, 4, 1),
}


class Edit(NamedTuple):
    """source (B,), keep (B, T), and what `transfer` makes of others: values (B, H, T, d), sums (B, T), probe (B, T, K)."""

    source: Tensor
    keep: Tensor
    moved: Tensor
    sums: Tensor | None
    probe: Tensor | None


class Sizes(NamedTuple):
    heads: int
    queries: int
    biased: int
    text: int  # columns that are edited
    probes: int


class Strides(NamedTuple):
    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    out: tuple[int, ...]
    bias: int
    probe: tuple[int, ...]
    heat: tuple[int, ...]


class Job(NamedTuple):
    """What the kernel is given. With `lse` (B, H, N) the tile holds the text of a joint attention, of which the other
    kernel did the pixels: `lse` is that of all keys for plain rows, that of the pixels for edited ones."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor | None
    bias: Tensor | None
    rows: Rows
    edit: Edit | None
    probe: Tensor | None
    heat: Tensor | None
    strides: Strides
    sizes: Sizes
    scale: float


@triton.jit
def _fold(transfer, x, y, source, strides, sizes, BLOCK_T: tl.constexpr, BLOCK_W: tl.constexpr):
    """y[b, g] = transfer[b] x[b, g] for the edited rows: (T, T) times (T, W)."""
    groups, text, width = sizes
    row = tl.program_id(1) // groups
    group = tl.program_id(1) % groups
    if tl.load(source + row) == row:
        return
    lines = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = tl.program_id(2) * BLOCK_W + tl.arange(0, BLOCK_W)
    transfer += row.to(tl.int64) * strides[0][0]
    x += row.to(tl.int64) * strides[1][0] + group * strides[1][1]
    total = tl.zeros([BLOCK_T, BLOCK_W], tl.float32)
    for start in range(0, text, BLOCK_W):
        inner = start + tl.arange(0, BLOCK_W)
        places = transfer + lines[:, None] * strides[0][1] + inner[None, :] * strides[0][2]
        moved = tl.load(places, mask=(lines[:, None] < text) & (inner[None, :] < text), other=0.0)
        places = x + inner[:, None] * strides[1][2] + columns[None, :] * strides[1][3]
        values = tl.load(places, mask=(inner[:, None] < text) & (columns[None, :] < width), other=0.0)
        moved = cast(moved, y.dtype.element_ty)
        total = tl.dot(moved, cast(values, y.dtype.element_ty), total, input_precision="ieee")
    places = y + (tl.program_id(1).to(tl.int64) * text + lines[:, None]) * width + columns[None, :]
    tl.store(places, total, mask=(lines[:, None] < text) & (columns[None, :] < width))


@triton.jit
def _columns(KEYS: tl.constexpr):
    """The tile's keys, as two tiles."""
    return tl.arange(0, wide(KEYS)), wide(KEYS) + tl.arange(0, narrow(KEYS))


@triton.jit
def _load_columns(base, columns, limit):
    """One float32 for every key below `limit`, 0 for the others."""
    first = tl.load(base + columns[0], mask=columns[0] < limit, other=0.0).to(tl.float32)
    return first, tl.load(base + columns[1], mask=columns[1] < limit, other=0.0).to(tl.float32)


@triton.jit
def _times(maps, columns):
    """Both tiles (N, M) times columns (M,)."""
    return maps[0] * columns[0][None, :], maps[1] * columns[1][None, :]


@triton.jit
def _plus(a, b):
    return a[0] + b[0], a[1] + b[1]


@triton.jit
def _sum(maps, KEYS: tl.constexpr):
    """Sums (N,) of the rows of both tiles."""
    total = tl.sum(maps[0], 1)
    if wide(KEYS) < KEYS:
        total += tl.sum(maps[1], 1)
    return total


@triton.jit
def _weigh(maps, base, step, limit, total, columns, KEYS: tl.constexpr, D: tl.constexpr):
    """total + maps v, of values v (limit, d) in memory."""
    found = weigh(maps[0], load_head(base, columns[0], step, limit, D, True), total, D)
    if wide(KEYS) < KEYS:
        found = weigh(maps[1], load_head(base, columns[1], step, limit, D, True), found, D)
    return found


@triton.jit
def _scores(job, row, q, k, columns, KEYS: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr):
    """Scores (N, M) of one tile, in powers of two."""
    s = scores(q, load_head(k, columns, job.strides.k[2] * UNIT, KEYS, D, True), D) * job.scale
    if job.bias is not None:
        places = job.bias + row * job.strides.bias + columns
        s += (tl.load(places, mask=columns < job.sizes.biased, other=0.0).to(tl.float32) * LOG2E)[None, :]
    return tl.where(columns[None, :] < KEYS, s, float("-inf"))


@triton.jit
def _map(job, row, head, lines, columns, KEYS: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr):
    """A row's attention (N, M) to the keys of the tile, and how much of it (N,) goes to keys outside."""
    q = job.q + (row_of(job.rows.q, row) * job.strides.q[0] + head * job.strides.q[1]) * UNIT
    k = job.k + (row_of(job.rows.k, row) * job.strides.k[0] + head * job.strides.k[1]) * UNIT
    q = load_head(q, lines, job.strides.q[2] * UNIT, job.sizes.queries, D, True)
    first = _scores(job, row, q, k, columns[0], KEYS, D, UNIT)
    second = zeros(lines.shape[0], KEYS)[1]
    peak = tl.max(first, 1)
    if wide(KEYS) < KEYS:
        second = _scores(job, row, q, k, columns[1], KEYS, D, UNIT)
        peak = tl.maximum(peak, tl.max(second, 1))
    if job.lse is not None:
        places = job.lse + (row * job.sizes.heads + head) * job.sizes.queries + lines
        given = tl.load(places, mask=lines < job.sizes.queries, other=0.0)
        peak = tl.maximum(peak, given)
    maps = (tl.exp2(first - peak[:, None]), tl.exp2(second - peak[:, None]))
    total = _sum(maps, KEYS)
    outside = tl.zeros_like(total)
    if job.lse is not None:  # that of all keys; for an edited row, of those outside
        outside = tl.exp2(given - peak)
        complete = job.edit is None or tl.load(job.edit.source + row) == row
        outside = tl.where(complete, outside - total, outside)
        total += outside
    return scaled(maps, 1 / total), outside / total


@triton.jit
def _plain(job, row, head, lines, columns, KEYS: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr):
    """Write one head's attention."""
    maps, _ = _map(job, row, head, lines, columns, KEYS, D, UNIT)
    v = job.v + (row_of(job.rows.v, row) * job.strides.v[0] + head * job.strides.v[1]) * UNIT
    found = _weigh(maps, v, job.strides.v[2] * UNIT, KEYS, zeros(lines.shape[0], D), columns, KEYS, D)
    out = job.out + (row.to(tl.int64) * job.strides.out[0] + head * job.strides.out[1]) * UNIT
    store_head(out, lines, job.strides.out[2] * UNIT, job.sizes.queries, found, D)


@triton.jit
def _pixels(borrowed, own, columns, text, rest, PIXELS: tl.constexpr, KEYS: tl.constexpr):
    """Where the tile holds pixels too, their part (N, M) of an edited map, of which the text leaves `rest` (N,)."""
    outside = ((columns[0] >= text).to(tl.float32), (columns[1] >= text).to(tl.float32))
    if PIXELS == "borrow":
        found = _times(borrowed, outside)
    elif PIXELS == "keep":
        found = _times(own, outside)
    else:
        found = _times(own, outside)
        share = _sum(found, KEYS)
        found = scaled(found, tl.where(share > 0, rest / share, 1.0))
    return found


@triton.jit
def _edited(
    job, row, head, lines, columns, PIXELS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr
):
    """Write one head's attention of a row that borrows: A[source] (transfer v) + A keep v, and the pixels."""
    text = job.sizes.text
    borrowed, rest = _map(job, tl.load(job.edit.source + row), head, lines, columns, KEYS, D, UNIT)
    moved = job.edit.moved + (row.to(tl.int64) * job.sizes.heads + head) * text * D
    found = _weigh(borrowed, moved, D, text, zeros(lines.shape[0], D), columns, KEYS, D)
    own, outside = _map(job, row, head, lines, columns, KEYS, D, UNIT)
    weights = _times(own, _load_columns(job.edit.keep + row * text, columns, text))
    if PIXELS == "keep":
        rest = outside
    if PIXELS == "rescale":
        moved_sum = _times(borrowed, _load_columns(job.edit.sums + row * text, columns, text))
        rest = 1 - _sum(_plus(moved_sum, weights), KEYS)
    out = job.out + (row.to(tl.int64) * job.strides.out[0] + head * job.strides.out[1]) * UNIT
    if job.lse is not None:
        pixels = load_head(out, lines, job.strides.out[2] * UNIT, job.sizes.queries, D, True)
        found = _plus(found, scaled((pixels[0].to(tl.float32), pixels[1].to(tl.float32)), rest))
    elif PIXELS != "":
        weights = _plus(weights, _pixels(borrowed, own, columns, text, rest, PIXELS, KEYS))
    v = job.v + (row.to(tl.int64) * job.strides.v[0] + head * job.strides.v[1]) * UNIT
    found = _weigh(weights, v, job.strides.v[2] * UNIT, KEYS, found, columns, KEYS, D)
    store_head(out, lines, job.strides.out[2] * UNIT, job.sizes.queries, found, D)


@triton.jit
def _sum_heads(job, row, lines, columns, KEYS: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr, STAGES: tl.constexpr):
    """The sum of the maps of all heads."""
    total = zeros(lines.shape[0], KEYS)
    for head in tl.range(0, job.sizes.heads, num_stages=STAGES):
        total = _plus(total, _map(job, row, head, lines, columns, KEYS, D, UNIT)[0])
    return total


@triton.jit
def _capture(job, row, lines, columns, maps, probe, step, KEYS: tl.constexpr, PRECISION: tl.constexpr):
    """heat[row] += maps probe / heads, of the sum (N, M) of the heads' maps."""
    maps = scaled(maps, tl.full([lines.shape[0]], 1.0, tl.float32) / job.sizes.heads)
    heat = job.heat + row.to(tl.int64) * job.strides.heat[0] + lines[:, None] * job.strides.heat[1]
    for start in tl.range(0, job.sizes.probes, 16, num_stages=1):
        wanted = start + tl.arange(0, 16)
        inside = (lines[:, None] < job.sizes.queries) & (wanted[None, :] < job.sizes.probes)
        found = tl.load(heat + wanted[None, :], mask=inside)
        for part in tl.static_range(2 if wide(KEYS) < KEYS else 1):
            given = (columns[part][:, None] < job.sizes.text) & (wanted[None, :] < job.sizes.probes)
            values = tl.load(probe + columns[part][:, None] * step + wanted[None, :], mask=given, other=0.0)
            found = tl.dot(maps[part], values.to(tl.float32), found, input_precision=PRECISION)
        tl.store(heat + wanted[None, :], found, mask=inside)


@triton.jit
def _text(
    job,
    PIXELS: tl.constexpr,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program writes a tile of queries of one head or, if there is a probe and it is the first, captures all heads."""
    row = tl.program_id(1)
    head = tl.program_id(2)
    lines = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = _columns(KEYS)
    if job.probe is not None:
        if head == 0:
            total = _sum_heads(job, row, lines, columns, KEYS, D, UNIT, STAGES)
            if job.edit is not None:
                source = tl.load(job.edit.source + row)
                if source != row:
                    total = _times(total, _load_columns(job.edit.keep + row * job.sizes.text, columns, job.sizes.text))
                    borrowed = _sum_heads(job, source, lines, columns, KEYS, D, UNIT, STAGES)
                    moved = job.edit.probe + row * job.sizes.text * job.sizes.probes
                    _capture(job, row, lines, columns, borrowed, moved, job.sizes.probes, KEYS, PRECISION)
            probe = job.probe + row * job.strides.probe[0]
            _capture(job, row, lines, columns, total, probe, job.strides.probe[1], KEYS, PRECISION)
            return
        head -= 1
    if job.edit is not None:
        if tl.load(job.edit.source + row) != row:
            _edited(job, row, head, lines, columns, PIXELS, KEYS, D, UNIT)
            return
    if job.lse is None:
        _plain(job, row, head, lines, columns, KEYS, D, UNIT)


def fold(transfer: Tensor, x: Tensor, source: Tensor) -> Tensor:
    """transfer (B, T, T) times x (B, G, T, W), for rows with source[b] != b; others are not written."""
    batch, groups, text, width = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(text, 32), batch * groups, triton.cdiv(width, 64))
    with torch.cuda.device_of(x):
        _fold[grid](transfer, x, y, source, (transfer.stride(), x.stride()), (groups, text, width), 32, 64)
    return y


def text_attention(q, k, v, out, *, keys, lse=None, bias=None, rows=Rows(), edit=None, text=0, pixels="", probe=None, heat=None, blocks=None):
    batch, heads, queries, size = out.shape
    programs = (heads if lse is None or edit is not None else 0) + (probe is not None)
    blocks = blocks or tiles.choose(BLOCKS, q, batch * queries * programs, triton.next_power_of_2(keys))
    tensors = (q, k, v, out)
    unit = tiles.unit(*tensors)
    probes = 0 if probe is None else probe.shape[-1]
    strides = Strides(
        *(tiles.strides(t, unit) for t in tensors), 0 if bias is None else bias.stride(0),
        *(() if t is None else t.stride()[:2] for t in (probe, heat)))
    sizes = Sizes(heads, queries, 0 if bias is None else bias.shape[-1], text, probes)
    grid = (triton.cdiv(queries, blocks.queries), batch, programs)
    with torch.cuda.device_of(q):
        _text[grid](Job(*tensors, lse, bias, rows, edit, probe, heat, strides, sizes, LOG2E.value / size**0.5),
            pixels, keys, size, unit, blocks.queries, blocks.stages, 
            "ieee" if q.dtype == torch.float32 else "tf32", num_warps=blocks.warps)
