"""What the kernels share: block sizes, tiles of rows, and dot products over a split head size.

Triton's tiles have power-of-two sides. A head size that is none is covered by two tiles, 40 by 32 + 16 and 80 by 64 + 16,
so that 40 costs 48 columns and not 64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_HEAD_SIZE = 256
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LOG2E = tl.constexpr(1.4426950408889634)
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


class Shape(NamedTuple):
    """What block sizes depend on. An entry of a table serves chips and row counts from its own upwards, and sizes and
    columns up to its own."""

    arch: int  # compute capability: 80, 90
    bits: int  # of one value of q
    size: int  # columns of the tiles that cover a head
    columns: int = 0  # of the one tile that holds all keys; 0 where keys come in many tiles
    rows: int = 0  # queries that are shared out to programs


class Blocks(NamedTuple):
    """One program's work: a tile of queries against tiles of keys, by `warps` warps, with loads `stages` tiles ahead."""

    queries: int
    keys: int
    warps: int
    stages: int


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


def covered(size: int) -> int:
    """Columns of both tiles: 40 -> 48."""
    return int(wide(size) + narrow(size) if size > wide(size) else wide(size))


def arch(tensor: Tensor) -> int:
    """The compute capability of a tensor's device, 80 or 90; 90 in the interpreter, which has none."""
    if not tensor.is_cuda:
        return 90
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def choose(table: Mapping[Shape, Blocks], q: Tensor, rows: int, columns: int = 0) -> Blocks:
    """The table's entry for queries q (..., d), `rows` of them, against a tile of `columns` keys."""
    bits, size = 8 * q.element_size(), covered(q.shape[-1])
    chips = sorted({shape.arch for shape in table})
    chip = max((known for known in chips if known <= arch(q)), default=chips[0])
    fitting = [
        shape
        for shape in table
        if (shape.arch, shape.bits) == (chip, bits)
        and (shape.size >= size and shape.columns >= columns and shape.rows <= rows)
    ]
    return table[min(fitting, key=lambda shape: (shape.columns, shape.size, -shape.rows))]


def unit(*tensors: Tensor) -> int:
    """Values in 16 bytes if all rows of the tensors start at multiples of 16 bytes, else 1.

    Kernels get strides in this unit, so that the compiler knows where it can load whole vectors.
    """
    values = 16 // tensors[0].element_size()
    aligned = all(t.data_ptr() % 16 == 0 and not any(step % values for step in t.stride()[:-1]) for t in tensors)
    return values if aligned else 1


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
        second = first
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
