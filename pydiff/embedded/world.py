"""The world the embedded model knows: one to four flat shapes on a flat background, drawn by code at any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 60),
    "green": (50, 160, 75),
    "blue": (45, 90, 210),
    "purple": (130, 60, 175),
    "pink": (245, 145, 190),
    "black": (25, 25, 28),
    "white": (250, 250, 248),
    "gray": (140, 140, 145),
}
OBJECT_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
BACKGROUNDS = ("white", "black", "gray", "yellow", "green", "blue", "pink")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = {"small": 0.100, "medium": 0.145, "large": 0.205}  # radius as a share of the picture's side
RELATIONS = ("left of", "right of", "above", "below")
PLACES = {  # centre of an object that stands alone, (x, y) in [0, 1], y down
    "in the middle": (0.5, 0.5),
    "on the left": (0.26, 0.5),
    "on the right": (0.74, 0.5),
    "at the top": (0.5, 0.26),
    "at the bottom": (0.5, 0.74),
    "in the top left corner": (0.26, 0.26),
    "in the top right corner": (0.74, 0.26),
    "in the bottom left corner": (0.26, 0.74),
    "in the bottom right corner": (0.74, 0.74),
}
# Never trained on; the benchmark's category "unseen" tests on them.
UNSEEN_KINDS = frozenset(
    {
        ("purple", "star"),
        ("orange", "cross"),
        ("pink", "square"),
        ("green", "ring"),
        ("blue", "triangle"),
        ("black", "circle"),
    }
)
UNSEEN_PAIRS = frozenset({("star", "above", "ring"), ("cross", "left of", "triangle"), ("square", "below", "star")})


class Thing(NamedTuple):
    """One object: what the words say of it, and where it stands (centre and radius in [0, 1] of the side, y down)."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float


class Group(NamedTuple):
    """`count` alike objects; size None means that the caption does not name one (they are medium)."""

    count: int  # type: ignore[assignment]  # a field here, not tuple.count
    colour: str
    shape: str
    size: str | None = None


class Scene(NamedTuple):
    """What a caption says: groups of objects, how they stand to each other, and the background.

    relation: one of RELATIONS between two groups, "row" (left to right in the order named) or None for one group;
    place: a key of PLACES or None, for one single object; named_background: whether the caption names it.
    """

    groups: tuple[Group, ...]
    relation: str | None
    place: str | None
    background: str
    named_background: bool


def is_unseen(scene: Scene) -> bool:
    """Whether the scene holds a colour-shape pair or a shape-relation-shape triple kept out of training."""
    if any((g.colour, g.shape) in UNSEEN_KINDS for g in scene.groups):
        return True
    if scene.relation not in RELATIONS:
        return False
    a, b = (g.shape for g in scene.groups)
    inverse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    return bool({(a, scene.relation, b), (b, inverse[scene.relation], a)} & UNSEEN_PAIRS)


def sample_scene(rng: np.random.Generator, *, unseen: bool = False) -> Scene:
    """A random scene; with `unseen` one that training never shows."""
    while True:
        scene = _propose(rng)
        if is_unseen(scene) == unseen:
            return scene


def _propose(rng: np.random.Generator) -> Scene:
    background = str(rng.choice(BACKGROUNDS)) if rng.random() < 0.75 else "white"
    colours = [c for c in OBJECT_COLOURS if c != background]
    kind = rng.choice(("single", "pair", "count", "row", "mixed"), p=(0.26, 0.34, 0.16, 0.12, 0.12))
    relation, place = None, None
    if kind == "single":
        counts = [1]
        place = str(rng.choice(list(PLACES))) if rng.random() < 0.5 else None
    elif kind == "pair":
        counts, relation = [1, 1], str(rng.choice(RELATIONS))
    elif kind == "count":
        counts = [int(rng.integers(2, 5))]
    elif kind == "row":
        counts, relation = [1] * int(rng.integers(2, 4)), "row"
    else:
        counts, relation = [int(n) for n in rng.permutation((1, int(rng.integers(2, 4))))], str(rng.choice(RELATIONS))
    total, kinds, groups = sum(counts), set[tuple[str, str]](), list[Group]()
    while len(groups) < len(counts):
        colour, shape = str(rng.choice(colours)), str(rng.choice(SHAPES))
        if (colour, shape) in kinds:
            continue
        kinds.add((colour, shape))
        size = str(rng.choice(("small", "large"))) if rng.random() < (0.5 if total <= 2 else 0.0) else None
        groups.append(Group(counts[len(groups)], colour, shape, size))
    named = background != "white" or rng.random() < 0.6
    return Scene(tuple(groups), relation, place, background, bool(named))


