"""The columns that words take."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydiff.text.google import word_columns
from pydiff.text.spans import read_columns
from tests.text import google_formulas as google
from tests.text.small_tokenizers import clip, columns, letters, t5, words


@pytest.mark.parametrize(
    ("prompt", "word", "expected"),
    [
        ("a cat and a cat", "cat", [2, 5]),
        ("a cat and a cat", ("cat", 1), [5]),
        ("a cat, and a dog", "cat", [2]),
        ("a cat, and a dog", "cat,", [2, 3]),
        ("a  cat", "cat", [2]),
        ("\ta\n cat ", "cat", [2]),
        ("A Cat", "cat", [2]),
        ("a cat", "CAT", [2]),
        ("a painting of lasagne", "lasagne", [4, 5]),
        ("a smiling bunny.", "smiling bunny", [2, 3, 4]),
        ("a  smiling   bunny", " smiling bunny ", [2, 3, 4]),
        ("Zürich, zu\u0308rich", "Zürich", [1, 2, 3, 5, 6, 7]),
        ("state-of-the-art cat", "cat", [8]),
        ("state-of-the-art cat", "state-of-the-art", [1, 2, 3, 4, 5, 6, 7]),
        ("state-of-the-art cat", "art", [7]),
        ("a 4096x2160 cat", "cat", [11]),
        ("a 4096x2160 cat", "4096x2160", [2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("the cat's art", "cat", [2]),
        ("the cat's art", "cat's", [2, 3, 4]),
        ("(a cat)", ")", [4]),
        ("a a a", "a a", [1, 2]),
        ("a ☃ cat", "☃", [2]),
    ],
)
def test_words(prompt, word, expected):
    (read,) = columns(prompt)
    assert list(read.columns(word)) == list(read.find(word)) == expected


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("cats", "cat"),
        ("a cat", "dog"),
        ("a cat", ("cat", 1)),
        ("", "cat"),
        ("a cat and a dog", "cat dog"),
        ("snow_cat", "cat"),
        ("क्या", "क"),  # its letter without its marks
        ("a long prompt of many words " * 10, "cat" * 40),
    ],
)
def test_a_word_that_is_not_there(prompt, word):
    (read,) = read_columns(letters(400), [prompt])
    assert read.find(word) == ()
    with pytest.raises(ValueError, match="is not in the prompt") as caught:
        read.columns(word)
    spelled = word if isinstance(word, str) else word[0]
    assert spelled[:50] in str(caught.value)
    assert prompt[:50] in str(caught.value)
    assert len(str(caught.value)) < 240


@pytest.mark.parametrize(
    "word", ["", "  ", 3, None, ("cat",), ("cat", -1), ("cat", "0"), ("cat", True), b"cat", "\ud800"]
)
def test_what_is_no_word(word):
    (read,) = columns("a cat")
    with pytest.raises(ValueError, match=r"word|Unicode"):
        read.columns(word)


def test_bytes_and_shared_tokens_of_clip():
    read, other = columns("a 猫, cafés (cat), dog", "在沙发上", tokenizer=clip())
    assert [read.columns(word) for word in ("猫", ",", "cafés")] == [(2, 3, 4), (5, 13), (6, 7, 8, 9, 10)]
    assert [read.columns(word) for word in ("(", "cat", ")", "dog")] == [(11,), (12,), (13,), (14,)]
    assert other.columns("沙发") == (4, 5, 6, 7, 8, 9)
    assert other.columns("上") == (10, 11, 12)


def test_white_space_belongs_to_the_next_word():
    read, spaced = columns("a red  circle, left of  lasagne!", "  zürich ", tokenizer=t5())
    assert [read.columns(word) for word in ("a", "red", "circle", "circle,")] == [(0,), (1,), (2, 3), (2, 3, 4)]
    assert read.columns("lasagne") == (*range(7, 15),)
    assert read.columns("!") == (15,)
    assert spaced.columns("zürich") == (*range(8),)  # none is after the last
    assert columns("a cat é", tokenizer=letters())[0].columns("é") == (5, 6, 7)


def test_what_the_encoder_does_first():
    prompts = ["  A RED circle ", "red"]
    read, other = read_columns(letters(), prompts, as_read=lambda prompt: prompt.lower().strip())
    assert read.text == "a red circle"
    assert read.columns("Red") == (1, 2, 3, 4)
    assert other.columns("RED") == (0, 1, 2)


def test_characters_that_the_tokenizer_drops():
    (read,) = columns("a \u200bcat, soft\u00adly", tokenizer=letters())
    assert read.columns("a cat") == (0, 1, 2, 3, 4)
    assert read.find("soft") == ()  # half of a word


def test_windows():
    tokenizer = words(6)  # four tokens of the prompt each
    read, short = columns("a red cat of lasagne, a blue dog", "a cat", tokenizer=tokenizer)
    assert (read.windows, read.length, short.windows) == (3, 18, 3)
    assert [read.columns(word) for word in ("of", "lasagne", "a", "dog")] == [(4,), (7, 8), (1, 10), (14,)]
    assert read.columns("of lasagne,") == (4, 7, 8, 9)  # across the border
    assert read.frame == (0, 5, 6, 11, 12, 15)
    assert short.frame == (0, 3, 6, 7, 12, 13)
    assert read.padding == {16, 17}
    assert short.padding == {4, 5, 8, 9, 10, 11, 14, 15, 16, 17}
    rows = tokenizer.rows(tokenizer.read([read.text], weighting=False), 3)
    ids = rows.ids.flatten().tolist()
    assert [ids[read.column(place)] for place in range(10)] == [token.id for token in read.tokens]
    assert {place for place, token in enumerate(rows.mask.flatten().tolist()) if not token} == read.padding
    with pytest.raises(ValueError, match="takes 3 windows of tokens; expected 2"):
        read_columns(tokenizer, [read.text], windows=2)
    assert read_columns(tokenizer, [], windows=2) == []


def test_prompts_that_are_no_text():
    with pytest.raises(ValueError, match="is not Unicode"):
        columns("a \udc00 cat")


@pytest.mark.parametrize("tokenizer", [words(), clip()], ids=["words", "clip"])
@pytest.mark.parametrize(
    ("prompt", "word", "expected"),
    [
        ("a cat, and a dog", "cat", []),
        ("a cat and a cat", "cat", [2, 5]),
        ("A Cat", "Cat", [2]),
        ("A Cat", "cat", []),
        ("a  cat", "cat", []),
        ("a cat dog", 1, [2]),
        ("a cat dog", 7, []),
    ],
)
def test_the_original_code(tokenizer, prompt, word, expected):
    (read,) = columns(prompt, tokenizer=tokenizer)
    assert word_columns(read, word) == expected
    assert google.word_indices(tokenizer, prompt, word).tolist() == expected


def test_the_original_code_on_pieces():
    for prompt, word, expected in [
        ("a cat, dog", "cat,", [2, 3]),
        ("a lasagne cat", "lasagne", [2, 3]),
        ("xyz cat", "xyz", [1, 2, 3]),
    ]:
        assert word_columns(columns(prompt)[0], word) == expected
    assert word_columns(columns("a cat, dog", tokenizer=clip())[0], "cat,") == [2, 3]


TEXT = st.text(
    st.sampled_from("aA bcat,.-'é\u0301猫犬カक्ष्า \n\t☃0_😀\u200d\ufe0f") | st.characters(codec="utf-8"), max_size=24
)


@given(TEXT, TEXT, st.sampled_from([words(30), clip(30), t5(30), letters(30)]))
@settings(max_examples=150, deadline=None)
def test_any_text_is_found_or_refused(prompt, word, tokenizer):
    (read,) = read_columns(tokenizer, [prompt])
    taken = {*read.frame, *map(read.column, range(len(read.tokens)))}
    assert taken | read.padding == set(range(read.length))
    assert not taken & read.padding
    for token in read.tokens:
        assert 0 <= token.first <= token.last < max(1, len(read.units))
    for unit in read.units:
        assert read.text[unit.start : unit.end]
    try:
        found = read.columns(word)
    except ValueError:
        return
    assert set(found) <= taken - set(read.frame)
    assert found == tuple(sorted(set(found)))
