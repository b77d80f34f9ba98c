"""Prompts that weigh their words, and prompts longer than one window."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pydiff.text.encoders import TextEncoder
from pydiff.text.torch_networks import load_text_encoder
from pydiff.text.weighting import parse_weights, plain, weigh
from tests.text import clip_folders as clip

LONG = "a red cat left of the dog " * 12


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("", [("", 1.0)]),
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("a [faint] word", [("a ", 1.0), ("faint", 1 / 1.1), (" word", 1.0)]),
        ("(cat:1.3)", [("cat", 1.3)]),
        ("(cat : .5 ) dog", [("cat ", 0.5), (" dog", 1.0)]),
        ("(cat:-1)(dog:+2)", [("cat", -1.0), ("dog", 2.0)]),
        ("((a)) ((b:2))", [("a", 1.1**2), (" ", 1.0), ("b", 2 * 1.1)]),
        ("(a [b] c)", [("a ", 1.1), ("b", 1.0), (" c", 1.1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("(a:1.0) b", [("a b", 1.0)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        (r"(a\)b:1.5) \\ \[", [("a)b", 1.5), (r" \ [", 1.0)]),
        (r"a\b", [("ab", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("[un (balanced", [("un ", 1 / 1.1), ("balanced", 1.1 / 1.1)]),
        ("stray) and] too:1.5)", [("stray) and] too:1.5)", 1.0)]),
        ("10:30 (at 10:30)", [("10:30 ", 1.0), ("at 10", 30.0)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 1 / 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                *(("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1)),
                *(("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)),
            ],
        ),
    ],
)
def test_parser(prompt: str, pieces: list[tuple[str, float]]) -> None:
    parsed = parse_weights(prompt)
    assert [text for text, _ in parsed] == [text for text, _ in pieces]
    assert [weight for _, weight in parsed] == pytest.approx([weight for _, weight in pieces])


@pytest.mark.parametrize("weight", ["1.2.3", ".", "-.", "9" * 400])
def test_weights_that_are_no_numbers(weight: str) -> None:
    with pytest.raises(ValueError, match="is no finite number") as caught:
        parse_weights(f"a cat (red:{weight})")
    assert len(str(caught.value)) < 200


@given(st.text("ab :.1()[]\\", max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_prompt_is_parsed_or_refused(prompt: str) -> None:
    try:
        pieces = parse_weights(prompt)
    except ValueError:
        return
    assert set("".join(text for text, _ in pieces)) <= set(prompt)
    assert all(one.weight != other.weight for one, other in pairwise(pieces))
    assert plain("".join(f"\\{letter}" if letter in "()[]\\" else letter for letter in prompt)) == prompt


def test_weighing_keeps_the_mean_of_each_row() -> None:
    states = torch.randn(3, 7, 5, dtype=torch.float64) + 0.5
    weights = torch.tensor([[1.0] * 7, [1.0, 1.5, 1.5, 1, 1, 1, 1], [0.0] * 7])
    made = weigh(states, weights)
    assert torch.equal(made[0], states[0])
    assert torch.equal(made[2], torch.zeros_like(states[2]))
    torch.testing.assert_close(made[1].mean(), states[1].mean())
    raw = states[1] * weights[1][:, None]
    torch.testing.assert_close(made[1] / raw, (states[1].mean() / raw.mean()).expand_as(raw))
    assert weigh(states, None) is states


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, tuple[Any, TextEncoder]] = {}
    for family in ("sd", "xl", "unclip"):
        folder: Path = tmp_path_factory.mktemp(family)
        made[family] = clip.make_folder(folder, family), load_text_encoder(folder)
    return made


@pytest.mark.parametrize("family", ["sd", "xl", "unclip"])
def test_weights_of_one_change_nothing(opened: Any, family: str) -> None:
    ours = opened[family][1]
    expected = ours.encode(["a red cat", "(the) dog [", "the dog"])
    made = ours.encode(["a (red:1.0) (cat:1)", r"\(the\) dog \[", "([the]) dog"], weighting=True)
    assert torch.equal(made.states, expected.states)
    assert family == "sd" or torch.equal(made.pooled, expected.pooled)


def test_words_weigh_as_their_tokens(opened: Any) -> None:
    """The tokens are those of the plain prompt; the ends and the padding weigh 1, the pooled state is not weighed."""
    ours = opened["xl"][1]
    bare = ours.encode(["a red cat"])
    made = ours.encode(["a (red:1.5) [cat]"], weighting=True)
    weights = torch.ones(77)
    weights[2], weights[3] = 1.5, 1 / 1.1  # start, a, red, cat
    for part in (slice(0, 32), slice(32, None)):  # each encoder is weighed for itself
        states = bare.states[:, :, part]
        raw = states * weights[:, None]
        torch.testing.assert_close(made.states[:, :, part], raw * (states.mean() / raw.mean()))
    assert torch.equal(made.pooled, bare.pooled)


@pytest.mark.parametrize("text", ["a (ré🐱d:2) cat", "   (É🐱:2)   ", "(un:2)believable", "un(BELIEV:2)able"])
def test_weights_find_their_characters(opened: Any, text: str) -> None:
    tokenizer = opened["sd"][1].tokenizers[0]
    (read,), (bare,) = tokenizer.read([text], weighting=True), tokenizer.read([plain(text)], weighting=False)
    assert read.ids == bare.ids
    assert set(read.weights) == ({2.0} if text.strip().startswith("(É") else {1.0, 2.0})
    heavy = "".join(tokenizer.tokenizer.id_to_token(i) for i, w in zip(read.ids, read.weights, strict=True) if w == 2)
    word = next(piece.text for piece in parse_weights(text) if piece.weight == 2)
    expected = tokenizer.tokenizer.encode(word.strip(), add_special_tokens=False).tokens
    assert heavy.replace("</w>", "") == "".join(expected).replace("</w>", "")


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_a_short_prompt_is_the_same_in_chunks(opened: Any, family: str) -> None:
    ours = opened[family][1]
    for prompts in (clip.PROMPTS, ["a " * 75]):
        made, expected = ours.encode(prompts, chunks=True), ours.encode(prompts)
        assert torch.equal(made.states, expected.states)


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_long_prompts_are_read_window_by_window(opened: Any, family: str) -> None:
    ours = opened[family][1]
    made, other = ours.encode_pair(["a " * 76 + "dog", "cat"], ["b " * 160, ""], chunks=True, clip_skip=1)
    assert made.states.shape == other.states.shape == (2, 3 * 77, ours.width)
    windows = [ours.encode(words, clip_skip=1) for words in (["a " * 75, "cat"], ["a dog", ""], ["", ""])]
    torch.testing.assert_close(made.states, torch.cat([window.states for window in windows], dim=1))
    if family == "xl":
        torch.testing.assert_close(made.pooled, windows[0].pooled)  # that of the first window
    with pytest.raises(ValueError, match="makes 162 tokens, but the text encoder takes 77; shorten it or say chunks"):
        ours.encode_pair(["a"], ["b " * 160])


def test_no_prompt_is_zero_in_every_window(opened: Any) -> None:
    made, other = opened["xl"][1].encode_pair([LONG], [None], chunks=True)
    assert other.states.shape == made.states.shape
    assert not other.states.any()


def test_weights_reach_across_windows(opened: Any) -> None:
    ours = opened["sd"][1]
    weighted = "a " * 74 + "(b b b:1.4) c"
    made = ours.encode([weighted, "d"], chunks=True, weighting=True)
    first, last = (ours.encode([text], weighting=True) for text in ("a " * 74 + "(b:1.4)", "(b b:1.4) c"))
    torch.testing.assert_close(made.states[:1], torch.cat([first.states, last.states], dim=1))
    torch.testing.assert_close(made.states[1:, :77], ours.encode(["d"]).states)
