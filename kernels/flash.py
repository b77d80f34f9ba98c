"""Attention over any number of keys in one pass, by tiles of keys under an online softmax."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .blocks import FLASH, Blocks, choose
from .tiles import LOG2E, Rows, in_powers, inverse, load_head, row_of, scaled, scores, store_head, weigh, zeros

MAX_SHARED = 80  # head size, of two rows' outputs in one program's registers


class Sizes(NamedTuple):
    """Rows, heads, queries, keys, keys with a bias, and the first key that is a pixel to an edited row."""

    batch: int
    heads: int
    queries: int
    keys: int
    biased: int
    text: int


class Strides(NamedTuple):
    """Between rows, heads and items; those of q, k, v and out in units."""

    q: tuple[int, ...] | None
    k: tuple[int, ...] | None
    v: tuple[int, ...] | None
    out: tuple[int, ...] | None
    bias: tuple[int, ...] | None


class Job(NamedTuple):
    """What the kernel is given. Rows with source[b] != b are edited: they get the part of the pixels only."""

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
    job,
    state,
    q,
    pointers,
    bias,
    first,
    last,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Go on with a softmax over the keys `first` to `last` (Milakov and Gimelshein 2018), in powers of two."""
    k, v, w = pointers
    top, total, out_v, out_w = state
    for start in tl.range(first, last, BLOCK, num_stages=STAGES):
        columns = start + tl.arange(0, BLOCK)
        s = scores(q, load_head(k, columns, job.strides.k[2] * UNIT, last, D, MASKED), D)
        if MASKED:
            s = tl.where(columns[None, :] < last, s, float("-inf"))
        if bias is None:
            peak = tl.maximum(top, tl.max(s, 1) * job.scale)
            shift = peak
            p = tl.exp2(s * job.scale - shift[:, None])
        else:
            added = tl.load(bias + columns * job.strides.bias[1], mask=columns < last, other=0.0).to(tl.float32)
            s = s * job.scale + in_powers(added)[None, :]
            peak = tl.maximum(top, tl.max(s, 1))
            shift = tl.where(peak == float("-inf"), 0.0, peak)  # every key so far is masked
            p = tl.exp2(s - shift[:, None])
        decay = tl.exp2(top - shift)
        top = peak
        total = total * decay + tl.sum(p, 1)
        if v is not None:
            values = load_head(v, columns, job.strides.v[2] * UNIT, last, D, MASKED)
            out_v = weigh(p, values, scaled(out_v, decay), D)
        if w is not None:
            values = load_head(w, columns, job.strides.v[2] * UNIT, last, D, MASKED)
            out_w = weigh(p, values, scaled(out_w, decay), D)
    return top, total, out_v, out_w


