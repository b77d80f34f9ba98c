"""Resizing, padding and pooling of pictures: torch's own functions for tensors, the same numbers for other arrays.

Those are resized by one matrix per axis, out = rows x columnsᵀ. Positions are rounded to the type in which
torch counts them, so that both take the same pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import Array, cast, is_torch, namespace, placed, wide

Mode: TypeAlias = Literal["nearest", "area", "bilinear", "bicubic"]
Floats: TypeAlias = NDArray[Any]

_WEIGHTED = ("bilinear", "bicubic")


def resize(
    x: Array,
    size: Sequence[int],
    mode: Mode = "nearest",
    antialias: bool = False,
    align_corners: bool = False,
) -> Array:
    """(B, C, H, W) floats at another size, (B, C, *size), in their type: `torch.nn.functional.interpolate`.

    nearest takes the pixel at floor(i H / size), area the mean of the pixels under each new one; antialias and
    align_corners (corner pixels stay corner pixels) are for bilinear and bicubic. Raises ValueError for others.
    """
    size = tuple(map(int, size))
    _check(x, size, mode, antialias or align_corners)
    if is_torch(x):
        from torch.nn.functional import interpolate

        corners = align_corners if mode in _WEIGHTED else None
        return interpolate(x, size=size, mode=mode, align_corners=corners, antialias=antialias)
    if mode == "nearest":
        xp, taken = namespace(x), x
        for axis, m in zip((2, 3), size, strict=True):
            taken = xp.take(taken, _nearest(x.shape[axis], m, x), axis=axis)
        return taken
    pixels: Any = wide(x)
    for axis, m in zip((2, 3), size, strict=True):
        if mode == "area" or m != x.shape[axis]:
            weights: Any = placed(_matrix(x.shape[axis], m, pixels.dtype, mode, antialias, align_corners), x)
            pixels = weights @ pixels if axis == 2 else pixels @ weights.T
    return cast(pixels, x.dtype)


def pad_edges(x: Array, pad: Sequence[int]) -> Array:
    """(B, C, H, W) with its edge pixels repeated outwards by (left, right, top, bottom) pixels, each at least 0."""
    if len(pad) != 4 or min(pad) < 0:
        raise ValueError(f"pad is {tuple(pad)}; expected (left, right, top, bottom) of at least 0 each")
    if is_torch(x):
        from torch.nn.functional import pad as torch_pad

        return torch_pad(x, tuple(pad), mode="replicate")
    left, right, top, bottom = pad
    padded: Any = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), mode="edge")
    return padded


def max_pool(x: Array, size: int = 3) -> Array:
    """(B, C, H, W): every pixel becomes the greatest of the size x size (an odd number) around it."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size is {size}; expected an odd number of pixels, 1 or more")
    if is_torch(x):
        from torch.nn.functional import max_pool2d

        return max_pool2d(x, size, stride=1, padding=size // 2)
    xp, result = namespace(x), x
    for axis in (2, 3):
        side, others = x.shape[axis], list(x.shape)
        others[axis] = size // 2
        edge = xp.full(tuple(others), -np.inf, dtype=x.dtype, device=x.device)
        padded = xp.concat([edge, result, edge], axis=axis)
        shifted = [padded[(..., slice(i, i + side), *[slice(None)] * (3 - axis))] for i in range(size)]
        result = functools.reduce(xp.maximum, shifted)
    return result


def _check(x: Array, size: tuple[int, ...], mode: str, weighted: bool) -> None:
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(get_args(Mode))}")
    if weighted and mode not in _WEIGHTED:
        raise ValueError(f"antialias and align_corners are for {' and '.join(_WEIGHTED)}; mode is {mode!r}")
    if x.ndim != 4 or len(size) != 2 or min(*x.shape[2:], *size) < 1:
        raise ValueError(
            f"a picture of shape {tuple(x.shape)} cannot become {size}; expected (B, C, H, W), sides of 1 or more"
        )


def _nearest(n: int, m: int, x: Array) -> Array:
    """(m,) int64 where x is: the pixel of n that each of m takes, counted in float32 for every type."""
    xp = namespace(x)
    places = xp.arange(m, dtype=xp.float32, device=x.device) * float(np.float32(n) / np.float32(m))
    return cast(places, xp.int64).clip(None, n - 1)


def _matrix(n: int, m: int, dtype: Any, mode: str, antialias: bool, align_corners: bool) -> Floats:
    """(m, n): row i holds the weights of n pixels in the new pixel i; every row's sum is 1."""
    if mode == "area":
        return _means(n, m, dtype)
    ratio = (n - 1) / max(m - 1, 1) if align_corners else n / m
    scale = float(dtype.type(ratio if m > 1 or not align_corners else 0))
    if antialias:
        return _antialiased(n, (scale * (np.arange(m) + 0.5)).astype(dtype), max(scale, 1.0), mode)
    centres = (scale * np.arange(m) if align_corners else scale * (np.arange(m) + 0.5) - 0.5).astype(dtype)
    if mode == "bilinear":
        centres = np.clip(centres, 0, None)
        return _taps(n, centres, (0, 1), _triangle)
    return _taps(n, centres, (-1, 0, 1, 2), lambda distance: _cubic(distance, -0.75))


def _means(n: int, m: int, dtype: Any) -> Floats:
    i = np.arange(m)[:, None]
    first, last = i * n // m, -(-(i + 1) * n // m)
    inside = (np.arange(n) >= first) & (np.arange(n) < last)
    return inside.astype(dtype) / (last - first).astype(dtype)


def _taps(n: int, centres: Floats, offsets: tuple[int, ...], kernel: Callable[[Floats], Floats]) -> Floats:
    """Weights of the pixels at floor(centre) + offset; those past an edge are the edge's."""
    weights = np.zeros((len(centres), n), centres.dtype)
    first = np.floor(centres)
    rows = np.arange(len(centres))
    for offset in offsets:
        column = np.clip(first.astype(np.int64) + offset, 0, n - 1)
        np.add.at(weights, (rows, column), kernel(np.abs(centres - first - offset)))
    return weights


def _antialiased(n: int, centres: Floats, width: Any, mode: str) -> Floats:
    """Weights of the pixels under a kernel as wide as a new pixel (in old pixels, 1 at least), cut off at the edges."""
    support = (1 if mode == "bilinear" else 2) * width
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)[:, None]
    last = np.minimum((centres + support + 0.5).astype(np.int64), n)[:, None]
    pixels = np.arange(n)
    distance = np.abs((pixels - centres[:, None].astype(np.float64) + 0.5) / width)
    weights = _triangle(distance) if mode == "bilinear" else _cubic(distance, -0.5)
    weights = np.where((pixels >= first) & (pixels < last), weights, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(centres.dtype)


def _triangle(distance: Floats) -> Floats:
    return np.clip(1 - distance, 0, None)


def _cubic(d: Floats, a: float) -> Floats:
    """Keys' cubic convolution."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d < 1, near, np.where(d < 2, far, 0)).astype(d.dtype)
