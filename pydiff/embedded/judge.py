"""Whether an edit of a picture did what it was to do, and nothing else: by the reader, which knows no drawing code.

What is to stay as it was does where its mask overlaps the one before by OVERLAP (intersection over union, of masks of
128 pixels a side).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.embedded.reader import Found, Mask, Seen, see
from pydiff.embedded.world import Group, Scene

OVERLAP = 0.9
MOVED = 0.05  # of the side, at most, of an object that keeps its place


class Change(NamedTuple):
    """Two scenes of equally many groups, each of one object, that differ in one group, or in the background: changed is
    the group's index, or None."""

    before: Scene
    after: Scene
    changed: int | None


class Verdict(NamedTuple):
    """Of one edit. done: whether the thing that was to change did. kept: whether all else stayed: the background's
    colour, every object's place, the masks of the objects that were to stay and, unless a shape was to change, that of
    the background. others: the least overlap of those masks; changed: that of the object that was to change, None where
    the background was to. Where the second picture does not show just the objects that it should, kept is False, others
    is 0 and changed None."""

    done: bool
    kept: bool
    others: float
    changed: float | None


def judge(change: Change, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Verdict | None:
    """Of pictures (S, S, 3) uint8. None where the first is not what its words say: nothing can be asked of its edit."""
    (ground, objects), (new_ground, new_objects) = see(before), see(after)
    was, now = _matched(change.before.groups, objects), _matched(change.after.groups, new_objects)
    if was is None or ground != change.before.background:
        return None
    ground_fits = new_ground == change.after.background
    done, recoloured = ground_fits, False
    if change.changed is not None:
        old, wanted = (scene.groups[change.changed] for scene in (change.before, change.after))
        done = any((one.found.colour, one.found.shape) == (wanted.colour, wanted.shape) for one in new_objects)
        recoloured = old.shape == wanted.shape
    if now is None:
        return Verdict(done, False, 0.0, None)
    overlaps = [_overlap(one.mask, other.mask) for one, other in zip(was, now, strict=True)]
    others = [overlap for index, overlap in enumerate(overlaps) if index != change.changed]
    if recoloured:
        others.append(_overlap(_background(was), _background(now)))
    placed = max(_distance(one.found, other.found) for one, other in zip(was, now, strict=True)) <= MOVED
    least = min(others, default=1.0)
    kept = placed and ground_fits and least >= OVERLAP
    return Verdict(done, kept, least, None if change.changed is None else overlaps[change.changed])


def _matched(groups: Sequence[Group], objects: Sequence[Seen]) -> list[Seen] | None:
    """The object of every group, None where colours and shapes are not exactly those of the groups."""
    by_kind = {(one.found.colour, one.found.shape): one for one in objects}
    wanted = [(group.colour, group.shape) for group in groups]
    if len(objects) != len(groups) or set(by_kind) != set(wanted):
        return None
    return [by_kind[kind] for kind in wanted]


def _background(objects: Sequence[Seen]) -> Mask:
    return ~np.logical_or.reduce([one.mask for one in objects])


def _overlap(first: Mask, second: Mask) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def _distance(first: Found, second: Found) -> float:
    return float(np.hypot(first.x - second.x, first.y - second.y))
