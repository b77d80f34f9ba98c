"""Attention to the text, its capture and its edits: maps are whole before they meet the values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .blocks import TEXT, Blocks, choose
from .text_maps import Edit, Job, Sizes, Strides, attention_map
from .tiles import (
    LOG2E,
    Rows,
    columns_of,
    load_columns,
    load_head,
    plus,
    row_of,
    row_sums,
    scaled,
    store_head,
    times,
    weigh,
    wide,
    zeros,
)

MAX_KEYS = 128  # of one tile
MANY = 64  # keys of each of several tiles


@triton.jit
def _weigh(maps, base, step, limit, total, columns, TILE: tl.constexpr, D: tl.constexpr):
    """total + maps v, of values v (limit, d) in memory."""
    found = weigh(maps[0], load_head(base, columns[0], step, limit, D, True), total, D)
    if wide(TILE) < TILE:
        found = weigh(maps[1], load_head(base, columns[1], step, limit, D, True), found, D)
    return found


@triton.jit
def _plain(job, row, head, lines, KEYS: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr):
    """Write one head's attention."""
    columns = columns_of(0, KEYS)
    maps = attention_map(job, row, head, lines, columns, KEYS, KEYS, D, UNIT)
    v = job.v + (row_of(job.rows.v, row) * job.strides.v[0] + head * job.strides.v[1]) * UNIT
    found = _weigh(maps, v, job.strides.v[2] * UNIT, KEYS, zeros(lines.shape[0], D), columns, KEYS, D)
    out = job.out + (row.to(tl.int64) * job.strides.out[0] + head * job.strides.out[1]) * UNIT
    store_head(out, lines, job.strides.out[2] * UNIT, job.sizes.queries, found, D)


@triton.jit
def _edited(job, row, head, lines, KEYS: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr):
    """Write one head's attention of a row that borrows: A[source] (transfer v) + A keep v, and the pixels' part."""
    text = job.sizes.text
    source = tl.load(job.edit.source + row)
    moved = job.edit.moved + (row.to(tl.int64) * job.sizes.heads + head) * text * D
    v = job.v + (row.to(tl.int64) * job.strides.v[0] + head * job.strides.v[1]) * UNIT
    out = job.out + (row.to(tl.int64) * job.strides.out[0] + head * job.strides.out[1]) * UNIT
    found = zeros(lines.shape[0], D)
    rest = tl.full([lines.shape[0]], 1.0, tl.float32)
    for start in tl.range(0, KEYS, TILE, num_stages=1):
        columns = columns_of(start, TILE)
        borrowed = attention_map(job, source, head, lines, columns, KEYS, TILE, D, UNIT)
        found = _weigh(borrowed, moved, D, text, found, columns, TILE, D)
        own = attention_map(job, row, head, lines, columns, KEYS, TILE, D, UNIT)
        weights = times(own, load_columns(job.edit.keep + row * text, columns, text))
        if job.edit.sums is not None:
            sums = times(borrowed, load_columns(job.edit.sums + row * text, columns, text))
            rest -= row_sums(plus(sums, weights), TILE)
        found = _weigh(weights, v, job.strides.v[2] * UNIT, KEYS, found, columns, TILE, D)
    if job.lse is not None:
        pixels = load_head(out, lines, job.strides.out[2] * UNIT, job.sizes.queries, D, True)
        found = plus(found, scaled((pixels[0].to(tl.float32), pixels[1].to(tl.float32)), rest))
    store_head(out, lines, job.strides.out[2] * UNIT, job.sizes.queries, found, D)


