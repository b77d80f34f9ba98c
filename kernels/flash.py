"""Attention over any number of keys in one pass, by tiles of keys under an online softmax."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pydiff.kernels import tiles
from pydiff.kernels.tiles import LOG2E, Blocks, Rows, Shape, load_head, row_of, scaled, scores, store_head, weigh, zeros

BLOCKS: dict[Shape, Blocks] = {
    Shape(80, 16, 256): Blocks(64, 32, 4, 2),
    Shape(80, 32, 256): Blocks(32, 32, 4, 2),
    Shape(90, 16, 256): Blocks(64, 64, 4, 2),
    Shape(90, 32, 256): Blocks(32, 32, 4, 2),
}


class Sizes(NamedTuple):
    batch: int
    heads: int
    queries: int
    keys: int
    biased: int
    text: int


class Strides(NamedTuple):
    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...] | None
    out: tuple[int, ...] | None
    bias: int


class Job(NamedTuple):
    """What the kernel is given. Rows with source[b] != b attend to the keys from `text` on only; their `lse` too."""

    q: Tensor
    k: Tensor
    v: Tensor | None
    out: Tensor | None
    lse: Tensor
    bias: Tensor | None
    rows: Rows
    source: Tensor | None
    strides: Strides
    sizes: Sizes
    scale: float


@triton.jit
def _attend(
    state,
    q,
    pointers,
    bias,
    steps,
    first,
    last,
    scale,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Go on with a softmax over the keys `first` to `last` (Milakov and Gimelshein 2018), in powers of two."""
    k, v, w = pointers
    top, total, out_v, out_w = state
    for start in tl.range(first, last, BLOCK, num_stages=STAGES):
        columns = start + tl.arange(0, BLOCK)
        s = scores(q, load_head(k, columns, steps[0], last, D, MASKED), D)
        if MASKED:
            s = tl.where(columns[None, :] < last, s, float("-inf"))
        if bias is None:
            peak = tl.maximum(top, tl.max(s, 1) * scale)
            shift = peak
            p = tl.exp2(s * scale - shift[:, None])
        else:
            added = tl.load(bias + columns, mask=columns < last, other=0.0).to(tl.float32) * LOG2E
            s = s * scale + added[None, :]
            peak = tl.maximum(top, tl.max(s, 1))
            shift = tl.where(peak == float("-inf"), 0.0, peak)  # every key so far is masked
            p = tl.exp2(s - shift[:, None])
        decay = tl.exp2(top - shift)
        top = peak
        total = total * decay + tl.sum(p, 1)
        if v is not None:
            out_v = weigh(p, load_head(v, columns, steps[1], last, D, MASKED), scaled(out_v, decay), D)
        if w is not None:
            out_w = weigh(p, load_head(w, columns, steps[1], last, D, MASKED), scaled(out_w, decay), D)
    return top, total, out_v, out_w


