"""Overlapping windows over an x larger than a network was trained at: all of them are evaluated at every step, and what
they predict is averaged (Bar-Tal et al. 2023, MultiDiffusion, equation 5)."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import Array, cast, like, namespace, wide


class Side(NamedTuple):
    """One side of x in stretches of one length, that begin at starts. shares (N, length) float64: how much each stretch
    counts at each of its places; at every place of the side they sum to 1."""

    starts: tuple[int, ...]
    shares: NDArray[np.float64] | Array


class Windows(NamedTuple):
    """Windows of one size: every stretch of the height with every one of the width."""

    height: Side
    width: Side

    def __len__(self) -> int:
        return len(self.height.starts) * len(self.width.starts)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of each window."""
        return self.height.shares.shape[1], self.width.shares.shape[1]

    def beside(self, x: Array) -> Windows:
        """The same, their shares in arrays of x's kind, where x is, in float32 at least."""
        moved = [side._replace(shares=like(side.shares, wide(x[:0]))) for side in self]
        return Windows(*moved)

    def split(self, x: Array) -> Array:
        """x (B, C, H, W) -> (N B, C, h, w), window by window."""
        return namespace(x).concat([x[(..., *window)] for window in self._slices()])

    def merged(self, parts: Array) -> Array:
        """Parts (R, N B, C, h, w) of R branches, in the order of `split` -> (R, B, C, H, W), in float32 at least."""
        given = wide(parts)
        down, across = (like(side.shares, given) for side in self)
        shares = (down[:, None, :, None] * across[None, :, None, :]).reshape((-1, *self.size))  # (N, h, w)
        windows = list(self._slices())
        last = windows[-1]
        rows = given.reshape((len(given), len(self), -1, *given.shape[2:]))  # (R, N, B, C, h, w)
        shape = (*rows[:, 0].shape[:-2], last[0].stop, last[1].stop)
        whole = namespace(given).zeros(shape, dtype=given.dtype, device=given.device)
        for index, window in enumerate(windows):
            whole[(..., *window)] += shares[index] * rows[:, index]
        return cast(whole, parts.dtype)

    def _slices(self) -> product[tuple[slice, slice]]:
        height, width = self.size
        rows = [slice(start, start + height) for start in self.height.starts]
        return product(rows, [slice(start, start + width) for start in self.width.starts])


def make_windows(size: tuple[int, int], window: tuple[int, int], overlap: float) -> Windows | None:
    """Windows over an x of height and width `size`, each sharing at least `overlap` of a side, in [0, 1), with the next
    one. None where one window holds it all; a side that is shorter than the window's is that of the windows."""
    windows = Windows(*(_side(length, min(length, most), overlap) for length, most in zip(size, window, strict=True)))
    return windows if len(windows) > 1 else None


def _side(length: int, window: int, overlap: float) -> Side:
    """Stretches at even distances; their weight falls off to their ends as the square of a sine."""
    stride = max(1, math.floor(window * (1 - overlap)))
    count = -(-(length - window) // stride) + 1
    starts = tuple(round(index * (length - window) / max(1, count - 1)) for index in range(count))
    places = (np.arange(window) + 0.5) / window
    weight = np.sin(math.pi * places) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + window] += weight
    return Side(starts, np.stack([weight / total[start : start + window] for start in starts]))
