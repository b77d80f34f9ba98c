"""The judge of edits, on pictures whose change is known because they are drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pydiff.embedded.judge import OVERLAP, Change, judge
from pydiff.embedded.world import Group, Scene, Thing, draw, place_things

BEFORE = Scene((Group(1, "red", "circle"), Group(1, "blue", "square")), "left of", None, "white", True)
PLACED = place_things(BEFORE, np.random.default_rng(3))
Things = tuple[Thing, ...]


def changed(**fields: str) -> Change:
    """The circle becomes another."""
    return Change(BEFORE, BEFORE._replace(groups=(BEFORE.groups[0]._replace(**fields), BEFORE.groups[1])), 0)


def picture(things: Things, background: str = "white", size: int = 64) -> np.ndarray:
    return draw(BEFORE._replace(background=background), things, size)


def circle(**fields: object) -> Things:
    return (PLACED[0]._replace(**fields), PLACED[1])


def square(things: Things, **fields: float) -> Things:
    return (things[0], things[1]._replace(**fields))


COLOUR, SHAPE = changed(colour="green"), changed(shape="star")
BOTH = changed(colour="green", shape="star")
GROUND = Change(BEFORE, BEFORE._replace(background="yellow"), None)


@pytest.mark.parametrize("size", [64, 100, 256])
@pytest.mark.parametrize(
    ("change", "after"),
    [(COLOUR, circle(colour="green")), (SHAPE, circle(shape="star")), (BOTH, circle(colour="green", shape="star"))],
    ids=["colour", "shape", "both"],
)
def test_the_change_and_nothing_else(change: Change, after: Things, size: int) -> None:
    verdict = judge(change, picture(PLACED, size=size), picture(after, size=size))
    assert verdict is not None
    assert verdict.done
    assert verdict.kept
    assert verdict.others > 0.97
    assert verdict.changed is not None
    assert (verdict.changed > 0.95) == (change is COLOUR)


def test_the_background() -> None:
    verdict = judge(GROUND, picture(PLACED), picture(PLACED, "yellow"))
    assert verdict is not None
    assert verdict.done
    assert verdict.kept
    assert verdict.changed is None
    assert verdict.others > 0.95
    assert judge(GROUND, picture(PLACED), picture(PLACED)) == (False, False, 1.0, None)


MOVED, LARGER = {"y": PLACED[1].y + 0.12}, {"radius": PLACED[1].radius * 1.15}


@pytest.mark.parametrize("change", [COLOUR, SHAPE], ids=["colour", "shape"])
@pytest.mark.parametrize(
    "disturbed",
    [lambda things: picture(square(things, **MOVED)), lambda things: picture(square(things, **LARGER))],
    ids=["moved", "larger"],
)
def test_done_but_another_object_is_disturbed(change: Change, disturbed: Callable[[Things], np.ndarray]) -> None:
    group = change.after.groups[0]
    verdict = judge(change, picture(PLACED), disturbed(circle(colour=group.colour, shape=group.shape)))
    assert verdict is not None
    assert verdict.done
    assert not verdict.kept
    assert verdict.others < OVERLAP


def test_the_object_itself_may_not_move() -> None:
    moved = circle(shape="star", y=PLACED[0].y + 0.12)
    verdict = judge(SHAPE, picture(PLACED), picture(moved))
    assert verdict is not None
    assert (verdict.done, verdict.kept) == (True, False)
    assert verdict.others > 0.97


def test_another_background_is_told() -> None:
    for change, after in ((COLOUR, circle(colour="green")), (SHAPE, circle(shape="star"))):
        verdict = judge(change, picture(PLACED), picture(after, "yellow"))
        assert verdict is not None
        assert (verdict.done, verdict.kept) == (True, False)


@pytest.mark.parametrize(
    ("after", "done"),
    [
        (PLACED, False),  # nothing changed
        (circle(colour="purple"), False),  # another colour than was asked for
        (circle(colour="green")[:1], True),  # the other object is gone
        (PLACED[1:], False),  # the object is gone
        ((*circle(colour="green"), PLACED[0]._replace(x=0.5, y=0.85, radius=0.1)), True),  # one too many
    ],
    ids=["nothing", "purple", "other gone", "gone", "third"],
)
def test_other_objects_than_asked_for(after: Things, done: bool) -> None:
    assert judge(COLOUR, picture(PLACED), picture(after)) == (done, False, 0.0, None)


@pytest.mark.parametrize(
    "before",
    [picture(PLACED[:1]), picture(circle(colour="green")), picture(PLACED, "yellow")],
    ids=["missing", "colour", "ground"],
)
def test_a_source_that_is_not_what_its_words_say(before: np.ndarray) -> None:
    assert judge(COLOUR, before, picture(circle(colour="green"))) is None
