"""Whole maps of one head: all text keys stand in one tile, or the log-sum-exp of all keys is known already."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .tiles import Rows, in_powers, inverse, load_head, row_of, row_sums, scaled, scores, wide, zeros


class Edit(NamedTuple):
    """source (B,), keep (B, T), and transfer folded into values (B, H, T, d), a probe (B, T, K) and, where the
    pixels are rescaled, sums (B, T)."""

    source: Tensor
    keep: Tensor
    moved: Tensor
    sums: Tensor | None
    probe: Tensor | None


class Sizes(NamedTuple):
    """Heads, queries, keys with a bias, columns that are captured or edited, and columns of the probe."""

    heads: int
    queries: int
    biased: int
    text: int
    probes: int


class Strides(NamedTuple):
    """Between rows, heads and items; those of q, k, v and out in units."""

    q: tuple[int, ...] | None
    k: tuple[int, ...] | None
    v: tuple[int, ...] | None
    out: tuple[int, ...] | None
    bias: tuple[int, ...] | None
    probe: tuple[int, ...] | None
    heat: tuple[int, ...] | None


class Job(NamedTuple):
    """What the kernel is given. With `lse` (B, H, N), of all keys, the tiles hold the text of a joint attention, and
    out what the pixels give to the edited rows."""

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
    strides: Strides | None = None
    sizes: Sizes | None = None
    scale: float = 1.0


@triton.jit
def _scores(job, row, q, k, columns, KEYS: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr):
    """Scores (N, M) of one tile, in powers of two."""
    s = scores(q, load_head(k, columns, job.strides.k[2] * UNIT, KEYS, D, True), D) * job.scale
    if job.bias is not None:
        places = job.bias + row * job.strides.bias[0] + columns * job.strides.bias[1]
        s += in_powers(tl.load(places, mask=columns < job.sizes.biased, other=0.0).to(tl.float32))[None, :]
    return tl.where(columns[None, :] < KEYS, s, float("-inf"))


@triton.jit
def attention_map(
    job, row, head, lines, columns, KEYS: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr
):
    """A row's attention (N, M) to the keys of a tile."""
    q = job.q + (row_of(job.rows.q, row) * job.strides.q[0] + head * job.strides.q[1]) * UNIT
    k = job.k + (row_of(job.rows.k, row) * job.strides.k[0] + head * job.strides.k[1]) * UNIT
    q = load_head(q, lines, job.strides.q[2] * UNIT, job.sizes.queries, D, True)
    first = _scores(job, row, q, k, columns[0], KEYS, D, UNIT)
    second = zeros(lines.shape[0], TILE)[1]
    if wide(TILE) < TILE:
        second = _scores(job, row, q, k, columns[1], KEYS, D, UNIT)
    if job.lse is None:
        peak = tl.max(first, 1)
        if wide(TILE) < TILE:
            peak = tl.maximum(peak, tl.max(second, 1))
        shift = tl.where(peak == float("-inf"), 0.0, peak)
        maps = (tl.exp2(first - shift[:, None]), tl.exp2(second - shift[:, None]))
        maps = scaled(maps, inverse(row_sums(maps, TILE)))
    else:
        places = job.lse + (row.to(tl.int64) * job.sizes.heads + head) * job.sizes.queries + lines
        lse = tl.load(places, mask=lines < job.sizes.queries, other=0.0)
        maps = (tl.exp2(first - lse[:, None]), tl.exp2(second - lse[:, None]))
    return maps
