"""A reader of pictures: finds objects by colour and geometry, and knows nothing of the code that draws them."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.embedded.world import COLOURS, SIZES

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

SIDE = 128  # pictures are read at this many pixels a side
SPECK = 0.003  # share of the picture under which a blob is dirt
OFF_LINE = 45.0  # how far a pixel's RGB may lie from the line between background and object to be part of the object
FAINT = 0.75  # how much of its own colour the core of a thin, blurred object keeps at least
UNKNOWN = "unknown"

# In units of radius^2.
AREAS = {"circle": 2.835, "square": 2.958, "triangle": 1.718, "star": 1.461, "ring": 2.231, "cross": 2.204}
# The one Fourier coefficient of an outline (cos k of the angle from straight up, over the mean) that tells its shape.
OUTLINES = {
    "triangle": (3, 0.12, 0.45),
    "square": (4, -0.22, -0.07),
    "cross": (4, 0.18, 0.50),
    "star": (5, 0.08, 0.50),
}
ROUND = 0.07  # every other coefficient stays below this; a circle has no other kind


class Found(NamedTuple):
    """One object: colour and size by the nearest name, shape by geometry ("unknown" when nothing fits).

    x, y (centre, y down) and radius are shares of the picture's side.
    """

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float


class Reading(NamedTuple):
    """What a picture shows; the largest object first."""

    background: str
    objects: tuple[Found, ...]


class Seen(NamedTuple):
    """An object and the pixels, of a picture of SIDE a side, that it covers more than half."""

    found: Found
    mask: Mask


def read(image: NDArray[np.uint8]) -> Reading:
    """Finds the background and the objects of a picture.

    image: (S, S, 3) uint8 RGB, S in 64..1024. Raises ValueError for anything else.
    """
    background, objects = see(image)
    return Reading(background, tuple(seen.found for seen in objects))


def see(image: NDArray[np.uint8]) -> tuple[str, list[Seen]]:
    """The background's colour and the objects, the largest first, with their masks. Takes what `read` takes."""
    picture = _to_side(_checked(image))
    classes = _nearest(picture, _PALETTE)
    name = int(np.bincount(classes.ravel(), minlength=len(_PALETTE)).argmax())
    background = np.median(picture[classes == name], axis=0)
    others = np.concatenate([background[None], np.delete(_PALETTE, name, axis=0)])
    rest = _nearest(picture, others) != 0
    seen, speck = list[Seen](), round(SPECK * SIDE * SIDE)
    todo = blobs(rest, speck)
    while todo:
        whole = todo.pop()
        window = _window(whole)
        pixels, blob = picture[window], whole[window]
        core = _core(blob)
        if core is None:
            continue
        cover, inside = _coverage(pixels, blob, core, background)
        grown = grow(inside, 3)
        if inside.sum() >= speck:
            colour = _name(np.median(pixels[core], axis=0), background)
            one = _measure(np.where(grown, cover, 0), inside, colour, (window[1].start, window[0].start))
            mask = np.zeros(whole.shape, np.bool_)
            mask[window] = inside
            seen.append(Seen(one, mask))
        whole[window] &= ~grown
        todo += blobs(whole, speck)
    return _NAMES[name], sorted(seen, key=lambda one: -one.found.radius)


_NAMES = tuple(COLOURS)
_PALETTE = np.asarray(list(COLOURS.values()), np.float32)


def _checked(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if dtype != np.uint8 or len(shape or ()) != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise ValueError(f"image is {dtype} {shape}; give a square RGB picture, uint8 (S, S, 3)")
    if not 64 <= image.shape[0] <= 1024:
        raise ValueError(f"image is {image.shape[0]} pixels a side; give 64 to 1024, or resize it first")
    return image


@functools.lru_cache(maxsize=8)
def _filter(size: int) -> Floats:
    """(SIDE, size) triangle filter: bilinear when it enlarges, anti-aliased when it shrinks."""
    scale = size / SIDE
    centres = (np.arange(SIDE)[:, None] + 0.5) * scale - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(centres - np.arange(size)) / max(scale, 1.0))
    kept: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return kept


def _to_side(image: NDArray[np.uint8]) -> Floats:
    rows = np.tensordot(_filter(image.shape[0]), image.astype(np.float32), (1, 0))  # (SIDE, S, 3)
    return np.ascontiguousarray(np.matmul(_filter(image.shape[1]), rows))


def _nearest(pixels: Floats, colours: Floats) -> NDArray[np.intp]:
    # |p - c|^2 without |p|^2, which is the same for every c
    return np.asarray((np.square(colours).sum(-1) - 2 * pixels @ colours.T).argmin(-1))


def _name(colour: Floats, background: Floats) -> str:
    """The nearest name, where a blurred object may have mixed with the background."""
    ways = _PALETTE - background
    share = (ways @ (colour - background)) / np.maximum(np.square(ways).sum(-1), 1.0)
    mixed = background + np.clip(share, FAINT, 1.0)[:, None] * ways
    return _NAMES[int(np.square(mixed - colour).sum(-1).argmin())]