def place_things(scene: Scene, rng: np.random.Generator) -> tuple[Thing, ...]:
    """Where everything stands: the places that the words ask for, with jitter, nothing touching."""
    slots = _slots(scene)
    total = sum(g.count for g in scene.groups)
    jitter = 0.05 if total <= 2 else 0.03
    while True:
        things, it = list[Thing](), iter(slots)
        for group in scene.groups:
            size = group.size or "medium"
            for _ in range(group.count):
                x, y = next(it)
                radius = SIZES[size] * float(rng.uniform(0.94, 1.06))
                x, y = (float(np.clip(c + rng.uniform(-jitter, jitter), radius + 0.02, 0.98 - radius)) for c in (x, y))
                things.append(Thing(group.colour, group.shape, size, x, y, radius))
        gaps = (
            max(abs(a.x - b.x), abs(a.y - b.y)) - a.radius - b.radius for i, a in enumerate(things) for b in things[:i]
        )
        if all(gap > 0.03 for gap in gaps):
            return tuple(things)


def _slots(scene: Scene) -> list[tuple[float, float]]:
    counts = [g.count for g in scene.groups]
    if scene.relation is None:
        return [PLACES[scene.place or "in the middle"]] if counts[0] == 1 else _cluster(counts[0])
    if scene.relation == "row":
        return _line(len(counts))
    swap = scene.relation in ("right of", "below")
    first, second = (0.74, 0.26) if swap else (0.26, 0.74)
    across = scene.relation in ("above", "below")
    slots = []
    for centre, count in zip((first, second), counts, strict=True):
        for offset, _ in _line(count):
            slots.append((offset, centre) if across else (centre, offset))
    return slots


def _line(count: int) -> list[tuple[float, float]]:
    spots = {1: (0.5,), 2: (0.28, 0.72), 3: (0.18, 0.5, 0.82)}[count]
    return [(spot, 0.5) for spot in spots]


def _cluster(count: int) -> list[tuple[float, float]]:
    if count == 4:
        return [(0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72)]
    return _line(count) if count == 2 else [(0.28, 0.7), (0.72, 0.7), (0.5, 0.28)]


def draw(scene: Scene, things: tuple[Thing, ...], size: int) -> NDArray[np.uint8]:
    """The picture, (size, size, 3) uint8, edges smoothed over one pixel."""
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = COLOURS[scene.background]
    for thing in things:
        pad = thing.radius + 2.0 / size
        x0, x1 = (int(np.clip(c * size, 0, size)) for c in (thing.x - pad, thing.x + pad + 1.0 / size))
        y0, y1 = (int(np.clip(c * size, 0, size)) for c in (thing.y - pad, thing.y + pad + 1.0 / size))
        px = ((np.arange(x0, x1, dtype=np.float32) + 0.5) / size - thing.x) / thing.radius
        py = ((np.arange(y0, y1, dtype=np.float32) + 0.5) / size - thing.y) / thing.radius
        distance = OUTLINES[thing.shape](px[None, :], py[:, None]) * (thing.radius * size)  # in pixels, < 0 inside
        cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
        canvas[y0:y1, x0:x1] += cover * (np.asarray(COLOURS[thing.colour], np.float32) - canvas[y0:y1, x0:x1])
    return np.round(canvas).astype(np.uint8)


Grid = NDArray[np.floating]
Outline = Callable[[Grid, Grid], Grid]


def _polygon(points: list[tuple[float, float]]) -> Outline:
    """Signed distance to a closed polygon: distance to its edges, negative inside (crossing parity)."""
    corners = np.asarray(points, np.float32)

    def distance(px: Grid, py: Grid) -> Grid:
        nearest = np.full(np.broadcast(px, py).shape, np.inf, np.float32)
        inside = np.zeros(nearest.shape, bool)
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
            ex, ey = bx - ax, by - ay
            along = np.clip(((px - ax) * ex + (py - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (px - ax - along * ex) ** 2 + (py - ay - along * ey) ** 2)
            if ay != by:
                inside ^= ((py >= ay) != (py >= by)) & (px < ax + (py - ay) / ey * ex)
        return np.where(inside, -1.0, 1.0) * np.sqrt(nearest)

    return distance


def _regular(radii: tuple[float, ...], corners: int, centre_y: float = 0.0) -> Outline:
    turn = [(radii[i % len(radii)], math.tau * i / corners) for i in range(corners)]
    return _polygon([(r * math.sin(a), centre_y - r * math.cos(a)) for r, a in turn])


_ARM = 0.33
_CROSS = [(_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM), (_ARM, 1)]
OUTLINES: dict[str, Outline] = {  # signed distance in units of the radius
    "circle": lambda px, py: np.hypot(px, py) - 0.95,
    "square": _polygon([(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]),
    "triangle": _regular((1.15,), 3, 0.24),
    "star": _regular((1.08, 0.46), 10, 0.06),
    "ring": lambda px, py: np.abs(np.hypot(px, py) - 0.74) - 0.24,
    "cross": _polygon(_CROSS + [(-x, -y) for x, y in _CROSS]),
}
