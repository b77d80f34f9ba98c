"""Two prompts aligned: golden values of the original code, the same without its defects, and the laws of both."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pydiff.text.alignment import MODES, _common, align
from pydiff.text.google import refinement_mapper, replacement_mapper
from pydiff.text.spans import read_columns
from tests.text import google_formulas as google
from tests.text.small_tokenizers import clip, columns, letters, t5, words

S = "a painting of a squirrel eating a burger"
LION, LASAGNE = S.replace("squirrel", "lion"), S.replace("squirrel", "lasagne")
LAST = S.replace("burger", "lasagne")
STYLE, SHORT = S.replace("painting", "neoclassical painting"), "a painting of a squirrel"


def entries(transfer: NDArray[np.float64], upto: int = 77) -> dict[tuple[int, int], float]:
    """The entries that differ from the identity's, in rows and columns below `upto`."""
    changed = np.argwhere(transfer != np.eye(77)).tolist()
    return {(i, j): transfer[i, j].item() for i, j in changed if i < upto and j < upto}


def golden(source: str, target: str) -> NDArray[np.float64]:
    return replacement_mapper(*columns(source, target))


def test_golden_replacement():
    assert np.array_equal(golden(S, LION), np.eye(77))
    assert entries(golden(S, LAST)) == {(8, 8): 0.5, (8, 9): 0.5, (9, 9): 0}
    assert entries(golden(S, LASAGNE)) == {(5, 5): 0.5, (5, 6): 0.5, (6, 6): 0}  # the tail is off by one
    back = golden(LAST, S)
    assert entries(back) == {(9, 8): 1, (76, 76): 0}
    assert back[:, 8].sum() == back[9].sum() == 2
    with pytest.raises(ValueError, match=r"8 and 9 words .*'a neoclassical painting"):
        golden(S, STYLE)
    with pytest.raises(ValueError, match="'cat' and 'dog' cannot be swapped"):
        golden("a  cat", "a  dog")


@pytest.mark.parametrize(
    ("source", "target", "mapper"),
    [
        (S, STYLE, [0, 1, -1, -1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14]),
        (S, SHORT, [0, 1, 2, 3, 4, 5, 9, 7, 8, 9, 10]),
        (S, LION, [0, 1, 2, 3, 4, -1, 6, 7]),
        ("a cat and a cat", "a cat", [0, 1, 2, 6, 4, 5, 6]),
    ],
)
def test_golden_refinement(source, target, mapper):
    made, has_source = refinement_mapper(*columns(source, target))
    assert made.tolist() == [*mapper, *range(len(mapper), 77)]
    assert np.array_equal(has_source, made != -1)
    alignment = align(*columns(source, target), "refine", compat="google")
    assert np.array_equal(alignment.has_source, has_source)
    rows = [made[j] if made[j] >= 0 else 77 for j in range(77)]
    assert np.array_equal(alignment.transfer, np.eye(78)[:77, rows])


def test_compat_finds_the_kind_by_the_number_of_words():
    for target, kind in [(LION, "replace"), (LASAGNE, "replace"), (STYLE, "refine"), (SHORT, "refine")]:
        found, expected = (align(*columns(S, target), mode, compat="google") for mode in ("auto", kind))
        assert np.array_equal(found.transfer, expected.transfer)
        assert np.array_equal(found.has_source, expected.has_source)


@pytest.mark.parametrize("mode", ["auto", "replace"])
def test_swaps(mode):
    same = align(*columns(S, LION), mode)
    assert np.array_equal(same.transfer, np.eye(77))
    assert (same.swapped, same.added, same.removed) == ((("squirrel", "lion"),), (), ())
    longer = align(*columns(S, LASAGNE), mode)  # eating, a, burger and the end move by one; padding stays
    moved = {(5, 5): 0.5, (5, 6): 0.5, **{(i, i): 0 for i in range(6, 11)}, **{(i, i + 1): 1 for i in range(6, 10)}}
    assert entries(longer.transfer) == moved
    assert longer.has_source.all()
    shorter = align(*columns(LASAGNE, S), mode)
    moved = {(5, 5): 1, (6, 5): 1, **{(i, i): 0 for i in range(6, 11)}, **{(i + 1, i): 1 for i in range(6, 10)}}
    assert entries(shorter.transfer) == {key: value for key, value in moved.items() if key != (5, 5)}
    assert [j for j in range(77) if not shorter.has_source[j]] == [10]  # padding where the source has its end