@triton.jit
def _sum_heads(
    job,
    row,
    lines,
    columns,
    KEYS: tl.constexpr,
    TILE: tl.constexpr,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The mean of the maps of all heads."""
    total = zeros(lines.shape[0], TILE)
    for head in tl.range(0, job.sizes.heads, num_stages=STAGES):
        total = plus(total, attention_map(job, row, head, lines, columns, KEYS, TILE, D, UNIT))
    return scaled(total, tl.full([lines.shape[0]], 1.0, tl.float32) / job.sizes.heads)


@triton.jit
def _probe(job, row, lines, columns, maps, probe, steps, TILE: tl.constexpr, PRECISION: tl.constexpr):
    """heat[row] += maps probe, of a probe (T, K) with these steps in memory."""
    heat = job.heat + row.to(tl.int64) * job.strides.heat[0] + lines[:, None] * job.strides.heat[1]
    for start in tl.range(0, job.sizes.probes, 16, num_stages=1):
        wanted = start + tl.arange(0, 16)
        places = heat + wanted[None, :] * job.strides.heat[2]
        inside = (lines[:, None] < job.sizes.queries) & (wanted[None, :] < job.sizes.probes)
        found = tl.load(places, mask=inside, other=0.0)
        for part in tl.static_range(2 if wide(TILE) < TILE else 1):
            given = (columns[part][:, None] < job.sizes.text) & (wanted[None, :] < job.sizes.probes)
            values = probe + columns[part][:, None] * steps[0] + wanted[None, :] * steps[1]
            values = tl.load(values, mask=given, other=0.0).to(tl.float32)
            found = tl.dot(maps[part], values, found, input_precision=PRECISION)
        tl.store(places, found, mask=inside)


@triton.jit
def _capture(
    job,
    row,
    lines,
    KEYS: tl.constexpr,
    TILE: tl.constexpr,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """heat[row] += the mean of the heads' maps, edited where the row is, times probe."""
    text = job.sizes.text
    for start in tl.range(0, KEYS, TILE, num_stages=1):
        columns = columns_of(start, TILE)
        mean = _sum_heads(job, row, lines, columns, KEYS, TILE, D, UNIT, STAGES)
        if job.edit is not None:
            source = tl.load(job.edit.source + row)
            if source != row:
                mean = times(mean, load_columns(job.edit.keep + row * text, columns, text))
                borrowed = _sum_heads(job, source, lines, columns, KEYS, TILE, D, UNIT, STAGES)
                moved = job.edit.probe + row * text * job.sizes.probes
                _probe(job, row, lines, columns, borrowed, moved, (job.sizes.probes, 1), TILE, PRECISION)
        probe = job.probe + row * job.strides.probe[0]
        steps = (job.strides.probe[1], job.strides.probe[2])
        _probe(job, row, lines, columns, mean, probe, steps, TILE, PRECISION)


@triton.jit
def _text(
    job,
    WRITES: tl.constexpr,
    KEYS: tl.constexpr,
    TILE: tl.constexpr,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program writes a tile of queries of one head; where there is a probe, the first captures all heads instead."""
    row = tl.program_id(1)
    head = tl.program_id(2)
    lines = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if job.probe is not None:
        if head == 0:
            _capture(job, row, lines, KEYS, TILE, D, UNIT, STAGES, PRECISION)
            return
        head -= 1
    if WRITES:
        if job.edit is not None:
            if tl.load(job.edit.source + row) != row:
                _edited(job, row, head, lines, KEYS, TILE, D, UNIT)
                return
        if job.lse is None:
            _plain(job, row, head, lines, KEYS, D, UNIT)


def text_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    *,
    keys: int,
    text: int = 0,
    lse: Tensor | None = None,
    bias: Tensor | None = None,
    rows: Rows = Rows(),
    edit: Edit | None = None,
    probe: Tensor | None = None,
    heat: Tensor | None = None,
    blocks: Blocks | None = None,
) -> None:
    """Write attention to the first `keys` keys to out, and add its capture, of the first `text`, to heat.

    Without lse these are all keys, at most MAX_KEYS. With lse, as `flash` leaves it, they
    are the text; then only edited rows are written, and what the pixels give is read there, times 1 - sum(E) if the
    edit has sums.
    """
    job = Job(q, k, v, out, lse, bias, rows, edit, probe, heat)
    if edit is None:
        _launch("plain", job, keys, text, blocks)
        return
    _launch("edit" if lse is None else "joint edit", job._replace(probe=None, heat=None), keys, text, blocks)
    if probe is not None:  # alone, so that either has all registers
        _launch("edit capture", job, keys, text, blocks)


def _launch(kind: str, job: Job, keys: int, text: int, blocks: Blocks | None) -> None:
    tensors = job[:4]
    batch, heads, queries, size = job.out.shape
    tile = keys if job.lse is None or keys <= MAX_KEYS else MANY
    writes = kind in ("edit", "joint edit") or (kind == "plain" and job.lse is None)
    programs = heads * writes + (job.probe is not None)
    blocks = blocks or choose(TEXT, kind, job.q, batch * queries * programs, tile)
    unit = tiles.unit(*tensors)
    given = (job.bias, job.probe, job.heat)
    steps = [tiles.strides(x, unit) for x in tensors] + [None if x is None else x.stride() for x in given]
    sizes = Sizes(heads, queries, tiles.width(job.bias), text, tiles.width(job.probe))
    with torch.cuda.device_of(job.q):
        _text[triton.cdiv(queries, blocks.queries), batch, programs](
            job._replace(strides=Strides(*steps), sizes=sizes, scale=LOG2E.value / size**0.5),
            writes,
            keys,
            tile,
            size,
            unit,
            blocks.queries,
            blocks.stages,
            "ieee" if job.q.dtype == torch.float32 else "tf32",
            num_warps=blocks.warps,
        )
