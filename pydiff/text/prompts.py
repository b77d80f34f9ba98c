"""From prompts to the states of a checkpoint's text encoder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from pydiff.models.t5 import T5Config, T5Encoder
from pydiff.weights import load_network, read_json

TIED = "encoder.embed_tokens.weight"  # the same tensor as shared.weight
MAX_TOKENS = 77  # what diffusers' IFPipeline pads to


class UnknownWord(UserWarning):
    """A prompt holds a word that the model never saw."""


@dataclass(frozen=True)
class PromptEncoder:
    """A tokenizer and a T5 encoder. words: all that the model ever read, or empty when that is not known."""

    tokenizer: Tokenizer
    encoder: T5Encoder
    words: frozenset[str] = frozenset()
    max_tokens: int = MAX_TOKENS

    def check(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that cannot be encoded whole (ValueError), and warn of words the model never saw."""
        for prompt, encoding in zip(prompts, self._tokens(prompts), strict=True):
            if len(encoding.ids) > self.max_tokens:
                raise ValueError(
                    f"the prompt {_shortened(prompt)!r} makes {len(encoding.ids)} tokens, but the text encoder takes "
                    f"{self.max_tokens}; shorten it"
                )
        unknown = sorted({word for prompt in prompts for word in self.unknown_words(prompt)})
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

    def _tokens(self, prompts: Sequence[str]) -> list[Encoding]:
        for prompt in prompts:
            if any("\ud800" <= character <= "\udfff" for character in prompt):
                raise ValueError(f"the prompt {_shortened(prompt)!r} is not Unicode; remove its lone surrogates")
        return self.tokenizer.encode_batch([prompt.lower().strip() for prompt in prompts])

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """States (B, T, D), T = max_tokens: padded as diffusers' IFPipeline pads, padding masked inside the encoder."""
        encodings = self._tokens(prompts)
        ids = torch.zeros(len(prompts), self.max_tokens, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
            mask[row, : len(encoding.ids)] = 1
        device = self.encoder.shared.weight.device
        with torch.inference_mode():
            return self.encoder(ids.to(device), mask.to(device))


def load_prompt_encoder(folder: Path, words: Sequence[str] = ()) -> PromptEncoder:
    """From a pipeline folder's tokenizer/tokenizer.json and text_encoder/. ValueError says what is missing or wrong."""
    path = folder / "tokenizer" / "tokenizer.json"
    read_json(path)  # refuses what is missing or no JSON, with its name
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path} is no tokenizer that the tokenizers library reads: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return PromptEncoder(tokenizer, _load_encoder(folder / "text_encoder"), frozenset(words))


def _load_encoder(folder: Path) -> T5Encoder:
    def build(config: Mapping[str, Any]) -> T5Encoder:
        return T5Encoder(T5Config.from_dict(config))

    return load_network(folder, build, rename=lambda name: None if name == TIED else name)


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= 60 else prompt[:57] + "..."
