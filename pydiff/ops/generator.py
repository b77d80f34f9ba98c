"""Normal numbers as torch's CPU generator draws them, without torch: the same seed gives the same picture.

torch's generator is a Mersenne twister (mt19937) seeded with the low 32 bits. Draws of 16 numbers and more take all
their uniform numbers first and turn them into pairs of normal ones, j with j + 8 of every 16, after Box and Muller:
sqrt(-2 log u) (cos 2πv, sin 2πv). Shorter draws make one pair after another in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydiff.ops import native

Floats = NDArray[Any]

BLOCK = 16
PART = 64 * 1024  # numbers turned at a time, so that they stay in the cache


class Generator:
    """A stream of normal numbers. seed: an integer in [0, 2^64); ValueError for another.

    Calls continue the stream as those of torch.randn with one torch.Generator on the CPU: the numbers are the same to
    within 2e-6 (float32) and 1e-12 (float64).
    """

    def __init__(self, seed: int) -> None:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed!r}; expected an integer in [0, 2^64)")
        core = native.core()
        self._source: Any = Reference(seed) if core is None else core.Generator(seed)

    def normal(self, shape: Sequence[int], dtype: Any = np.float32) -> Floats:
        """Numbers of mean 0 and variance 1. dtype: float32 or float64; ValueError for another."""
        kind = np.dtype(dtype)
        if kind not in (np.float32, np.float64):
            raise ValueError(f"dtype is {kind}; expected float32 or float64")
        if isinstance(self._source, Reference):
            return self._source.normal(shape, kind)
        out = np.empty(tuple(shape), kind)
        self._source.normal(out.ctypes.data, out.size, kind == np.float64)
        return out


class Reference:
    """The plain one: NumPy's own mt19937, and the formulas."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.RandomState(seed & 0xFFFFFFFF)
        self._spare: float | None = None

    def normal(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Floats:
        size = math.prod(shape)
        if size < BLOCK:
            return np.array([self._one() for _ in range(size)], dtype).reshape(shape)
        out = np.empty(size, dtype)
        for start in range(0, size, PART):
            part = out[start : start + PART]
            whole = len(part) // BLOCK * BLOCK
            part[:whole] = _pairs(self._uniform(len(part), dtype)[:whole])
        if size % BLOCK:  # the last 16 are drawn anew
            out[-BLOCK:] = _pairs(self._uniform(BLOCK, dtype))
        return out.reshape(shape)

    def _uniform(self, n: int, dtype: Any) -> Floats:
        """(n,) in [0, 1): 24 bits of a word, or 53 bits of two, the high one first."""
        if dtype == np.float32:
            words = self._words.randint(2**32, size=n, dtype=np.uint32)
            return (words & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)
        high, low = self._words.randint(2**32, size=(n, 2), dtype=np.uint32).astype(np.uint64).T
        return (high << 32 | low) % 2**53 * 2.0**-53

    def _one(self) -> float:
        """One number of a pair whose second number waits for the next call."""
        if self._spare is not None:
            ready, self._spare = self._spare, None
            return ready
        v, u = self._uniform(2, np.float64).tolist()
        radius, angle = math.sqrt(-2 * math.log1p(-u)), 2 * math.pi * v
        self._spare = radius * math.sin(angle)
        return radius * math.cos(angle)


def _pairs(uniform: Floats) -> Floats:
    """(n,) uniform numbers as n normal ones, n a multiple of 16."""
    u, v = uniform.reshape(-1, 2, BLOCK // 2).swapaxes(0, 1)
    radius, angle = np.sqrt(-2 * np.log(1 - u)), uniform.dtype.type(2 * np.pi) * v
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
