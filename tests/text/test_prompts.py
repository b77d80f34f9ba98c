"""Prompts become the states that diffusers' pipeline feeds its network; what cannot be read whole is refused."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pydiff
from pydiff.pipeline import EMBEDDED
from pydiff.text.prompts import PromptEncoder, UnknownWord
from pydiff.text.torch_networks import load_prompt_encoder

FOLDER = Path(pydiff.__file__).parent / "embedded" / "weights" / EMBEDDED[0]
PROMPTS = ["", "a red circle", "  A RED circle, left of a Blue square!  ", "an unknown wörd 星"]


@pytest.fixture(scope="module")
def text() -> PromptEncoder:
    return load_prompt_encoder(FOLDER, ["a", "red", "circle", "blue", "square", "left", "of"])


def test_states_are_those_of_transformers(text: PromptEncoder) -> None:
    from transformers import AutoTokenizer, T5EncoderModel

    tokenizer, peer = (kind.from_pretrained(FOLDER / part) for kind, part in _parts(AutoTokenizer, T5EncoderModel))
    lowered = [prompt.lower().strip() for prompt in PROMPTS]
    tokens = tokenizer(lowered, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        expected = peer(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    states, pooled, mask = text.encode(PROMPTS)
    assert states.shape == (4, 77, expected.shape[-1])
    assert torch.allclose(states, expected, atol=1e-4)
    assert (text.width, text.pooled_width, pooled, mask) == (states.shape[-1], None, None, None)


def _parts(tokenizer: type, encoder: type) -> list[tuple[type, str]]:
    return [(tokenizer, "tokenizer"), (encoder, "text_encoder")]


def test_a_prompt_does_not_depend_on_its_batch(text: PromptEncoder) -> None:
    together = text.encode(PROMPTS).states
    for row, prompt in zip(together, PROMPTS, strict=True):
        assert torch.allclose(row, text.encode([prompt]).states[0], atol=1e-5)


def test_a_prompt_of_its_own_is_known_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    text = load_prompt_encoder(FOLDER)
    runner, calls = text.runners[0], list[int]()

    def counted(ids: Any, mask: Any, skip: int = 0) -> Any:
        calls.append(len(ids))
        return runner(ids, mask, skip)

    monkeypatch.setattr(text, "runners", (counted,))
    first = [text.encode_pair([prompt], [""]) for prompt in ("a red circle", "a blue ring", "a red circle")]
    assert calls == [1, 1, 1]  # the negative prompt once
    for made, again in zip(first[0], first[2], strict=True):
        assert torch.equal(made.states, again.states)
    assert torch.equal(first[1][0].states, load_prompt_encoder(FOLDER).encode(["a blue ring"]).states)
    weighed = text.encode(["a (red:1.3) circle"], weighting=True).states
    assert not torch.equal(weighed, text.encode(["a red circle"], weighting=True).states)
    assert len(text.encode(["a red circle"], chunks=True).states) == 1
    monkeypatch.setattr(text, "runners", (runner,))
    text.to(dtype=torch.bfloat16)
    assert text.encode(["a red circle"]).states.dtype == torch.bfloat16


def test_the_longest_prompt(text: PromptEncoder) -> None:
    text.check(["red " * 76])  # and the end token
    assert text.encode(["red " * 76]).states.shape[1] == 77
    with pytest.raises(ValueError, match="makes 78 tokens, but the text encoder takes 77; shorten it") as caught:
        text.check(["a red circle", "red " * 77])
    assert len(str(caught.value)) < 160


def test_what_is_checked_is_what_is_encoded(text: PromptEncoder) -> None:
    spaces = " " * 500 + "RED" + " " * 500
    text.check([spaces])
    assert torch.equal(text.encode([spaces]).states, text.encode(["red"]).states)


def test_unknown_words_are_named_once_in_order(text: PromptEncoder) -> None:
    with pytest.warns(UnknownWord, match="never saw 'dog', 'wörd', '星'"):
        text.check(["wörd 星, red-blue", "a DOG, a dog"])
    assert text.unknown_words("Red, BLUE; square_circle!") == []


def test_a_model_whose_words_are_not_known_warns_of_none(text: PromptEncoder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PromptEncoder(text.tokenizers[0], text.runners[0]).check(["a dog"])


def test_weights_are_no_words(text: PromptEncoder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text.check(["a (red:1.3) [circle]", None], weighting=True)


def test_weights_and_windows(text: PromptEncoder) -> None:
    bare = text.encode(["a red circle", "blue"]).states
    made = text.encode([" a (red:1.0) circle", "([blue])"], weighting=True, chunks=True).states
    assert torch.equal(made, bare)
    weights = torch.ones(77)
    weights[1] = 2
    weighted = text.encode(["a (red:2) circle"], weighting=True).states[0]
    raw = bare[0] * weights[:, None]
    torch.testing.assert_close(weighted, raw * (bare[0].mean() / raw.mean()))
    long, null = text.encode_pair(["red " * 76 + "blue"], [None], chunks=True)
    assert torch.allclose(long.states[:, 77:], text.encode(["blue"]).states, atol=1e-5)
    assert torch.allclose(null.states, text.encode([""]).states.repeat(1, 2, 1), atol=1e-5)


def test_options_that_do_not_fit(text: PromptEncoder) -> None:
    with pytest.raises(ValueError, match="clip_skip is 1, but this model's text encoder has no such option"):
        text.check(["a"], clip_skip=1)
    with pytest.raises(ValueError, match="clean_caption drops the brackets that weighting reads"):
        text.check(["a"], clean_caption=True, weighting=True)


def test_importing_and_running_it_imports_no_transformers() -> None:
    code = (
        "import sys; from pathlib import Path; from pydiff.text.torch_networks import load_prompt_encoder as load; "
        f"load(Path({str(FOLDER)!r})).encode(['a red circle']); print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@given(st.text(st.characters(exclude_categories=()), max_size=120))
@settings(max_examples=100, deadline=None)
def test_any_text_is_encoded_or_refused(prompt: str) -> None:
    encoder = load_once()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            encoder.check([prompt])
        except ValueError:
            return
    assert encoder.encode([prompt]).states.isfinite().all()


_loaded: list[PromptEncoder] = []


def load_once() -> PromptEncoder:
    if not _loaded:
        _loaded.append(load_prompt_encoder(FOLDER, ["red"]))
    return _loaded[0]


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a file"):
        load_prompt_encoder(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer"):
        load_prompt_encoder(tmp_path)
