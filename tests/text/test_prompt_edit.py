"""Edits of whole prompts: the tables give the maps that Google's formulas give, materialised, in float64."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pydiff.diffusion.edits import EditRow
from pydiff.text.prompt_edit import prompt_edit, word_probe
from pydiff.text.spans import read_columns
from tests.text import google_formulas as google
from tests.text.small_tokenizers import clip, columns, t5, words

S = "a painting of a squirrel eating a burger"
SWAPS = [
    S,
    S.replace("squirrel", "lion"),
    S.replace("burger", "lasagne"),
    S.replace("squirrel eating", "bunny smiling"),
]
REFINED = [
    S,
    S.replace("painting", "neoclassical painting"),
    "a painting of a squirrel",
    S + " and a smiling fluffy lion",
]
SHARES: list[Any] = [
    0.8, 1.0, 0.0, 0.55, 0.99, (0.2, 0.6),
    {"default_": 1.0, "lion": 0.4},
    {"default_": (0.1, 0.5), "burger": (0.3, 1.0), "lasagne": 0.2},
    {"eating": 0.3},
]  # fmt: skip
WEIGHTS: list[Any] = [{"burger": 2.0, "a": -1.0}, {"squirrel": [0.5, -2.0, 3.0], "of": 0.0}]


def maps(batch: int, length: int = 77, seed: int = 0) -> Tensor:
    """(B, heads, N, T), rows that sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, 2, 6, length, dtype=torch.float64, generator=generator)
    return (4 * scores).softmax(-1)


def edited(attention: Tensor, row: EditRow) -> Tensor:
    source, transfer, keep = (torch.from_numpy(part) for part in (row.source, row.transfer, row.keep))
    return attention[source] @ transfer[:, None] + attention * keep[:, None, None]


def differs(prompts: list[str], levels: int, kind: str, **said: Any) -> float:
    """The largest difference from Google's maps over all levels."""
    controller = google.Controller(
        words(), prompts, levels, kind, said["cross_replace"], said["self_replace"], said["reweight"]
    )
    table = prompt_edit(
        columns(*prompts), levels, mode="refine" if kind == "refine" else "replace", compat="google", **said
    )
    worst, A = 0.0, maps(len(prompts))
    for level in range(levels):
        row = table.at(level)
        expected = controller.cross(A, level)
        worst = max(worst, (edited(A, row) - expected).abs().max().item())
        assert (row.self_source is not None) == controller.replaces_self(level, 256)
        assert row.borrows == bool((row.transfer != 0).any() or (row.keep != 1).any())
        if not row.borrows:
            assert torch.equal(expected, A)
    return worst


@pytest.mark.parametrize("share", SHARES, ids=str)
@pytest.mark.parametrize("weights", [None, *WEIGHTS], ids=str)
@pytest.mark.parametrize(("kind", "prompts"), [("replace", SWAPS), ("refine", REFINED)])
def test_the_original_maps(kind, prompts, share, weights):
    for levels, self_share in ((10, 0.4), (9, (0.3, 1.0))):
        said = {"cross_replace": share, "self_replace": self_share, "reweight": weights}
        used = {"squirrel", "burger", "eating", "lion", "lasagne"} & {w for text in prompts[1:] for w in text.split()}
        if isinstance(share, dict):
            said["cross_replace"] = {word: share[word] for word in share if word in used or word == "default_"}
        assert differs(prompts, levels, kind, **said) < 1e-12


def test_reweighting_alone():
    prompts = [S] * 4
    for weights in WEIGHTS:
        said = {"cross_replace": {"default_": 0.8, "a": (0.2, 0.5)}, "self_replace": 0.4, "reweight": weights}
        assert differs(prompts, 10, "identity", **said) < 1e-12


@pytest.mark.parametrize("share", [0.8, (0.2, 0.6), {"default_": 1.0, "lion": 0.4}], ids=str)
@pytest.mark.parametrize("weights", [None, {"burger": 2.0}], ids=str)
@pytest.mark.parametrize(("kind", "target"), [("replace", SWAPS[1]), ("refine", REFINED[1]), ("refine", REFINED[3])])
def test_the_default_is_the_original_where_that_has_no_defect(kind, target, share, weights):
    if isinstance(share, dict) and "lion" not in target:
        share = share["default_"]
    controller = google.Controller(words(), [S, target], 10, kind, share, 0.4, weights)
    table, A = prompt_edit(columns(S, target), 10, cross_replace=share, reweight=weights), maps(2)
    for level in range(10):
        assert (edited(A, table.at(level)) - controller.cross(A, level)).abs().max() < 1e-12


def test_swapped_words_of_other_lengths():
    source, target = columns(S, S.replace("squirrel", "lasagne"))
    A = maps(2)
    E = edited(A, prompt_edit([source, target], 4, cross_replace=1.0).at(0))[1]
    assert torch.allclose(E[..., 5], A[0, ..., 5] / 2)
    assert torch.allclose(E[..., 6], A[0, ..., 5] / 2)
    assert torch.allclose(E[..., 7:11], A[0, ..., 6:10])  # eating a burger, and the end
    assert torch.allclose(E[..., 11:], A[0, ..., 11:])
    E = edited(A, prompt_edit([target, source], 4, cross_replace=1.0).at(0))[1]
    assert torch.allclose(E[..., 5], A[0, ..., 5] + A[0, ..., 6])
    assert torch.equal(E[..., 10], A[1, ..., 10])  # padding that has none in its place keeps its own


