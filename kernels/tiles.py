"""What the kernels share: tiles of rows, and dot products over a split head size.

Triton's tiles have power-of-two sides. A head size that is none is covered by two tiles, 40 by 32 + 16 and 80 by
64 + 16, so that 40 costs 48 columns and not 64.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


class Rows(NamedTuple):
    """Which row of q, k and v each row of the batch reads: (B,) int64 each, or None for its own."""

    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None


@triton.constexpr_function
def wide(size):
    """Columns of a head size's first tile: 40 -> 32, 64 -> 64, 80 -> 64, 160 -> 128."""
    whole = max(16, triton.next_power_of_2(size))
    half = max(16, whole // 2)
    return half if size > half and half + max(16, triton.next_power_of_2(size - half)) < whole else whole


@triton.constexpr_function
def narrow(size):
    """Columns of the second tile: 40 -> 16, 80 -> 16, 160 -> 32; 16, and unused, where the first covers all."""
    return max(16, triton.next_power_of_2(size - wide(size))) if size > wide(size) else 16


def unit(*tensors: Tensor) -> int:
    """Values in 16 bytes if all rows of the tensors start at multiples of 16 bytes, else 1.

    Kernels get strides in this unit, so that the compiler knows where it can load whole vectors.
    """
    values = 16 // tensors[0].element_size()
    aligned = all(t.data_ptr() % 16 == 0 and not any(step % values for step in t.stride()[:-1]) for t in tensors)
    return values if aligned else 1


def width(tensor: Tensor | None) -> int:
    """Of the last dimension; 0 for None."""
    return 0 if tensor is None else tensor.shape[-1]


def strides(tensor: Tensor | None, unit: int) -> tuple[int, ...] | None:
    """Of all dimensions but the last, in units."""
    return None if tensor is None else tuple(step // unit for step in tensor.stride()[:-1])


@triton.jit
def row_of(rows, row):
    """The row of q, k or v that a row of the batch reads."""
    if rows is None:
        found = row.to(tl.int64)
    else:
        found = tl.load(rows + row).to(tl.int64)
    return found


@triton.jit
def cast(tile, DTYPE: tl.constexpr):
    """To the type that is computed in: DTYPE; float32 in the interpreter, whose bf16 arithmetic is wrong."""
    if INTERPRETED:
        found = tile.to(tl.float32)
    else:
        found = tile.to(DTYPE)
    return found


@triton.jit
def load(base, rows, stride, limit, FROM: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, MASKED: tl.constexpr):
    """Columns FROM to FROM + WIDTH of rows (R,) of a matrix with SIZE columns; 0 outside, and from row `limit` on."""
    columns = FROM + tl.arange(0, WIDTH)
    places = base + rows[:, None] * stride + columns[None, :]
    inside = columns[None, :] < SIZE
    if MASKED:
        inside = inside & (rows[:, None] < limit)
    if MASKED or FROM + WIDTH > SIZE:
        tile = tl.load(places, mask=inside, other=0.0)
    else:
        tile = tl.load(places)
    return cast(tile, base.dtype.element_ty)


@triton.jit
def load_head(base, rows, stride, limit, SIZE: tl.constexpr, MASKED: tl.constexpr):
    """Rows (R,) of a matrix with SIZE columns, as two tiles."""
    first = load(base, rows, stride, limit, 0, wide(SIZE), SIZE, MASKED)
    if wide(SIZE) < SIZE:
        second = load(base, rows, stride, limit, wide(SIZE), narrow(SIZE), SIZE, MASKED)
    else:
        second = tl.zeros([rows.shape[0], narrow(SIZE)], first.dtype)
    return first, second


@triton.jit
def store_head(base, rows, stride, limit, tiles, SIZE: tl.constexpr):
    """Write two tiles to the rows below `limit`."""
    columns = tl.arange(0, wide(SIZE))
    places = base + rows[:, None] * stride + columns[None, :]
    tl.store(places, tiles[0], mask=(rows[:, None] < limit) & (columns[None, :] < SIZE))
    if wide(SIZE) < SIZE:
        rest = wide(SIZE) + tl.arange(0, narrow(SIZE))
        places = base + rows[:, None] * stride + rest[None, :]
        tl.store(places, tiles[1], mask=(rows[:, None] < limit) & (rest[None, :] < SIZE))


@triton.jit
def zeros(ROWS: tl.constexpr, SIZE: tl.constexpr):
    return tl.zeros([ROWS, wide(SIZE)], tl.float32), tl.zeros([ROWS, narrow(SIZE)], tl.float32)


@triton.jit
def scaled(tiles, factor):
    """Both tiles (R, SIZE) times factor (R,)."""
    return tiles[0] * factor[:, None], tiles[1] * factor[:, None]


@triton.jit
def scores(q, k, D: tl.constexpr):
    """q k^T of q (N, d) and k (M, d)."""
    s = tl.dot(q[0], tl.trans(k[0]), input_precision="ieee")
    if wide(D) < D:
        s = tl.dot(q[1], tl.trans(k[1]), s, input_precision="ieee")
    return s


@triton.jit
def weigh(p, v, total, D: tl.constexpr):
    """total + p v of p (N, M), v (M, d) and total (N, d)."""
    p = p.to(v[0].dtype)
    first = tl.dot(p, v[0], total[0], input_precision="ieee")
    if wide(D) < D:
        second = tl.dot(p, v[1], total[1], input_precision="ieee")
    else:
        second = total[1]
    return first, second


@triton.jit
def columns_of(start, TILE: tl.constexpr):
    """The keys from `start` on, as two tiles."""
    return start + tl.arange(0, wide(TILE)), start + wide(TILE) + tl.arange(0, narrow(TILE))


@triton.jit
def load_columns(base, columns, limit):
    """One float32 for every key below `limit`, 0 for the others."""
    first = tl.load(base + columns[0], mask=columns[0] < limit, other=0.0).to(tl.float32)
    return first, tl.load(base + columns[1], mask=columns[1] < limit, other=0.0).to(tl.float32)


@triton.jit
def times(maps, columns):
    """Both tiles (N, M) times columns (M,)."""
    return maps[0] * columns[0][None, :], maps[1] * columns[1][None, :]


@triton.jit
def plus(a, b):
    return a[0] + b[0], a[1] + b[1]


@triton.jit
def row_sums(maps, TILE: tl.constexpr):
    """Sums (N,) of the rows of both tiles."""
    total = tl.sum(maps[0], 1)
    if wide(TILE) < TILE:
        total += tl.sum(maps[1], 1)
    return total


@triton.jit
def in_powers(bias):
    """A bias in powers of two; finite where it is, be it the lowest float."""
    return tl.where(bias == float("-inf"), bias, tl.maximum(bias * LOG2E, -3e38))


@triton.jit
def inverse(total):
    """1 / total; 0 where no key has a share."""
    return tl.where(total == 0, 0.0, 1 / total)
