"""Scores what a reader found in a picture against the scene that its prompt described, in the manner of DrawBench.

Source: DrawBench, Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding, 2022.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from pydiff.embedded.reader import Found, Reading
from pydiff.embedded.world import Group, Scene

CATEGORIES = ("background", "colours", "shapes", "positional", "size", "counting", "overall")
CLEAR = 0.1  # shares of the side by which one object has to stand beside another
MIDDLE = (0.38, 0.62)  # what lies outside is at the left, right, top or bottom

T = TypeVar("T")


class Matched(NamedTuple):
    """An object that the words name, and what was found for it (None: nothing)."""

    order: int  # of the group in the prompt
    group: Group
    found: Found | None


def score(scene: Scene, reading: Reading) -> dict[str, bool]:
    """Which of CATEGORIES the picture gets right; only those that the words say something about, "overall" always.

    background: the one that is named.
    colours, shapes: those that are named and no others, whichever objects have them.
    positional: the place, the relation, or the order of a row.
    size: every object called small or large measures as such.
    counting: as many objects as the words say, group by group, where they say more than one.
    overall: all that applies, and each named colour on its named shape.
    """
    named = [(g.colour, g.shape) for g in scene.groups for _ in range(g.count)]
    found = [(f.colour, f.shape) for f in reading.objects]
    match = _match(scene, reading.objects)
    verdict = dict[str, bool]()
    if scene.named_background:
        verdict["background"] = reading.background == scene.background
    verdict["colours"] = _alike([c for c, _ in named], [c for c, _ in found])
    verdict["shapes"] = _alike([s for _, s in named], [s for _, s in found])
    if scene.relation is not None or scene.place is not None:
        verdict["positional"] = _stands(scene, match)
    if any(g.size for g in scene.groups):
        verdict["size"] = _sized(match)
    if any(g.count > 1 for g in scene.groups):
        verdict["counting"] = len(found) == len(named) and all(m.found for m in match)
    verdict["overall"] = all(verdict.values()) and Counter(named) == Counter(found)
    return verdict


def _alike(named: list[T], found: list[T]) -> bool:
    """The same with repeats; where the numbers differ, which is another category's matter, the same without."""
    return Counter(named) == Counter(found) if len(named) == len(found) else set(named) == set(found)


def _likeness(group: Group, found: Found | None) -> float:
    if found is None:
        return 0.0
    colour, shape = found.colour == group.colour, found.shape == group.shape
    return 2.5 if colour and shape else float(colour + shape)


def _match(scene: Scene, objects: Sequence[Found]) -> list[Matched]:
    """The assignment of objects to words that agrees in most colours and shapes; a tie goes to the picture's favour.

    Where the words tell two groups apart, an object with neither the colour nor the shape of its group is none of it.
    """
    alone = len(scene.groups) == 1
    slots = [(i, g) for i, g in enumerate(scene.groups) for _ in range(g.count)]
    pool: list[Found | None] = [*objects[:8]]
    pool += [None] * (len(slots) - len(pool))
    likeness = [[_likeness(g, f) for f in pool] for _, g in slots]
    orders = list(itertools.permutations(range(len(pool)), len(slots)))
    totals = [sum(row[k] for row, k in zip(likeness, order, strict=True)) for order in orders]
    best = [order for order, total in zip(orders, totals, strict=True) if total == max(totals)]
    matches = [
        [Matched(*slot, pool[k] if alone or row[k] else None) for slot, row, k in zip(slots, likeness, o, strict=True)]
        for o in best
    ]
    return max(matches, key=lambda match: (_stands(scene, match), _sized(match)))


def _sized(match: list[Matched]) -> bool:
    return all(m.found is not None and m.found.size == m.group.size for m in match if m.group.size)


def _stands(scene: Scene, match: list[Matched]) -> bool:
    """Whether the relation, the order of the row or the place holds."""
    groups = [[m.found for m in match if m.order == i and m.found is not None] for i in range(len(scene.groups))]
    if sum(map(len, groups)) < len(match):
        return False
    if scene.relation is None:
        return scene.place is None or _at(scene.place, groups[0][0])
    if scene.relation == "row":
        line = [g[0] for g in groups]
        level = max(f.y for f in line) - min(f.y for f in line) < 0.2
        return level and all(b.x - a.x > CLEAR for a, b in itertools.pairwise(line))
    first, second = groups if scene.relation in ("left of", "above") else groups[::-1]
    return _before(first, second, across=scene.relation in ("left of", "right of"))


def _before(first: list[Found], second: list[Found], *, across: bool) -> bool:
    """Every one of `first` comes before every one of `second`, and the two groups differ most in that direction."""
    spots = [[(f.x, f.y) if across else (f.y, f.x) for f in group] for group in (first, second)]
    centres = [tuple(sum(axis) / len(group) for axis in zip(*group, strict=True)) for group in spots]
    gap = min(a for a, _ in spots[1]) - max(a for a, _ in spots[0])
    return gap > CLEAR and centres[1][0] - centres[0][0] > abs(centres[1][1] - centres[0][1])


def _at(place: str, found: Found) -> bool:
    """A place names the sides where the object is; it is in the middle of those it does not name."""
    low, high = MIDDLE
    column = "left" if found.x < low else "right" if found.x > high else ""
    row = "top" if found.y < low else "bottom" if found.y > high else ""
    return {word for word in (column, row) if word} == set(place.split()) & {"left", "right", "top", "bottom"}
