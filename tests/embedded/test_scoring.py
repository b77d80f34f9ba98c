from __future__ import annotations

import pytest

from pydiff.embedded.reader import Found, Reading
from pydiff.embedded.scoring import score
from pydiff.embedded.world import PLACES, Group, Scene

RED_CIRCLE, BLUE_SQUARE, GREEN_STAR = Group(1, "red", "circle"), Group(1, "blue", "square"), Group(1, "green", "star")
PAIR = Scene((RED_CIRCLE, BLUE_SQUARE), "left of", None, "white", True)


def found(name: str, x: float, y: float = 0.5, size: str = "medium") -> Found:
    colour, shape = name.split()
    return Found(colour, shape, size, x, y, {"small": 0.1, "medium": 0.145, "large": 0.205}[size])


def failed(scene: Scene, *objects: Found, background: str = "white") -> set[str]:
    return {category for category, right in score(scene, Reading(background, objects)).items() if not right}


def test_only_what_the_words_say_is_judged() -> None:
    plain = Scene((RED_CIRCLE,), None, None, "white", False)
    assert score(plain, Reading("pink", (found("red circle", 0.9),))) == dict.fromkeys(
        ("colours", "shapes", "overall"), True
    )
    sized = Scene((Group(2, "red", "circle", "small"),), None, None, "white", True)
    assert set(score(sized, Reading("white", ()))) == {"background", "colours", "shapes", "size", "counting", "overall"}
    assert set(score(PAIR, Reading("white", ()))) == {"background", "colours", "shapes", "positional", "overall"}


def test_an_empty_picture_fails_all_but_the_background() -> None:
    assert failed(PAIR) == {"colours", "shapes", "positional", "overall"}


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ((found("red circle", 0.26), found("blue square", 0.74)), set()),
        ((found("green circle", 0.26), found("blue square", 0.74)), {"colours", "overall"}),
        ((found("red star", 0.26), found("blue square", 0.74)), {"shapes", "overall"}),
        ((found("red circle", 0.74), found("blue square", 0.26)), {"positional", "overall"}),
        ((found("red circle", 0.4, 0.2), found("blue square", 0.6, 0.8)), {"positional", "overall"}),
        ((found("blue circle", 0.26), found("red square", 0.74)), {"overall"}),  # colours on the wrong shapes
        ((found("red circle", 0.26),), {"colours", "shapes", "positional", "overall"}),
        ((found("red circle", 0.26), found("blue square", 0.74), found("red circle", 0.5, 0.9)), {"overall"}),
    ],
)
def test_a_category_fails_alone(objects: tuple[Found, ...], expected: set[str]) -> None:
    assert failed(PAIR, *objects) == expected


def test_objects_that_resemble_nothing_named_do_not_stand_for_it() -> None:
    strangers = (found("green star", 0.26), found("pink ring", 0.74))
    assert failed(PAIR, *strangers) == {"colours", "shapes", "positional", "overall"}
    alone = Scene((RED_CIRCLE,), None, "on the left", "white", True)
    assert failed(alone, strangers[0]) == {"colours", "shapes", "overall"}


def test_background() -> None:
    objects = (found("red circle", 0.26), found("blue square", 0.74))
    assert failed(PAIR, *objects, background="pink") == {"background", "overall"}


@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below"])
def test_relations(relation: str) -> None:
    scene = Scene((RED_CIRCLE, BLUE_SQUARE), relation, None, "white", True)
    spots = {"left of": (0.26, 0.5), "right of": (0.74, 0.5), "above": (0.5, 0.26), "below": (0.5, 0.74)}
    for name, (x, y) in spots.items():
        objects = (found("red circle", x, y), found("blue square", 1 - x, 1 - y))
        assert ("positional" in failed(scene, *objects)) == (name != relation)


@pytest.mark.parametrize("place", PLACES)
def test_places(place: str) -> None:
    scene = Scene((RED_CIRCLE,), None, place, "white", True)
    for name, spot in PLACES.items():
        assert ("positional" in failed(scene, found("red circle", *spot))) == (name != place)


def test_a_row_stands_in_the_order_named() -> None:
    scene = Scene((RED_CIRCLE, BLUE_SQUARE, GREEN_STAR), "row", None, "white", True)
    names = ("red circle", "blue square", "green star")
    row = [found(name, x) for name, x in zip(names, (0.2, 0.5, 0.8), strict=True)]
    assert failed(scene, *row) == set()
    turned = [f._replace(x=1 - f.x) for f in row]
    assert failed(scene, *turned) == {"positional", "overall"}
    assert failed(scene, *row[:2], row[2]._replace(y=0.8)) == {"positional", "overall"}


def test_counting_goes_group_by_group() -> None:
    scene = Scene((Group(2, "red", "circle"), BLUE_SQUARE), "left of", None, "white", True)
    reds, square = [found("red circle", 0.26, 0.28), found("red circle", 0.26, 0.72)], found("blue square", 0.74)
    assert failed(scene, *reds, square) == set()
    assert "counting" in failed(scene, reds[0], square)
    assert "counting" in failed(scene, *reds, square, found("red circle", 0.26))
    assert "counting" in failed(scene, reds[0], square, found("blue square", 0.74, 0.9))
    assert "counting" not in failed(scene, *(f._replace(colour="pink") for f in reds), square)
    alone = Scene((Group(2, "red", "circle"),), None, None, "white", True)
    assert failed(alone, found("green star", 0.3), found("green star", 0.7)) == {"colours", "shapes", "overall"}


def test_size_is_that_of_the_object_it_was_said_of() -> None:
    scene = Scene((Group(1, "red", "circle", "small"), BLUE_SQUARE), "left of", None, "white", True)
    square = found("blue square", 0.74, size="large")
    assert failed(scene, found("red circle", 0.26, size="small"), square) == set()
    assert failed(scene, found("red circle", 0.26), square._replace(size="small")) == {"size", "overall"}
    assert failed(scene, found("pink circle", 0.26, size="small"), square) == {"colours", "overall"}
    assert "size" in failed(scene, square)


def test_a_crowd_is_scored_too() -> None:
    crowd = [found("red circle", 0.1 + 0.07 * i, size="small") for i in range(12)]
    assert failed(PAIR, *crowd) == {"colours", "shapes", "positional", "overall"}
