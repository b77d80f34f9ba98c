"""Seeds and generators: one per picture, whatever a caller gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pydiff.tasks.seeds import MAX_SEED, generators, seed_list
from tests.tasks.junk import junk


def test_seeds() -> None:
    assert seed_list(5, 3) == [5, 6, 7]
    assert seed_list((9, 2), 2) == [9, 2]
    assert seed_list(2**63 - 2, 2) == [2**63 - 2, 2**63 - 1]
    assert len(set(seed_list(None, 8))) == 8
    with pytest.raises(ValueError, match="seed is"):
        seed_list(2**63 - 2, 3)


@given(st.integers(0, MAX_SEED - 10), st.integers(1, 10))
def test_one_seed_counts_up_and_a_list_stays(seed: int, count: int) -> None:
    counted = seed_list(seed, count)
    assert counted == list(range(seed, seed + count))
    assert seed_list(counted, count) == counted


def test_seeds_are_drawn_from_as_they_are() -> None:
    assert generators([3, 2**63 - 1], None, 2) == ([3, 2**63 - 1], [3, 2**63 - 1])


def test_generators_given_are_taken_as_they_are() -> None:
    one, two = torch.Generator(), torch.Generator()
    assert generators(None, one, 1) == ([None], [one])
    assert generators(None, (one, two), 2) == ([None, None], [one, two])


@pytest.mark.parametrize(
    ("seed", "generator", "count", "message"),
    [
        (1, torch.Generator(), 1, "seed and generator are both given; give one of them"),
        (None, 5, 1, "generator is 5; expected a torch.Generator per picture"),
        (None, [torch.Generator(), None], 2, "expected a torch.Generator per picture"),
        (None, [torch.Generator()], 2, "generator lists 1 generators for 2 pictures; give one per picture"),
        (None, torch.Generator(), 2, "generator lists 1 generators for 2 pictures"),
        ([], None, 1, "seed lists 0 numbers for 1 pictures; give one int, or one per picture"),
        (MAX_SEED, None, 2, f"seed is {MAX_SEED}; expected an integer from 0 to {MAX_SEED - 1}"),
        (torch.tensor(3), None, 1, r"seed is tensor\(3\)"),
    ],
)
def test_refused(seed: Any, generator: Any, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generators(seed, generator, count)


@given(junk, junk, st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_junk_raises_nothing_but_value_errors(seed: Any, generator: Any, count: int) -> None:
    try:
        seeds, drawn = generators(seed, generator, count)
    except ValueError:
        return
    assert len(seeds) == len(drawn) == count
