"""Where defects are placed, and what is painted there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pydiff.embedded.world import Group, Scene, draw, place_things
from pydiff.tools.defect_kinds import (
    KINDS,
    PLACES,
    STARTS,
    cover_of,
    hole_of,
    object_of,
    paint,
    place,
    read_kinds,
)

SCENE = Scene((Group(1, "red", "circle", "large"), Group(1, "black", "square")), "left of", None, "gray", True)


def scene(size: int = 96, seed: int = 0) -> np.ndarray:
    return draw(SCENE, place_things(SCENE, np.random.default_rng(seed)), size)


@pytest.mark.parametrize("rule", PLACES)
@pytest.mark.parametrize("seed", range(8))
def test_places_are_on_one_object(rule: str, seed: int) -> None:
    where = object_of(scene())
    cover = place(rule, where, np.random.default_rng(seed))
    again = place(rule, where, np.random.default_rng(seed))
    assert (cover == again).all()
    assert cover.dtype == np.float32
    assert cover.shape == where.shape
    assert 0 <= cover.min() < cover.max() <= 1
    on = cover[where].sum() / cover.sum()
    assert on == pytest.approx(1) if rule != "bite" else 0.2 < on <= 1
    left = (cover > 0)[:, :48].any()
    assert left != (cover > 0)[:, 48:].any()
    assert (cover >= 0.5).sum() < 0.5 * where.sum()
    hole = hole_of(cover, 3)
    assert hole[cover > 0].all()
    assert hole.sum() > (cover > 0).sum()


@pytest.mark.parametrize("rule", PLACES)
@pytest.mark.parametrize("shape", [(24, 24), (40, 17), (1, 30)])
def test_objects_of_any_form_and_at_the_rim(rule: str, shape: tuple[int, int]) -> None:
    where = np.ones(shape, bool)
    for seed in range(5):
        cover = place(rule, where, np.random.default_rng(seed))
        assert (cover >= 0.5).any()
        assert hole_of(cover, 2).shape == shape


def test_places_differ_by_seed() -> None:
    where = object_of(scene())
    assert len({place("stroke", where, np.random.default_rng(seed)).tobytes() for seed in range(6)}) == 6


@pytest.mark.parametrize("rule", PLACES)
def test_no_object_no_place(rule: str) -> None:
    with pytest.raises(ValueError, match="no object"):
        place(rule, np.zeros((16, 16), bool), np.random.default_rng(0))


def test_objects_are_what_is_not_background() -> None:
    picture = scene()
    found = object_of(picture)
    drawn = (picture != picture[0, 0]).any(axis=2)
    assert not found[~drawn].any()
    assert found.sum() > 0.9 * drawn.sum()
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    assert (object_of(noisy) == found).mean() > 0.99
    assert not object_of(np.full((8, 9, 3), 77, np.uint8)).any()


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_starts_stay_inside_of_the_cover(kind: object) -> None:
    picture, rng = scene(), np.random.default_rng(3)
    where = object_of(picture)
    cover = place(kind.place, where, rng)  # type: ignore[attr-defined]
    painted = paint(kind.start, picture, cover, where, rng)  # type: ignore[attr-defined]
    assert painted.dtype == np.uint8
    assert (painted[cover == 0] == picture[cover == 0]).all()
    changed = (np.abs(painted.astype(int) - picture) > 24).any(axis=2)
    assert changed.any() == (kind.start != "nothing")  # type: ignore[attr-defined]


def test_missing_parts_have_the_background_s_colour() -> None:
    picture, rng = scene(), np.random.default_rng(3)
    where = object_of(picture)
    cover = place("bite", where, rng)
    painted = paint("background", picture, cover, where, rng)
    assert (painted[cover == 1] == picture[0, 0]).all()


@pytest.mark.parametrize("start", STARTS)
def test_starts_where_all_is_object(start: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    everywhere = np.ones((20, 30), bool)
    painted = paint(start, picture, cover_of(everywhere, 2), everywhere, np.random.default_rng(1))
    assert painted.shape == picture.shape


def test_scratches_stand_out_from_dark_and_light() -> None:
    for level, sign in ((10, 1), (245, -1)):
        picture = np.full((16, 16, 3), level, np.uint8)
        cover = np.zeros((16, 16), np.float32)
        cover[8, 3:12] = 1
        painted = paint("tone", picture, cover, cover > 0, np.random.default_rng(0)).astype(int)
        assert ((painted[8, 5] - level) * sign > 60).all()


def test_covers_of_given_holes() -> None:
    hole = np.zeros((12, 12), bool)
    hole[2:10, 3:9] = True
    assert (cover_of(hole, 2) > 0).sum() == 4 * 2
    thin = np.zeros((12, 12), bool)
    thin[5] = True
    assert (cover_of(thin, 2) == thin).all()


def test_kinds_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "kinds.json"
    path.write_text(json.dumps({"rust": {"place": "ellipse", "start": "nothing", "prompt": "rust"}}))
    assert read_kinds(path)["rust"] == ("rust", "ellipse", "nothing", 1.0, 0.0, "rust")


@pytest.mark.parametrize(
    "row",
    [
        3,
        {},
        {"place": "moon", "start": "tone"},
        {"place": [], "start": "tone"},
        {"place": "stroke", "start": "moon"},
        {"place": "stroke", "start": "tone", "strength": 0},
        {"place": "stroke", "start": "tone", "strength": True},
        {"place": "stroke", "start": "tone", "strength": "1"},
        {"place": "stroke", "start": "tone", "prompt": 3},
        {"place": "stroke", "start": "tone", "keep": 1.5},
        {"place": "stroke", "start": "tone", "width": 3},
    ],
)
def test_bad_kinds_are_named(row: object, tmp_path: Path) -> None:
    path = tmp_path / "kinds.json"
    path.write_text(json.dumps({"rust": row}))
    with pytest.raises(ValueError, match=r"'rust'.*expected place"):
        read_kinds(path)
