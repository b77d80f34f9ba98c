"""Kinds of defects: where each is placed on an object, and what is painted there before a model works it in.

A kind is a row: a rule of place and a start, both by name. The rule draws a cover (H, W) in [0, 1], how much of each
pixel is the defect's; the start paints into the cover. What a model does with it afterwards is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pydiff.embedded.reader import blobs, grow
from pydiff.weights import read_json

Picture = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
Floats = NDArray[np.float32]
Rng = np.random.Generator
Range = tuple[float, float]
Drawn = TypeVar("Drawn")

NOT_BACKGROUND = 32  # levels of 255 by which some channel of an object differs from the background
LEAST_PART = 20  # objects of less than one in so many of all object pixels get no defects
CANDIDATES = 40
LUMA = (0.299, 0.587, 0.114)
STROKE_LENGTH: Range = (0.5, 1.0)  # these are shares of the square root of the object's area
STROKE_WIDTH: Range = (0.04, 0.08)
ELLIPSE: Range = (0.16, 0.28)  # larger semi-axis
BITE: Range = (0.20, 0.34)  # radius
TONE: Range = (70, 130)  # levels of 255
SHADE: Range = (60, 100)


class Kind(NamedTuple):
    """name: the category. place: a key of PLACES. start: a key of STARTS. strength: in (0, 1], how far the model goes
    back to noise. keep: in [0, 1], how much of the start stays whatever the model makes of it. prompt: in the place of
    the one that is given for all kinds."""

    name: str
    place: str
    start: str
    strength: float = 1.0
    keep: float = 0.0
    prompt: str | None = None


class Patch(NamedTuple):
    """A part of a picture, and the cover in it (h, w)."""

    window: tuple[slice, slice]
    cover: Floats


def read_kinds(path: Path) -> dict[str, Kind]:
    """Kinds from a JSON file, {"rust": {"place": "ellipse", "start": "nothing", "strength": 1, "prompt": "rust"}}:
    the fields of `Kind`, of which place and start must be there. Raises ValueError for others."""
    return {name: _kind(name, row, path) for name, row in read_json(path).items()}


def _kind(name: str, row: Any, path: Path) -> Kind:
    fields = row if isinstance(row, dict) else {}
    unknown = set(fields) - set(Kind._fields[1:])
    strength, keep, prompt = fields.get("strength", 1.0), fields.get("keep", 0.0), fields.get("prompt")
    fits = all(type(number) in (int, float) for number in (strength, keep)) and 0 < strength <= 1 and 0 <= keep <= 1
    fits = fits and (prompt is None or isinstance(prompt, str)) and not unknown
    if not fits or fields.get("place") not in [*PLACES] or fields.get("start") not in [*STARTS]:
        raise ValueError(
            f"the kind {name!r} in {path} is {row!r}; expected place ({', '.join(PLACES)}), start "
            f"({', '.join(STARTS)}), and if need be strength in (0, 1], keep in [0, 1] and prompt"
        )
    return Kind(name, fields["place"], fields["start"], float(strength), float(keep), prompt)


def object_of(picture: Picture) -> Mask:
    """What is not background: the pixels that differ from the most frequent colour (of colours cut to 4 bits)."""
    cut = (picture >> 4).astype(np.int32) @ np.array((256, 16, 1), np.int32)
    often = np.bincount(cut.ravel()).argmax()
    background = np.median(picture[cut == often], axis=0)
    return np.asarray((np.abs(picture - background.astype(np.float32)) > NOT_BACKGROUND).any(axis=2))


def place(rule: str, where: Mask, rng: Rng) -> Floats:
    """The cover (H, W) in [0, 1] of a defect on one of the objects (H, W). Raises ValueError where there is no room."""
    parts = blobs(where, max(1, int(where.sum()) // LEAST_PART)) or [where]
    part = parts[int(rng.integers(len(parts)))]
    if not part.any():
        raise ValueError("there is no object on which to place a defect; say where with masks")
    cover = PLACES[rule](part, rng)
    if not (cover >= 0.5).any():
        raise ValueError(f"the object has {int(part.sum())} pixels, too few for a defect")
    return cover


def hole_of(cover: Floats, margin: int) -> Mask:
    """The pixels (H, W) that a model may change: the cover, and `margin` pixels around it."""
    window = _around(cover > 0, margin)
    hole = np.zeros(cover.shape, bool)
    hole[window] = grow(cover[window] > 0, margin)
    return hole


def cover_of(hole: Mask, margin: int) -> Floats:
    """The cover of a hole that was given: what is `margin` pixels inside of it; all of a hole that has no inside."""
    inside = ~grow(~hole, margin)
    return (inside if inside.any() else hole).astype(np.float32)


def stroke(part: Mask, rng: Rng) -> Floats:
    """A thin, slightly bent line with pointed ends."""
    extent = _extent(part)
    length, width = (rng.uniform(*share) * extent for share in (STROKE_LENGTH, STROKE_WIDTH))
    half = max(0.75, width / 2)

    def draw() -> NDArray[np.float64]:
        middle, angle = _pixel(part, rng), rng.uniform(0, math.tau)
        along = np.array((math.sin(angle), math.cos(angle)))
        across = np.array((along[1], -along[0])) * rng.uniform(-0.25, 0.25) * length
        t = np.linspace(-1, 1, 13)[:, None]
        return np.asarray(middle + along * t * length / 2 + across * (0.5 - t**2))

    def inside(points: NDArray[np.float64]) -> float:
        y, x = np.floor(points).astype(int).T
        fits = (y >= 0) & (x >= 0) & (y < part.shape[0]) & (x < part.shape[1])
        return float(part[y[fits], x[fits]].sum() / len(points))

    points = _best(draw, inside)
    window, y, x = _grid(part, points.min(0) - half - 1, points.max(0) + half + 1)
    cover = np.zeros((len(y), x.shape[1]), np.float32)
    for a, b, at in zip(points, points[1:], np.linspace(-1, 1, 12), strict=False):
        step = b - a
        on = np.clip(((y - a[0]) * step[0] + (x - a[1]) * step[1]) / (step @ step), 0, 1)
        distance = np.hypot(y - a[0] - on * step[0], x - a[1] - on * step[1])
        cover = np.maximum(cover, np.clip(0.5 + half * (1 - 0.6 * at**4) - distance, 0, 1))
    return _laid(Patch(window, cover), part)


def ellipse(part: Mask, rng: Rng) -> Floats:
    """An ellipse, inside of the object where it fits."""
    extent = _extent(part)

    def draw() -> Patch:
        long = max(3.0, rng.uniform(*ELLIPSE) * extent)
        axes, angle = (long, max(2.0, long * rng.uniform(0.55, 1))), rng.uniform(0, math.tau)
        middle = _pixel(part, rng)
        window, y, x = _grid(part, middle - long - 1, middle + long + 1)
        y, x = y - middle[0], x - middle[1]
        radius = np.hypot(
            (x * math.cos(angle) + y * math.sin(angle)) / axes[0], (y * math.cos(angle) - x * math.sin(angle)) / axes[1]
        )
        return Patch(window, np.clip(0.5 + (1 - radius) * axes[1], 0, 1).astype(np.float32))

    return _laid(_best(draw, lambda patch: _share(patch, part)), part)


def bite(part: Mask, rng: Rng) -> Floats:
    """A lobed disc about a place on the object's edge, reaching two pixels beyond that edge, and what it cuts off."""
    extent = _extent(part)
    edge = part & grow(np.pad(~part, 1, constant_values=True), 1)[1:-1, 1:-1]
    reached = grow(part, 2)

    def draw() -> Patch:
        middle, size = _pixel(edge, rng), max(3.0, rng.uniform(*BITE) * extent)
        window, y, x = _grid(part, middle - 1.5 * size, middle + 1.5 * size)
        y, x = y - middle[0], x - middle[1]
        angle, outline = np.arctan2(y, x), np.ones((len(y), x.shape[1]))
        for lobes in range(2, 6):
            outline += rng.uniform(0, 0.3) / lobes * np.cos(lobes * angle + rng.uniform(0, math.tau))
        return Patch(window, np.clip(0.5 + size * outline - np.hypot(y, x), 0, 1).astype(np.float32))

    cover = _laid(_best(draw, lambda patch: 2 * min(_share(patch, part), 0.5)), reached)
    pieces = sorted(blobs(part & (cover < 0.5)), key=np.sum)
    for piece in pieces[:-1]:
        cover[grow(piece, 2) & ~pieces[-1]] = 1
    return cover