def _window(mask: Mask) -> tuple[slice, slice]:
    """The mask's bounding box and four pixels around it."""
    rows, columns = (np.nonzero(mask.any(axis))[0].tolist() for axis in (1, 0))
    return slice(max(rows[0] - 4, 0), rows[-1] + 5), slice(max(columns[0] - 4, 0), columns[-1] + 5)


def grow(mask: Mask, steps: int) -> Mask:
    """Pixels at most `steps` away from the mask, going sideways, up and down."""
    for _ in range(steps):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def blobs(mask: Mask, least: int = 1) -> list[Mask]:
    """Parts of at least `least` pixels that hang together by their sides: runs of each row, joined to those above."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first = np.searchsorted(rows, np.arange(len(mask) + 1)).tolist()
    for row in range(1, len(mask)):
        i, j = first[row - 1], first[row]
        while i < first[row] and j < first[row + 1]:
            if starts[i] < ends[j] and starts[j] < ends[i]:
                parent[root(j)] = root(i)
            if ends[i] < ends[j]:
                i += 1
            else:
                j += 1
    roots = np.array([root(i) for i in range(len(rows))], dtype=np.intp)
    areas = np.bincount(roots, weights=ends - starts, minlength=1)
    parts = {int(i): np.zeros_like(mask) for i in np.nonzero(areas >= least)[0]}
    for i in range(len(rows)):
        if roots[i] in parts:
            parts[roots[i]][rows[i], starts[i] : ends[i]] = True
    return list(parts.values())


def _core(blob: Mask) -> Mask | None:
    """The thickest part of a blob; None where it is nowhere thicker than a fringe."""
    layers = [np.pad(blob, 1)]
    while layers[-1].any():
        layers.append(~grow(~layers[-1], 1))
    if len(layers) <= 3:
        return None
    thick = blobs(layers[max(1, round(0.6 * (len(layers) - 2)))])
    return max(thick, key=lambda part: int((part & layers[-2]).sum()))[1:-1, 1:-1]


def _coverage(picture: Floats, blob: Mask, core: Mask, background: Floats) -> tuple[Floats, Mask]:
    """How much of each pixel the object covers, in [0, 1], and the pixels that are more than half covered."""
    contrast = np.median(picture[core], axis=0) - background
    ahead = (picture - background) @ contrast / max(float(contrast @ contrast), 1.0)
    aside = np.linalg.norm(picture - background - ahead[..., None] * contrast, axis=-1)
    inside = blob & (ahead > 0.5) & (aside < OFF_LINE) | core
    return np.clip(ahead, 0, 1), next(part for part in blobs(inside) if (part & core).any())


def _measure(cover: Floats, inside: Mask, colour: str, corner: tuple[int, int]) -> Found:
    """The object whose window's corner (x, y) is given, in pixels."""
    rows, columns = (np.nonzero(inside.any(axis))[0].tolist() for axis in (1, 0))
    shape = _shape(cover)
    half = (max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1) / 2
    radius = (math.sqrt(float(cover.sum()) / AREAS[shape]) if shape in AREAS else half) / SIDE
    size = min(SIZES, key=lambda name: abs(math.log(SIZES[name] / radius)))
    x, y = ((line[0] + line[-1] + 1) / 2 + start for line, start in zip((columns, rows), corner, strict=True))
    return Found(colour, shape, size, x / SIDE, y / SIDE, radius)


def _shape(cover: Floats) -> str:
    """A hole in the middle is a ring; the rest by how far the outline reaches in each direction."""
    waves, hole = _outline(cover)
    if hole < 0.5:
        return "ring"
    if np.abs(waves).max() < ROUND:
        return "circle"
    for name, (k, low, high) in OUTLINES.items():
        if low < waves[k].real < high and np.abs(np.delete(waves, k)).max() < ROUND and abs(waves[k].imag) < ROUND:
            return name
    return UNKNOWN


def _outline(cover: Floats) -> tuple[NDArray[np.complex128], float]:
    """Fourier coefficients 0 to 5 of the outline around the centroid (0 left out: 0), and how full the middle is."""
    area = float(cover.sum())
    y, x = (float(cover.sum(axis) @ np.arange(cover.shape[1 - axis])) / area for axis in (1, 0))
    reach = 2.2 * math.sqrt(area / math.pi)
    angles = np.arange(72, dtype=np.float32)[:, None] * np.float32(math.tau / 72)
    along = (np.arange(64, dtype=np.float32) + 0.5) * np.float32(reach / 64)
    samples = _sample(cover, x + np.sin(angles) * along, y - np.cos(angles) * along)  # (72, 64)
    waves = np.fft.rfft(samples.sum(1))[:6]
    waves, waves[0] = 2 * waves / max(abs(waves[0]), 1e-6), 0
    return waves, float(samples[:, : 64 * 3 // 22].mean())


def _sample(cover: Floats, x: Floats, y: Floats) -> Floats:
    x, y = np.clip(x, 0, cover.shape[1] - 1.001), np.clip(y, 0, cover.shape[0] - 1.001)
    i, j = y.astype(np.intp), x.astype(np.intp)
    v, u = y - i, x - j
    upper: Floats = cover[i, j] * (1 - u) + cover[i, j + 1] * u
    lower: Floats = cover[i + 1, j] * (1 - u) + cover[i + 1, j + 1] * u
    return upper * (1 - v) + lower * v
