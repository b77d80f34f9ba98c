from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydiff.embedded.captions import (
    NUMBERS,
    PLACE_WORDS,
    RELATION_WORDS,
    SIZE_WORDS,
    caption,
    noun_phrase,
)
from pydiff.embedded.world import COLOURS, PLACES, RELATIONS, SHAPES, Group, Scene, sample_scene

seeds = st.integers(0, 2**32 - 1)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text)


@settings(max_examples=150, deadline=None)
@given(seed=seeds, unseen=st.booleans())
def test_caption_says_what_the_scene_holds(seed: int, unseen: bool) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, unseen=unseen)
    said = [word.replace("grey", "gray") for word in words(caption(scene, rng))]
    plural = {f"{shape}{'es' if shape == 'cross' else 's'}": shape for shape in SHAPES}
    shapes = [(plural.get(word, word), word in plural) for word in said if plural.get(word, word) in SHAPES]
    assert shapes == [(g.shape, g.count > 1) for g in scene.groups]
    colours = [word for word in said if word in COLOURS]
    expected = [g.colour for g in scene.groups]
    assert sorted(colours) == sorted(expected + [scene.background] * scene.named_background)
    for size, options in SIZE_WORDS.items():
        assert sum(said.count(option) for option in options) == sum(g.size == size for g in scene.groups)
    for number in (2, 3, 4):
        assert said.count(NUMBERS[number][0]) == sum(g.count == number for g in scene.groups)


@settings(max_examples=80, deadline=None)
@given(seed=seeds)
def test_relation_and_place_stand_where_they_belong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    text = caption(scene, rng)
    if scene.relation in RELATIONS:
        between = re.search(rf"{scene.groups[0].shape}(?:e?s)? (.+?) (?:an?|one|two|three) ", text)
        assert between is not None
        assert between[1] in RELATION_WORDS[scene.relation]
    if scene.place is not None:
        assert any(phrase in text for phrase in PLACE_WORDS[scene.place])


def test_every_relation_and_place_has_words_of_its_own() -> None:
    for table, keys in ((RELATION_WORDS, RELATIONS), (PLACE_WORDS, PLACES)):
        assert set(table) == set(keys)
        phrases = [phrase for options in table.values() for phrase in options]
        assert len(phrases) == len(set(phrases))


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (Group(1, "orange", "ring"), {"an orange ring", "one orange ring"}),
        (Group(1, "red", "cross"), {"a red cross", "one red cross"}),
        (Group(3, "red", "cross"), {"three red crosses"}),
        (Group(2, "blue", "star", "large"), {f"two {size} blue stars" for size in ("large", "big", "huge")}),
    ],
)
def test_noun_phrase(group: Group, expected: set[str]) -> None:
    rng = np.random.default_rng(0)
    assert {noun_phrase(group, rng) for _ in range(100)} == expected


def test_unnamed_background_is_not_mentioned() -> None:
    rng = np.random.default_rng(0)
    scene = Scene((Group(1, "red", "circle"),), None, None, "white", False)
    assert not any("white" in caption(scene, rng) for _ in range(50))


def test_grey_is_spelt_both_ways() -> None:
    rng = np.random.default_rng(0)
    scene = Scene((Group(1, "red", "circle"),), None, None, "gray", True)
    spelt = {word for _ in range(50) for word in words(caption(scene, rng)) if word in ("gray", "grey")}
    assert spelt == {"gray", "grey"}
