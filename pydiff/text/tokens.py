"""From prompts to rows of token ids that a text network reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from pydiff.text.weighting import Piece, parse_weights


class Tokens(NamedTuple):
    """The tokens of one prompt, without those that frame it, and their weights."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class Rows(NamedTuple):
    """What a text network reads: ids (R, T), mask (R, T) True where a token is, weights (R, T) or None where all are 1.
    R counts the windows of every prompt, prompt by prompt."""

    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    weights: NDArray[np.float32] | None


@dataclass(frozen=True)
class PromptTokenizer:
    """A tokenizer that neither pads nor truncates. window: how many tokens the network reads at once, pad: the id that
    fills it up."""

    tokenizer: Tokenizer
    window: int
    pad: int

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """Ids that stand before and after the tokens of every prompt."""
        probe = self.tokenizer.encode("a")
        special = probe.special_tokens_mask
        start = special.index(0)
        end = len(special) - special[::-1].index(0)
        return probe.ids[:start], probe.ids[end:]

    @property
    def room(self) -> int:
        """Tokens of a prompt that fit into one window."""
        before, after = self.frame
        return self.window - len(before) - len(after)

    def length(self, tokens: Tokens) -> int:
        """Tokens in one window that would hold them all, frame included."""
        return len(tokens.ids) + self.window - self.room

    def windows(self, tokens: Tokens) -> int:
        """Windows that hold the tokens: at least one."""
        return max(1, -(-len(tokens.ids) // self.room))

    def read(self, prompts: Sequence[str], weighting: bool) -> list[Tokens]:
        """The tokens of each prompt. weighting: read the syntax of `parse_weights`."""
        pieces = [parse_weights(prompt) if weighting else [Piece(prompt, 1.0)] for prompt in prompts]
        encodings = self.tokenizer.encode_batch(["".join(piece.text for piece in each) for each in pieces])
        return [_tokens(encoding, each) for encoding, each in zip(encodings, pieces, strict=True)]

    def rows(self, prompts: Sequence[Tokens], windows: int) -> Rows:
        """Each prompt in this many windows, those it does not reach being empty prompts."""
        before, after = self.frame
        shape = (len(prompts), windows, self.window)
        ids, mask = np.full(shape, self.pad, dtype=np.int64), np.zeros(shape, dtype=bool)
        weights = np.ones(shape, dtype=np.float32)
        for prompt, tokens in enumerate(prompts):
            for window in range(windows):
                part = slice(window * self.room, (window + 1) * self.room)
                row = [*before, *tokens.ids[part], *after]
                ids[prompt, window, : len(row)] = row
                mask[prompt, window, : len(row)] = True
                weights[prompt, window, len(before) : len(row) - len(after)] = tokens.weights[part]
        flat = weights.reshape(-1, self.window)
        return Rows(ids.reshape(flat.shape), mask.reshape(flat.shape), None if (flat == 1).all() else flat)


def _tokens(encoding: Encoding, pieces: Sequence[Piece]) -> Tokens:
    """A token weighs what the last of its characters does."""
    weights = [piece.weight for piece in pieces for _ in piece.text] or [1.0]
    rows = zip(encoding.ids, encoding.special_tokens_mask, encoding.offsets, strict=True)
    kept = [(number, weights[max(end - 1, 0)]) for number, special, (_, end) in rows if not special]
    return Tokens(tuple(number for number, _ in kept), tuple(weight for _, weight in kept))