@triton.jit
def _softmax(job, row, q, k, v, w, D: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    """(lse, out of v, out of w): the pixels, or all keys without a bias, and then the biased keys."""
    start = job.sizes.biased
    biased = job.sizes.biased
    if job.source is not None:
        edited = tl.load(job.source + row) != row
        start = tl.where(edited, job.sizes.text, start)
        biased = tl.where(edited, 0, biased)
    stop = job.sizes.keys
    full = start + (stop - start) // BLOCK * BLOCK
    N: tl.constexpr = q[0].shape[0]
    state = (tl.full([N], float("-inf"), tl.float32), tl.zeros([N], tl.float32), zeros(N, D), zeros(N, D))
    steps = (job.strides.k[2] * UNIT, job.strides.k[2] * UNIT if v is None else job.strides.v[2] * UNIT)
    state = _attend(state, q, (k, v, w), None, steps, start, full, job.scale, D, BLOCK, False, STAGES)
    state = _attend(state, q, (k, v, w), None, steps, full, stop, job.scale, D, BLOCK, True, 1)
    if job.bias is not None:
        bias = job.bias + row * job.strides.bias
        state = _attend(state, q, (k, v, w), bias, steps, 0, biased, job.scale, D, BLOCK, True, STAGES)
    top, total, out_v, out_w = state
    return top + tl.log2(total), scaled(out_v, 1 / total), scaled(out_w, 1 / total)


@triton.jit
def _partner(rows, row, batch, BLOCK: tl.constexpr):
    """(turn, other): the rows with one map are paired in order; turn 1 has been served by the row before it, turn 0
    serves `other` too, which is `batch` or more when there is none."""
    others = tl.arange(0, BLOCK)
    inside = others < batch
    q = tl.load(rows.q + others, mask=inside, other=-1)
    k = tl.load(rows.k + others, mask=inside, other=-1)
    same = inside & (q == tl.load(rows.q + row)) & (k == tl.load(rows.k + row))
    turn = tl.sum((same & (others < row)).to(tl.int32)) % 2
    return turn, tl.min(tl.where(same & (others > row), others, BLOCK))


@triton.jit
def _write(job, row, head, lines, lse, out, D: tl.constexpr, UNIT: tl.constexpr):
    places = job.lse + (row * job.sizes.heads + head) * job.sizes.queries + lines
    tl.store(places, lse, mask=lines < job.sizes.queries)
    if job.out is not None:
        base = job.out + (row.to(tl.int64) * job.strides.out[0] + head * job.strides.out[1]) * UNIT
        store_head(base, lines, job.strides.out[2] * UNIT, job.sizes.queries, out, D)


@triton.jit
def _values(job, row, head, UNIT: tl.constexpr):
    """Where the values of a row and head begin; None where they are not asked for."""
    if job.v is None:
        base = None
    else:
        base = job.v + (row_of(job.rows.v, row) * job.strides.v[0] + head * job.strides.v[1]) * UNIT
    return base


@triton.jit
def _flash(
    job,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    STAGES: tl.constexpr,
):
    """A program's queries are one tile of one head; with SHARED (at least the batch), of one or two rows."""
    tile = tl.program_id(0) % tl.cdiv(job.sizes.queries, BLOCK_N)
    pair = tl.program_id(0) // tl.cdiv(job.sizes.queries, BLOCK_N)
    row = pair // job.sizes.heads
    head = pair % job.sizes.heads
    lines = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    q = job.q + (row_of(job.rows.q, row) * job.strides.q[0] + head * job.strides.q[1]) * UNIT
    k = job.k + (row_of(job.rows.k, row) * job.strides.k[0] + head * job.strides.k[1]) * UNIT
    v = _values(job, row, head, UNIT)
    q = load_head(q, lines, job.strides.q[2] * UNIT, job.sizes.queries, D, True)
    if SHARED == 0:
        lse, out, _ = _softmax(job, row, q, k, v, None, D, UNIT, BLOCK_M, STAGES)
    else:
        turn, other = _partner(job.rows, row, job.sizes.batch, SHARED)
        if turn == 1:
            return
        if other < job.sizes.batch:
            w = _values(job, other, head, UNIT)
            lse, out, also = _softmax(job, row, q, k, v, w, D, UNIT, BLOCK_M, STAGES)
            _write(job, other, head, lines, lse, also, D, UNIT)
        else:
            lse, out, _ = _softmax(job, row, q, k, v, None, D, UNIT, BLOCK_M, STAGES)
    _write(job, row, head, lines, lse, out, D, UNIT)


def flash(q, k, v, out, lse, *, bias=None, rows=Rows(), source=None, text=0, blocks=None):
    batch, heads, queries = lse.shape
    size = q.shape[-1]
    blocks = blocks or tiles.choose(BLOCKS, q, lse.numel())
    unit = tiles.unit(*(t for t in (q, k, v, out) if t is not None))
    strides = Strides(*(tiles.strides(t, unit) for t in (q, k, v, out)), 0 if bias is None else bias.stride(0))
    shared = rows.q is not None and rows.k is not None and rows.v is None and source is None and bias is None
    sizes = Sizes(batch, heads, queries, k.shape[2], 0 if bias is None else bias.shape[-1], text)
    grid = (triton.cdiv(queries, blocks.queries) * batch * heads,)
    with torch.cuda.device_of(q):
        _flash[grid](
            Job(q, k, v, out, lse, bias, rows, source, strides, sizes, LOG2E.value / size**0.5), size, unit,
            triton.next_power_of_2(batch) if shared else 0,
            blocks.queries, blocks.keys, blocks.stages, num_warps=blocks.warps,
        )