@given(st.integers(1, 60), st.integers(0, 100), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_a_level_is_edited_by_its_progress(levels, one, other):
    low, high = sorted((one, other))
    pair = columns(S, S)
    table = prompt_edit(pair, levels, cross_replace=(low / 100, high / 100), self_replace=(low / 100, high / 100))
    for level, row in enumerate(table.rows):
        inside = low * levels <= level * 100 < high * levels
        assert row.borrows == inside
        assert (row.self_source is not None) == inside


def test_equal_rows_are_one_object():
    share = {"default_": 0.6, "lion": (0.2, 0.4)}
    table = prompt_edit(columns(S, SWAPS[1]), 50, cross_replace=share, self_replace=0.3)
    assert len({id(row) for row in table.rows}) == 5  # borders at 10, 15, 20 and 30
    assert [level for level, pair in enumerate(pairwise(table.rows), 1) if pair[0] is not pair[1]] == [10, 15, 20, 30]
    assert table.rows[0] is table.rows[9]
    assert table.at(0).transfer is table.rows[0].transfer
    assert table.self_max_pixels == 256
    assert prompt_edit(columns(S, S), 3, self_replace_max_size=0).self_max_pixels == 0


def test_an_edit_to_the_same_prompt():
    for tokenizer in (words(), clip(), t5()):
        prompts = columns(S, S, S, tokenizer=tokenizer)
        A = maps(1).expand(3, -1, -1, -1)
        for row in prompt_edit(prompts, 10, cross_replace=(0.2, 0.6)).rows:
            assert np.array_equal(row.transfer[0], np.zeros((77, 77)))
            assert np.array_equal(row.keep[0], np.ones(77))
            assert row.source.tolist() == ([0, 0, 0] if row.borrows else [0, 1, 2])
            assert torch.allclose(edited(A, row), A, atol=1e-15)


def test_words_of_several_targets():
    prompts = columns("a cat", "a cat, a dog", "a dog")
    row = prompt_edit(prompts, 4, cross_replace={"cat": 0.0, ("a", 1): 0.0}, reweight={"dog": 3.0, "a": 2.0}).at(1)
    assert row.transfer[1, :5].diagonal().tolist() == [1, 2, 0, 0, 0]
    assert row.keep[1, :7].tolist() == [0, 0, 1, 1, 1, 3, 0]
    assert row.keep[2, :4].tolist() == [0, 0, 0, 0]
    assert row.transfer[2, :4].diagonal().tolist() == [1, 2, 3, 1]
    assert np.argwhere(word_probe(prompts, ["cat", "dog"])).tolist() == [[0, 2], [1, 2], [1, 5], [2, 2]]
    assert np.argwhere(word_probe(prompts, ("a", 1))).tolist() == [[1, 4]]
    assert np.argwhere(word_probe(prompts, "cat", compat="google")).tolist() == [[0, 2]]  # "cat," is another word there
    with pytest.raises(ValueError, match=r"\[\] names no words"):
        word_probe(prompts, [])
    lowered = read_columns(words(), ["A CAT"], as_read=str.lower)
    assert [word_probe(lowered, "CAT", compat=compat)[0, 2] for compat in (None, "google")] == [1, 1]


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"reweight": {"horse": 2.0}}, "reweight names the word 'horse', which is not in 'a dog'"),
        ({"reweight": {"cat": 2.0}}, "reweight names the word 'cat', which is not in 'a dog'"),  # in the source alone
        ({"reweight": {("dog", 1): 2.0}}, "occurrence 1 of the word 'dog', which is not in"),
        ({"reweight": {"dog": math.nan}}, "reweight of 'dog' is nan; expected finite"),
        ({"reweight": {"dog": "2"}}, "reweight of 'dog' is '2'; expected a number"),
        ({"reweight": {"dog": [1.0, 2.0]}}, "reweight of 'dog' lists 2 values for 1 targets"),
        ({"reweight": {"": 1.0}}, "the word '' is empty"),
        ({"reweight": {3: 1.0}}, "3 names no word"),
        ({"reweight": ["dog"]}, "expected a word's weight"),
        ({"cross_replace": 1.2}, "cross_replace is 1.2; expected shares of the run"),
        ({"cross_replace": (0.5, 0.2)}, "cross_replace is .*start <= end"),
        ({"cross_replace": (0.5,)}, "cross_replace is .*or .start, end."),
        ({"cross_replace": "all"}, "cross_replace is 'all'; expected a number"),
        ({"cross_replace": math.nan}, "cross_replace is nan"),
        ({"cross_replace": {"default_": None}}, "cross_replace is None"),
        ({"cross_replace": {"dog": 2}}, "cross_replace of 'dog' is 2"),
        ({"cross_replace": {"horse": 0.2}}, "cross_replace names the word 'horse'"),
        ({"cross_replace": {"horse": 0.2}, "compat": "google"}, "cross_replace names the word 'horse'"),
        ({"self_replace": -0.1}, "self_replace is -0.1"),
        ({"self_replace_max_size": 1.5}, "self_replace_max_size is 1.5"),
        ({"compat": "diffusers"}, "compat is 'diffusers'"),
        ({"mode": "swap"}, "mode is 'swap'"),
        ({"levels": 0}, "levels is 0"),
    ],
)
def test_what_does_not_fit_is_refused(said, match):
    with pytest.raises(ValueError, match=match):
        prompt_edit(columns("a cat", "a dog"), said.pop("levels", 10), **said)


def test_too_few_prompts():
    with pytest.raises(ValueError, match="at least one target prompt; 1 prompts came"):
        prompt_edit(columns("a cat"), 10)
    with pytest.raises(ValueError, match="words names the word 'horse', which is not in 'a cat'"):
        word_probe(columns("a cat"), ["cat", "horse"])
