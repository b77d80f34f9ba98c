from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydiff.embedded.world import (
    BACKGROUNDS,
    COLOURS,
    OBJECT_COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    UNSEEN_KINDS,
    Group,
    Scene,
    Thing,
    draw,
    is_unseen,
    place_things,
    sample_scene,
)

seeds = st.integers(0, 2**32 - 1)


def ink(scene: Scene, things: tuple[Thing, ...], size: int) -> np.ndarray:
    return (draw(scene, things, size).astype(int) != COLOURS[scene.background]).any(-1)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, unseen=st.booleans())
def test_scene_is_one_that_words_can_say(seed: int, unseen: bool) -> None:
    scene = sample_scene(np.random.default_rng(seed), unseen=unseen)
    assert 1 <= sum(g.count for g in scene.groups) <= 4
    assert scene.background in BACKGROUNDS
    assert all(g.colour in OBJECT_COLOURS and g.colour != scene.background and g.shape in SHAPES for g in scene.groups)
    assert len({(g.colour, g.shape) for g in scene.groups}) == len(scene.groups)
    assert (scene.relation is None) == (len(scene.groups) == 1)
    assert scene.relation in {None, "row", *RELATIONS}
    assert scene.place is None or (scene.place in PLACES and scene.groups[0].count == 1)
    assert scene.named_background or scene.background == "white"


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_things_are_as_named_inside_and_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    things = place_things(scene, rng)
    assert [(t.colour, t.shape) for t in things] == [(g.colour, g.shape) for g in scene.groups for _ in range(g.count)]
    for thing in things:
        assert thing.radius <= min(thing.x, thing.y, 1 - thing.x, 1 - thing.y)
        assert thing.radius / SIZES[thing.size] == pytest.approx(1, abs=0.06)
    for a, b in itertools.combinations(things, 2):
        assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_drawings_stay_inside_and_never_touch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    things = place_things(scene, rng)
    inks = [ink(scene, (thing,), 128) for thing in things]
    assert not any(i[0].any() or i[-1].any() or i[:, 0].any() or i[:, -1].any() for i in inks)
    grown = np.pad(np.stack(inks), ((0, 0), (1, 1), (1, 1)))
    grown = grown[:, 1:-1, :-2] | grown[:, 1:-1, 1:-1] | grown[:, 1:-1, 2:] | grown[:, :-2, 1:-1] | grown[:, 2:, 1:-1]
    assert grown.sum(0).max() == 1
    assert (np.any(inks, axis=0) == ink(scene, things, 128)).all()


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_relations_and_rows_hold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    things = iter(place_things(scene, rng))
    groups = [[next(things) for _ in range(g.count)] for g in scene.groups]
    if scene.relation == "row":
        xs = [g[0].x for g in groups]
        assert xs == sorted(xs)
    elif scene.relation is not None:
        first, second = groups if scene.relation in ("left of", "above") else groups[::-1]
        axis = "x" if scene.relation in ("left of", "right of") else "y"
        assert max(getattr(t, axis) for t in first) + 0.1 < min(getattr(t, axis) for t in second)


def test_training_never_sees_what_is_kept_out() -> None:
    rng = np.random.default_rng(0)
    turned = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    kept_out = {("star", "above", "ring"), ("cross", "left of", "triangle"), ("square", "below", "star")}
    seen = set()
    for _ in range(5000):
        scene = sample_scene(rng)
        assert not {(g.colour, g.shape) for g in scene.groups} & UNSEEN_KINDS
        if scene.relation in RELATIONS:
            a, b = (g.shape for g in scene.groups)
            assert not {(a, scene.relation, b), (b, turned[scene.relation], a)} & kept_out
        seen |= {(g.colour, g.shape) for g in scene.groups}
    assert seen == set(itertools.product(OBJECT_COLOURS, SHAPES)) - UNSEEN_KINDS
    assert all(is_unseen(sample_scene(rng, unseen=True)) for _ in range(300))


def test_a_relation_is_unseen_from_either_side() -> None:
    star, ring = Group(1, "red", "star"), Group(2, "blue", "ring")
    assert is_unseen(Scene((star, ring), "above", None, "white", True))
    assert is_unseen(Scene((ring, star), "below", None, "white", True))
    assert not is_unseen(Scene((ring, star), "above", None, "white", True))
    assert not is_unseen(Scene((star, ring), "row", None, "white", True))


@pytest.mark.parametrize("seed", range(4))
def test_every_size_shows_the_same_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    things = place_things(scene, rng)
    small = draw(scene, things, 64).astype(float)
    for size in (256, 1024):
        large = draw(scene, things, size).astype(float)
        shrunk = large.reshape(64, size // 64, 64, size // 64, 3).mean((1, 3))
        error = np.abs(shrunk - small)
        assert error.mean() < 0.6
        assert error.max() < 90  # a third of a pixel's cover, at a sharp tip


def test_a_seed_is_a_picture() -> None:
    first, second = (np.random.default_rng(5) for _ in range(2))
    a, b = sample_scene(first), sample_scene(second)
    assert a == b
    assert (draw(a, place_things(a, first), 64) == draw(b, place_things(b, second), 64)).all()
