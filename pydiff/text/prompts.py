"""From prompts to the states of a T5 encoder, as DeepFloyd IF and the embedded cascade read them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pydiff._optional import optional
from pydiff.models.rules import BOOL, Rule
from pydiff.models.t5_config import T5Config
from pydiff.text.caption import clean_caption
from pydiff.text.encoders import CHUNKS, WEIGHTING, Encoded, Prompts, TextEncoder, TextOptions
from pydiff.text.runner import Runner, TextNetworks
from pydiff.text.tokenizer_files import WHOLE, fitted, read_whole, read_with_transformers
from pydiff.text.tokens import PromptTokenizer, Rows
from pydiff.text.weighting import plain, weigh
from pydiff.weights.files import inside, read_config

MAX_TOKENS = 77  # what diffusers' IFPipeline pads to


class UnknownWord(UserWarning):
    """A prompt holds a word that the model never saw."""


class PromptEncoder(TextEncoder):
    """A tokenizer and a T5 encoder; padding is masked inside it. words: all that the model ever read, or empty when
    that is not known. Prompts are stripped and in lower case, as diffusers' IFPipeline has them."""

    def __init__(self, tokenizer: PromptTokenizer, runner: Runner, words: Sequence[str] = ()) -> None:
        self.tokenizers, self.runners, self.words = (tokenizer,), (runner,), frozenset(words)

    @property
    def rules(self) -> Mapping[str, Rule]:
        return {**WEIGHTING, **CHUNKS, "clean_caption": BOOL}

    def check(self, prompts: Prompts, second: Prompts | None = None, **options: Any) -> None:
        """Refuse prompts that cannot be encoded whole (ValueError), and warn of words the model never saw."""
        super().check(prompts, second, **options)
        weighted = self._chosen(options).weighting
        texts = [plain(prompt or "") if weighted else prompt or "" for prompt in prompts]
        unknown = sorted({word for text in texts for word in self.unknown_words(text)})
        if unknown:
            quoted = ", ".join(repr(word) for word in unknown)
            message = (
                f"the model never saw {quoted}; the shipped model knows only simple shapes: one to four circles, "
                "squares, triangles, stars, rings or crosses, their colours, sizes and places, and a background"
            )
            warnings.warn(message, UnknownWord, stacklevel=2)

    def unknown_words(self, prompt: str) -> list[str]:
        if not self.words:
            return []
        return [word for word in re.findall(r"[^\W_]+", prompt.lower()) if word not in self.words]

    def _chosen(self, options: Mapping[str, Any]) -> TextOptions:
        chosen = super()._chosen(options)
        if chosen.weighting and chosen.clean_caption:
            raise ValueError("clean_caption drops the brackets that weighting reads; give one of the two")
        return chosen

    def _text(self, prompt: str, options: TextOptions) -> str:
        return clean_caption(prompt) if options.clean_caption else prompt.lower().strip()

    def _run(self, rows: Sequence[Rows], options: TextOptions) -> Encoded:
        ids, mask, weights = rows[0]
        return Encoded(weigh(self.runners[0](ids, mask).states, weights))


def open_prompt_encoder(folder: Path, networks: TextNetworks, words: Sequence[str] = ()) -> PromptEncoder:
    """From a pipeline folder's tokenizer/ and text_encoder/. ValueError says what is missing or wrong.

    A tokenizer.json is read without transformers; a sentencepiece model needs it, sentencepiece and protobuf.
    """
    files, weights = inside(folder, "tokenizer"), inside(folder, "text_encoder")
    tokenizer, pad = _read_tokenizer(files)
    config = read_config(weights, T5Config.from_dict)
    reader = fitted(files, tokenizer, MAX_TOKENS, pad, config.vocab_size)
    return PromptEncoder(reader, networks.t5(weights), words)


def _read_tokenizer(folder: Path) -> tuple[Tokenizer, int | None]:
    model = folder / "spiece.model"
    if (folder / WHOLE).exists() or not model.exists():
        return read_whole(folder)
    optional("sentencepiece", "sentencepiece", str(model))
    optional("google.protobuf", "protobuf", str(model))
    read = read_with_transformers(folder, "T5Tokenizer", (model.name,))
    return read.backend_tokenizer, read.pad_token_id