def _extent(part: Mask) -> float:
    return math.sqrt(part.sum())


def _pixel(mask: Mask, rng: Rng) -> NDArray[np.float64]:
    """The middle of a random pixel of the mask, (y, x)."""
    places = np.flatnonzero(mask)
    return np.array(divmod(int(places[rng.integers(len(places))]), mask.shape[1])) + 0.5


def _grid(part: Mask, low: Any, high: Any) -> tuple[tuple[slice, slice], Any, Any]:
    """The window from low to high (y, x) as far as the picture reaches, and its pixels' middles (h, 1) and (1, w)."""
    rows, columns = (
        slice(max(0, math.floor(a)), min(side, math.ceil(b))) for a, b, side in zip(low, high, part.shape, strict=True)
    )
    y, x = (np.arange(one.start, one.stop) + 0.5 for one in (rows, columns))
    return (rows, columns), y[:, None], x[None]


def _around(mask: Mask, margin: int) -> tuple[slice, slice]:
    """The mask's bounding box and `margin` pixels around it."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return tuple(slice(max(0, int(one[0]) - margin), int(one[-1]) + 1 + margin) for one in (rows, columns))  # type: ignore[return-value]


def _share(patch: Patch, part: Mask) -> float:
    """How much of the cover lies on the object."""
    return float(patch.cover[part[patch.window]].sum() / max(patch.cover.sum(), 1e-6))


def _best(draw: Callable[[], Drawn], score: Callable[[Drawn], float]) -> Drawn:
    """The first draw that fits nearly wholly, or the best of many."""
    best, most = draw(), -1.0
    for _ in range(CANDIDATES):
        drawn = draw()
        fits = score(drawn)
        if fits > most:
            best, most = drawn, fits
        if most >= 0.97:
            break
    return best


def _laid(patch: Patch, mask: Mask) -> Floats:
    """The cover of the whole picture, where the mask is."""
    cover = np.zeros(mask.shape, np.float32)
    cover[patch.window] = patch.cover
    return cover * mask


def paint(start: str, picture: Picture, cover: Floats, where: Mask, rng: Rng) -> Picture:
    """The picture with a start painted into the cover; outside of it nothing changes. where (H, W): the objects."""
    window = _around(cover > 0, 0)
    colours = STARTS[start](picture, cover, where, rng)
    painted = picture.copy()
    part, share = picture[window].astype(np.float32), cover[window][..., None]
    painted[window] = (part + share * (colours - part)).clip(0, 255).round().astype(np.uint8)
    return painted


def tone(picture: Picture, cover: Floats, where: Mask, rng: Rng) -> Any:
    """A lighter or darker tone of what is there: dark things get lighter, light ones darker."""
    part = picture[_around(cover > 0, 0)].astype(np.float32)
    luma = float((part @ np.array(LUMA, np.float32)).mean())
    lighter = luma < 90 or (luma < 165 and rng.random() < 0.5)
    return part + (1 if lighter else -1) * rng.uniform(*TONE)


def shade(picture: Picture, cover: Floats, where: Mask, rng: Rng) -> Any:
    """A hollow under light from above: dark at the side that the light comes from, light at the other."""
    window = _around(cover > 0, 0)
    part, weights = picture[window].astype(np.float32), cover[window]
    places = np.indices(weights.shape).reshape(2, -1) + 0.5
    middle = (places @ weights.ravel()) / weights.sum()
    off = places - middle[:, None]
    spread = (off * weights.ravel()) @ off.T / weights.sum() + np.eye(2) / 12  # a^2 / 4 of an ellipse's semi-axis a
    radius = np.einsum("ik,ij,jk->k", off, np.linalg.inv(spread), off) / 4  # squared, 1 at the ellipse's edge
    angle = math.radians(rng.uniform(20, 160))
    towards = np.array((math.sin(angle), math.cos(angle)))  # where the light goes
    slope = (towards @ off) / (2 * math.sqrt(towards @ spread @ towards))
    light = 2.6 * slope * np.clip(1 - radius, 0, 1)  # at most 1
    return part + rng.uniform(*SHADE) * light.reshape(weights.shape)[..., None].astype(np.float32)


def background(picture: Picture, cover: Floats, where: Mask, rng: Rng) -> Any:
    """The median colour of what is near and no object; of what is no object anywhere, where all is object nearby."""
    window = _around(cover > 0, 0)
    near = _around(cover > 0, max(one.stop - one.start for one in window))
    for part in (near, (slice(None), slice(None))):
        free = ~where[part] & (cover[part] == 0)
        if free.sum() >= 8:
            return np.median(picture[part][free], axis=0).astype(np.float32)
    return np.median(picture.reshape(-1, 3), axis=0).astype(np.float32)


def nothing(picture: Picture, cover: Floats, where: Mask, rng: Rng) -> Any:
    """As it was: what is made comes from the prompt alone."""
    return picture[_around(cover > 0, 0)].astype(np.float32)


PLACES: Mapping[str, Callable[[Mask, Rng], Floats]] = {"stroke": stroke, "ellipse": ellipse, "bite": bite}
STARTS: Mapping[str, Callable[[Picture, Floats, Mask, Rng], Any]] = {
    "tone": tone,
    "shade": shade,
    "background": background,
    "nothing": nothing,
}
KINDS = {
    "scratch": Kind("scratch", "stroke", "tone", 0.04, 0.7),
    "dent": Kind("dent", "ellipse", "shade", 0.04, 0.7),
    "missing": Kind("missing", "bite", "background", 0.04, 0.3),
    "defect": Kind("defect", "ellipse", "nothing"),
}
