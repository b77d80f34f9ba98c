"""What a call says in words, or in embeddings: one entry per picture, checked before any work, then encoded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pydiff
from pydiff.tasks.words import Embeddings, Words, encode_all, make_words
from pydiff.text.encoders import TextEncoder
from tests.tasks.junk import junk

STATES = torch.arange(2.0 * 3 * 4).view(2, 3, 4)


@pytest.fixture(scope="module")
def encoder(pipe: pydiff.Pipeline) -> TextEncoder:
    text = pipe.cascade.stages[0].text
    assert text is not None
    return text


@pytest.mark.parametrize(
    ("prompt", "negative", "each", "prompts", "negatives"),
    [
        (["a", "b"], "c", 2, "aabb", "cccc"),
        (("a", "b"), ["c", "d"], 1, "ab", "cd"),
        (["a", "b"], ["c", "d"], 3, "aaabbb", "cccddd"),
        ("a", None, 2, "aa", [None, None]),
        ("a", "", 1, "a", [""]),
        ("", None, 1, [""], [None]),
    ],
)
def test_every_picture_has_its_words(prompt: Any, negative: Any, each: int, prompts: Any, negatives: Any) -> None:
    words = make_words(prompt, negative, each)
    assert words == Words(tuple(prompts), tuple(negatives))
    assert len(words) == len(prompts)


def test_second_prompts() -> None:
    words = make_words(["a", "b"], None, 2, second="c", negative_second=["d", "e"])
    assert (words.second, words.negative_second) == (("c",) * 4, ("d", "d", "e", "e"))
    said = {"prompt": "b", "negative_prompt": None, "prompt_2": "c", "negative_prompt_2": "e"}
    assert words.said(3) == said
    assert make_words("a").said(0) == {"prompt": "a", "negative_prompt": None}


@pytest.mark.parametrize(
    ("prompt", "more", "message"),
    [
        (None, {}, "prompt is None; expected a string or a list of strings"),
        ([], {}, r"prompt is \[\]"),
        (["a", None], {}, "prompt is"),
        ({"a"}, {}, "prompt is"),
        ("a", {"negative": []}, r"negative_prompt is \[\]"),
        ("a", {"negative": ["b", "c"]}, "negative_prompt lists 2 for 1 prompts; give one, or one for each"),
        (["a"] * 3, {"second": ["b", "c"]}, "prompt_2 lists 2 for 3 prompts"),
        ("a", {"second": 5}, "prompt_2 is 5"),
        ("a", {"negative_second": ["b", "c"]}, "negative_prompt_2 lists 2 for 1 prompts"),
        ("a", {"each": 0}, "num_images_per_prompt is 0; expected an integer from 1 to 4096"),
        ("a", {"each": 4097}, "num_images_per_prompt is 4097"),
        ("a", {"each": 10**12}, "num_images_per_prompt is 1000000000000"),
    ],
)
def test_words_that_are_none(prompt: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_words(prompt, **more)


def test_embeddings_stand_for_words() -> None:
    pooled = torch.arange(10.0).view(2, 5)
    words = make_words(None, each=2, embeddings=Embeddings(STATES, -STATES, pooled, -pooled))
    assert len(words) == 4
    assert words.said(1) == {"prompt": None, "negative_prompt": None}
    given_ = words.embeddings
    assert given_ is not None
    assert torch.equal(given_.prompt, STATES[[0, 0, 1, 1]])
    assert given_.negative is not None
    assert torch.equal(given_.negative, -given_.prompt)
    (told,) = encode_all(words, [None], guided=True)  # type: ignore[list-item]  # nothing is encoded
    assert told.null is not None
    assert torch.equal(told.prompt.states, given_.prompt)
    assert torch.equal(told.null.pooled, -pooled[[0, 0, 1, 1]])
    assert encode_all(words, [None], guided=False)[0].null is None  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("embeddings", "more", "message"),
    [
        ((STATES[0],), {}, r"prompt_embeds is torch.float32 \(3, 4\); expected a tensor of floats \(P, T, D\)"),
        ((STATES.long(),), {}, "prompt_embeds is torch.int64"),
        (("a",), {}, "prompt_embeds is str"),
        ((STATES[:, :0],), {}, r"prompt_embeds is torch.float32 \(2, 0, 4\)"),
        ((STATES, STATES[:1]), {}, "negative_prompt_embeds has 1 rows and prompt_embeds 2; give one row per prompt"),
        ((STATES, STATES[:, :2]), {}, r"negative_prompt_embeds has shape \(2, 2, 4\), prompt_embeds \(2, 3, 4\)"),
        ((STATES, None, STATES), {}, r"pooled_prompt_embeds is .* expected a tensor of floats \(P, E\)"),
        ((STATES, None, None, torch.zeros(3, 5)), {}, "negative_pooled_prompt_embeds has 3 rows and prompt_embeds 2"),
        ((STATES,), {"prompt": "a"}, "are given beside prompt_embeds; give one of the two"),
        ((STATES,), {"negative": "a"}, "are given beside prompt_embeds"),
        ((STATES,), {"second": "a"}, "are given beside prompt_embeds"),
        ((STATES,), {"reading": {"clip_skip": 1}}, "prompts, or clip_skip, .* are given beside prompt_embeds"),
        ((STATES,), {"each": 0}, "num_images_per_prompt is 0"),
    ],
)
def test_embeddings_that_do_not_fit(embeddings: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_words(more.pop("prompt", None), **more, embeddings=Embeddings(*embeddings))


def test_embeddings_fit_the_encoder_that_they_stand_for(encoder: TextEncoder) -> None:
    right, wrong = torch.zeros(1, 3, encoder.width), torch.zeros(1, 3, encoder.width + 1)
    Embeddings(right).check(encoder, guided=False, pooled=False)
    Embeddings(right, right).check(encoder, guided=True, pooled=False)
    Embeddings(right, None, torch.zeros(1, 9)).check(encoder, guided=False, pooled=False)  # nothing reads them
    for embeddings, guided, pooled, message in [
        (Embeddings(wrong), False, False, rf"prompt_embeds has shape .* reads embeddings of width {encoder.width}"),
        (Embeddings(right), True, False, "given without negative_prompt_embeds"),
        (Embeddings(right, right), False, True, "given without pooled_prompt_embeds, which this run reads too"),
        (Embeddings(right, right, torch.zeros(1, 9)), False, True, r"pooled_prompt_embeds has shape \(1, 9\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            embeddings.check(encoder, guided, pooled)


def test_one_encoder_is_asked_once(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    encode = TextEncoder.encode
    monkeypatch.setattr(TextEncoder, "encode", lambda self, *given: asked.append(given) or encode(self, *given))
    told = encode_all(make_words("a red ring"), [encoder, encoder], guided=False)
    assert len(asked) == 1
    assert told[0] is told[1]
    assert told[0].null is None
    assert told[0].prompt.states.shape == (1, 77, encoder.width)


def test_an_absent_negative_prompt_is_the_empty_one_here(encoder: TextEncoder) -> None:
    absent, empty = (encode_all(make_words("a", none), [encoder], guided=True)[0].null for none in (None, ""))
    assert absent is not None
    assert empty is not None
    assert torch.equal(absent.states, empty.states)


@given(junk, junk, junk, junk, st.integers(1, 3) | junk)
@settings(max_examples=200, deadline=None)
def test_junk_words_raise_nothing_but_value_errors(
    prompt: Any, negative: Any, second: Any, negative_second: Any, each: Any
) -> None:
    try:
        words = make_words(prompt, negative, each, second=second, negative_second=negative_second)
    except ValueError:
        return
    assert len(words.prompts) == len(words.negatives) == len(words)


@given(junk, junk, junk, junk)
@settings(max_examples=150, deadline=None)
def test_junk_embeddings_raise_nothing_but_value_errors(prompt: Any, negative: Any, pooled: Any, other: Any) -> None:
    try:
        words = make_words(None, embeddings=Embeddings(prompt, negative, pooled, other))
    except ValueError:
        return
    assert len(words) == len(prompt)