def test_additions_and_removals():
    added = align(*columns(S, STYLE))
    assert (added.swapped, added.added, added.removed) == ((), ("neoclassical",), ())
    for alignment in (added, align(*columns(S, STYLE), "refine")):
        expected = align(*columns(S, STYLE), "refine", compat="google")  # nothing is wrong with it there
        assert np.array_equal(alignment.transfer, expected.transfer)
        assert np.array_equal(alignment.has_source, expected.has_source)
    removed = align(*columns(S, SHORT))
    assert (removed.swapped, removed.added, removed.removed) == ((), (), ("eating a burger",))
    assert [j for j in range(77) if not removed.has_source[j]] == [7, 8, 9]
    assert removed.transfer[9, 6] == 1
    changed = align(*columns(S, LION), "refine")
    assert (changed.swapped, changed.added, changed.removed) == ((), ("lion",), ("squirrel",))
    assert [j for j in range(77) if not changed.has_source[j]] == [5]


@pytest.mark.parametrize(
    ("source", "target", "swapped", "added", "removed"),
    [
        (S, S, (), (), ()),
        ("a Cat,  and a dog", "a cat, and a DOG", (), (), ()),
        ("a red cat", "a blue cat on a state", (("red", "blue"),), ("on a state",), ()),
        ("a red cat and a blue dog", "a blue cat and a red dog", (("red", "blue"), ("blue", "red")), (), ()),
        ("a red cat and a dog", "a cat and a blue dog", (), ("blue",), ("red",)),
        ("a cat, a dog", "a lion, a dog.", (("cat", "lion"),), (".",), ()),
        ("a red-blue cat", "a red-fluffy cat", (("blue", "fluffy"),), (), ()),
        ("a red-blue cat", "a fluffy cat", (("red-blue", "fluffy"),), (), ()),
        ("a red cat", "a smiling fluffy blue cat", (), ("smiling fluffy blue",), ("red",)),
        ("红色的圆形和蓝色的方块", "绿色的圆形和蓝色的圆块", (("红", "绿"), ("方", "圆")), (), ()),
        ("一只猫", "一只大猫", (), ("大",), ()),
        ("a red dog", "a cat and a red dog", (), ("a cat and",), ()),
        ("", "a cat", (), ("a cat",), ()),
        ("a cat", "", (), (), ("a cat",)),
        ("(cat), dog", "(cat) dog", (("),", ")"),), (), ()),  # one token in CLIP
    ],
)
def test_changes_are_found(source, target, swapped, added, removed):
    for tokenizer in (clip(), t5()) if "(" not in source else (clip(),):
        alignment = align(*columns(source, target, tokenizer=tokenizer))
        assert (alignment.swapped, alignment.added, alignment.removed) == (swapped, added, removed)


def test_tokens_of_swapped_words():
    source, target = columns("a cat on a painting", "a lasagne on a painting", tokenizer=t5())
    alignment = align(source, target)
    share = alignment.transfer[np.ix_(source.columns("cat"), target.columns("lasagne"))]
    assert np.allclose(share, 1 / len(target.columns("lasagne")))
    assert alignment.transfer[source.columns("on")[0], target.columns("on")[0]] == 1
    source, target = columns("red cat", "a red cat", tokenizer=letters())  # with a space before it, "red" has 4 tokens
    alignment = align(source, target)
    assert alignment.added == ("a",)
    assert alignment.transfer[source.columns("red"), target.columns("red")[1:]].tolist() == [1, 1, 1]
    assert not alignment.has_source[list(target.columns("a"))].any()


def test_windows():
    source, target = columns("a red cat of a blue dog", "a red fluffy cat of a blue dog", tokenizer=words(6))
    alignment = align(source, target)
    taken = {j: alignment.transfer[:, j].argmax().item() for j in range(12) if alignment.has_source[j]}
    assert taken == {0: 0, 1: 1, 2: 2, 4: 3, 5: 5, 6: 6, 7: 4, 8: 7, 9: 8, 10: 9, 11: 10}
    with pytest.raises(ValueError, match="one window of tokens, but the prompts take 2"):
        align(source, target, compat="google")