@triton.jit
def _softmax(
    job,
    row,
    q,
    pointers,
    RESCALE: tl.constexpr,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """(log-sum-exp of all keys, out of v, out of w); in edited rows the outputs are those of the pixels, as shares of
    all keys or, with RESCALE, of themselves."""
    start = job.sizes.biased
    biased = job.sizes.biased
    if job.source is not None:
        edited = tl.load(job.source + row) != row
        start = tl.where(edited, job.sizes.text, start)
        biased = tl.where(edited, 0, biased)
    bias = None if job.bias is None else job.bias + row * job.strides.bias[0]
    full = start + (job.sizes.keys - start) // BLOCK * BLOCK
    N: tl.constexpr = q[0].shape[0]
    state = (tl.full([N], float("-inf"), tl.float32), tl.zeros([N], tl.float32), zeros(N, D), zeros(N, D))
    state = _attend(job, state, q, pointers, None, start, full, D, UNIT, BLOCK, False, STAGES)
    state = _attend(job, state, q, pointers, None, full, job.sizes.keys, D, UNIT, BLOCK, True, 1)
    if bias is not None:
        state = _attend(job, state, q, pointers, bias, 0, biased, D, UNIT, BLOCK, True, STAGES)
    top, total, out_v, out_w = state
    lse = top + tl.log2(total)
    factor = inverse(total)
    if job.source is not None:
        state = (top, total, zeros(N, D), zeros(N, D))
        text = tl.where(edited, job.sizes.text, 0)
        keys = (pointers[0], None, None)
        top, total, _, _ = _attend(job, state, q, keys, bias, 0, text, D, UNIT, BLOCK, True, STAGES)
        share = tl.exp2(lse - (top + tl.log2(total)))
        if RESCALE:
            factor = tl.where(share == 0, 0.0, factor)
        else:
            factor *= share
        lse = top + tl.log2(total)
    lse = tl.where(total == 0, float("inf"), lse)  # to which every share is 0
    return lse, scaled(out_v, factor), scaled(out_w, factor)


@triton.jit
def _partner(rows, row, batch, BLOCK: tl.constexpr):
    """(turn, other): rows with the same map are paired in order. Turn 1 is served by the row before it; turn 0 serves
    `other` too, which is `batch` or more when there is none."""
    others = tl.arange(0, BLOCK)
    inside = others < batch
    q = tl.load(rows.q + others, mask=inside, other=-1)
    k = tl.load(rows.k + others, mask=inside, other=-1)
    same = inside & (q == tl.load(rows.q + row)) & (k == tl.load(rows.k + row))
    turn = tl.sum((same & (others < row)).to(tl.int32)) % 2
    return turn, tl.min(tl.where(same & (others > row), others, BLOCK))


@triton.jit
def _values(job, row, head, UNIT: tl.constexpr):
    """Where the values of a row and head begin; None where they are not asked for."""
    if job.v is None:
        base = None
    else:
        base = job.v + (row_of(job.rows.v, row) * job.strides.v[0] + head * job.strides.v[1]) * UNIT
    return base


@triton.jit
def _write(job, row, head, lines, lse, out, D: tl.constexpr, UNIT: tl.constexpr):
    places = job.lse + (row.to(tl.int64) * job.sizes.heads + head) * job.sizes.queries + lines
    tl.store(places, lse, mask=lines < job.sizes.queries)
    if job.out is not None:
        base = job.out + (row.to(tl.int64) * job.strides.out[0] + head * job.strides.out[1]) * UNIT
        store_head(base, lines, job.strides.out[2] * UNIT, job.sizes.queries, out, D)


@triton.jit
def _flash(
    job,
    RESCALE: tl.constexpr,
    SHARED: tl.constexpr,
    D: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    STAGES: tl.constexpr,
):
    """A program's queries are one tile of one head; with SHARED (at least the batch), of one or two rows."""
    tile = tl.program_id(0) % tl.cdiv(job.sizes.queries, BLOCK_N)
    pair = tl.program_id(0) // tl.cdiv(job.sizes.queries, BLOCK_N)
    row = pair // job.sizes.heads
    head = pair % job.sizes.heads
    if job.v is None:
        if tl.load(job.source + row) == row:
            return
    lines = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    q = job.q + (row_of(job.rows.q, row) * job.strides.q[0] + head * job.strides.q[1]) * UNIT
    k = job.k + (row_of(job.rows.k, row) * job.strides.k[0] + head * job.strides.k[1]) * UNIT
    v = _values(job, row, head, UNIT)
    q = load_head(q, lines, job.strides.q[2] * UNIT, job.sizes.queries, D, True)
    if SHARED == 0:
        lse, out, _ = _softmax(job, row, q, (k, v, None), RESCALE, D, UNIT, BLOCK_M, STAGES)
    else:
        turn, other = _partner(job.rows, row, job.sizes.batch, SHARED)
        if turn == 1:
            return
        if other < job.sizes.batch:
            pointers = (k, v, _values(job, other, head, UNIT))
            lse, out, also = _softmax(job, row, q, pointers, RESCALE, D, UNIT, BLOCK_M, STAGES)
            _write(job, other, head, lines, lse, also, D, UNIT)
        else:
            lse, out, _ = _softmax(job, row, q, (k, v, None), RESCALE, D, UNIT, BLOCK_M, STAGES)
    _write(job, row, head, lines, lse, out, D, UNIT)


def flash(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    out: Tensor | None,
    lse: Tensor,
    *,
    bias: Tensor | None = None,
    rows: Rows = Rows(),
    source: Tensor | None = None,
    text: int = 0,
    rescale: bool = False,
    blocks: Blocks | None = None,
) -> None:
    """Write softmax(q k^T / sqrt(d) + bias) v to out, and the log-sum-exp in powers of two to lse (B, H, N).

    q (B, H, N, d), k and v (B, H, M, d), bias (B, T) on the first T keys. Rows with source[b] != b are edited:
    their out is that of the keys from `text` on alone, as their share in all keys or, with `rescale`, on their own.
    Without v and out, only lse of edited rows is written. Rows with the same q and k rows share a map, two by two.
    """
    batch, heads, queries, size = *lse.shape, q.shape[-1]
    unit = tiles.unit(*(tensor for tensor in (q, k, v, out) if tensor is not None))
    steps = [*(tiles.strides(x, unit) for x in (q, k, v, out)), None if bias is None else bias.stride()]
    sizes = Sizes(batch, heads, queries, k.shape[2], tiles.width(bias), text)
    shared = rows.q is not None and rows.k is not None and rows.v is None and source is None and bias is None
    shared = shared and size <= MAX_SHARED
    kind = "edit" if source is not None else "shared" if shared else "plain"
    blocks = blocks or choose(FLASH, kind, q, lse.numel())
    grid = (triton.cdiv(queries, blocks.queries) * batch * heads,)
    with torch.cuda.device_of(q):
        _flash[grid](
            Job(q, k, v, out, lse, bias, rows, source, Strides(*steps), sizes, LOG2E.value / size**0.5),
            RESCALE=rescale,
            SHARED=triton.next_power_of_2(batch) if shared else 0,
            D=size,
            UNIT=unit,
            BLOCK_N=blocks.queries,
            BLOCK_M=blocks.keys,
            STAGES=blocks.stages,
            num_warps=blocks.warps,
        )