def test_a_long_prompt():
    source, target = columns("a red cat " * 100, "a red cat " * 20 + "fluffy " + "a red cat " * 80)
    alignment = align(source, target)
    assert (alignment.swapped, alignment.added, alignment.removed) == ((), ("fluffy",), ())


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
@settings(max_examples=100, deadline=None)
def test_common_entries_are_most_in_fewest_runs(one, other):
    def runs(pairs):
        return sum(1 for k, (i, j) in enumerate(pairs) if not k or pairs[k - 1] != (i - 1, j - 1))

    equal = {(i, j) for i, j in product(range(len(one)), range(len(other))) if one[i] == other[j]}
    chains = {0: [()]}  # all ascending sequences of equal places, by brute force
    while chains[len(chains) - 1]:
        last = chains[len(chains) - 1]
        chains[len(chains)] = [(*c, p) for c in last for p in equal if not c or (p[0] > c[-1][0] and p[1] > c[-1][1])]
    most = max(length for length, found in chains.items() if found)
    made = _common(one, other)
    assert tuple(made) in chains[most]
    assert runs(made) == min(map(runs, chains[most]))


def test_what_does_not_fit_is_refused():
    source, target = columns(S, STYLE)
    with pytest.raises(ValueError, match="8 words and the target 9; 'neoclassical' cannot be paired"):
        align(source, target, "replace")
    with pytest.raises(ValueError, match="mode is 'swap'; expected one of auto, replace, refine"):
        align(source, target, "swap")
    with pytest.raises(ValueError, match="compat is 'diffusers'; expected 'google'"):
        align(source, target, compat="diffusers")
    for other in (read_columns(words(), ["a cat"], windows=2)[0], columns("a cat", tokenizer=t5())[0]):
        with pytest.raises(ValueError, match="read them together"):
            align(source, other)


VOCABULARY = ["a", "cat", "lasagne", "neoclassical", "red", "dog", "and", "bunny", "cat,", "(red)", "Zürich", "cat's"]
PROMPTS = st.lists(st.sampled_from(VOCABULARY), max_size=9).map(" ".join)


@given(PROMPTS, PROMPTS)
@settings(max_examples=150, deadline=None)
def test_the_original_mappers(source, target):
    pair = columns(source, target)
    mapper, alphas = google.refinement(words(), source, target)
    made, has_source = refinement_mapper(*pair)
    assert np.array_equal(made, mapper)
    assert np.array_equal(has_source, alphas)
    try:
        replaced = replacement_mapper(*pair)
    except ValueError:
        assert len(source.split(" ")) != len(target.split(" ")) or "" in (source, target)
        return
    assert np.array_equal(replaced, google.replacement(words(), source, target))


@given(PROMPTS, PROMPTS, st.sampled_from(MODES), st.sampled_from([words(60), clip(60), t5(60), letters(100)]))
@settings(max_examples=200, deadline=None)
def test_laws(source, target, mode, tokenizer):
    one, other = columns(source, target, tokenizer=tokenizer)
    same = align(one, one, mode)
    assert np.array_equal(same.transfer, np.eye(one.length))
    assert same.has_source.all()
    assert (same.swapped, same.added, same.removed) == ((), (), ())
    if mode == "replace" and len(source.split()) != len(target.split()):
        with pytest.raises(ValueError, match="cannot be paired"):
            align(one, other, mode)
        return
    alignment = align(one, other, mode)
    transfer = alignment.transfer
    assert (transfer >= 0).all()
    assert (transfer.sum(1) <= 1 + 1e-12).all()
    assert np.array_equal(alignment.has_source, transfer.any(axis=0))
    if mode == "refine":
        assert not alignment.swapped
        assert set(transfer.ravel().tolist()) <= {0, 1}
        ids = [{one.column(k): token.id for k, token in enumerate(prompt.tokens)} for prompt in (one, other)]
        pairs = [(i, j) for i, j in np.argwhere(transfer).tolist() if j in ids[1]]
        assert all(ids[0][i] == ids[1][j] for i, j in pairs)
        assert pairs == sorted(pairs, key=lambda pair: pair[1])
    assert (transfer[list(one.frame), list(other.frame)] == 1).all()


@given(st.text(max_size=20), st.text(max_size=20), st.sampled_from(MODES), st.sampled_from([None, "google"]))
@settings(max_examples=150, deadline=None)
def test_any_text_is_aligned_or_refused(source, target, mode, compat):
    for tokenizer in (words(99), clip(99), letters(99)):
        try:
            alignment = align(*columns(source, target, tokenizer=tokenizer), mode, compat=compat)
        except ValueError:
            continue
        assert np.isfinite(alignment.transfer).all()
