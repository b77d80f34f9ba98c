"""What all text encoders share: prompts are checked, read in windows, run through the networks and joined.

The networks themselves are `Runner`s (`pydiff.text.runner`): token ids and masks as NumPy arrays in, states and pooled
states as arrays of the engine's kind out. `pydiff.text.torch_networks` runs torch modules; another engine brings its
own `TextNetworks`, which makes a runner of a component's folder, and `pydiff.text.loading.open_text_encoder` makes the
encoder of a pipeline's folder out of them. Tokens, windows, weights of words and options are the same for all.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Self

import numpy as np

from pydiff.arrays import Array, inference, namespace, placed
from pydiff.models.rules import BOOL, Rule
from pydiff.text.runner import Runner
from pydiff.text.tokens import PromptTokenizer, Rows, Tokens
from pydiff.text.weighting import shortened

MOST_KNOWN = 16  # prompts whose states are kept
Prompts = Sequence[str | None]  # None: no prompt, which is not always the empty one


class Encoded(NamedTuple):
    """states (B, T, D); pooled (B, P) where the network makes it; mask (B, T) True where a token is, for networks that
    are told where padding begins. All of the engine's kind."""

    states: Array
    pooled: Array | None = None
    mask: Array | None = None


@dataclass(frozen=True)
class TextOptions:
    """How prompts are read. weighting: `(word:1.3)` and the like weigh words. chunks: prompts longer than a window are
    read in several. clip_skip: layers of CLIP left out at the end. clean_caption: prompts are cleaned as captions."""

    weighting: bool = False
    chunks: bool = False
    clip_skip: int | None = None
    clean_caption: bool = False


WEIGHTING: dict[str, Rule] = {"weighting": BOOL}
CHUNKS: dict[str, Rule] = {"chunks": BOOL}


class Read(NamedTuple):
    """A prompt's tokens for each network; absent: whether there was no prompt at all."""

    tokens: tuple[Tokens, ...]
    absent: bool


class TextEncoder(ABC):
    """Prompts to states.

    All methods take one prompt per row; `second` is what a second network reads where that is something else, None
    meaning the same. Options are the names in `rules`, each a field of `TextOptions`. ValueError is raised for an
    option that the encoder does not have, a value that does not fit, a prompt that is not Unicode, and one that is too
    long to encode without loss. Of calls for one prompt, which negative prompts mostly are, the last ones are known.
    """

    tokenizers: tuple[PromptTokenizer, ...]  # one per network
    runners: tuple[Runner, ...]
    absent_is_zero: bool = False  # whether no prompt is states of zeros, rather than those of the empty prompt

    @property
    def width(self) -> int:
        """D of the states."""
        return sum(runner.width for runner in self.runners)

    @property
    def pooled_width(self) -> int | None:
        """P of the pooled states, None where there are none."""
        return None

    @property
    @abstractmethod
    def rules(self) -> Mapping[str, Rule]:
        """The options, and what each may hold."""

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """Move and cast the networks, in place."""
        for runner in self.runners:
            runner.to(device, dtype)
        self.__dict__.pop("_known", None)
        return self

    @abstractmethod
    def _run(self, rows: Sequence[Rows], options: TextOptions) -> Encoded:
        """Encode one Rows per network; each row stands for itself."""

    def _text(self, prompt: str, options: TextOptions) -> str:
        """A prompt as the tokenizers get it."""
        return prompt

    def as_read(self, prompt: str, **options: Any) -> str:
        """What the encoder makes of a prompt before its tokenizer gets it."""
        return self._text(prompt, self._chosen(options))

    def check(self, prompts: Prompts, second: Prompts | None = None, **options: Any) -> None:
        """Raise ValueError for what `encode` would refuse; nothing is run."""
        self._read(prompts, second, self._chosen(options))

    def encode(self, prompts: Prompts, second: Prompts | None = None, **options: Any) -> Encoded:
        """Encode prompts, one per row; equal ones are run once."""
        chosen = self._chosen(options)
        read = self._read(prompts, second, chosen)
        return self._encode(read, self._windows(read), chosen)

    def encode_pair(
        self,
        prompts: Prompts,
        negatives: Prompts,
        second: Prompts | None = None,
        negative_second: Prompts | None = None,
        **options: Any,
    ) -> tuple[Encoded, Encoded]:
        """Prompts and negative prompts, with states of one length. As in diffusers, clip_skip is not for the latter."""
        chosen = self._chosen(options)
        read, other = self._read(prompts, second, chosen), self._read(negatives, negative_second, chosen)
        windows = self._windows([*read, *other])
        plain = dataclasses.replace(chosen, clip_skip=None)
        return self._encode(read, windows, chosen), self._encode(other, windows, plain)

    def _chosen(self, options: Mapping[str, Any]) -> TextOptions:
        for name, value in options.items():
            if name not in self.rules:
                known = ", ".join(self.rules)
                raise ValueError(
                    f"{name} is {value!r}, but this model's text encoder has no such option; it has {known}"
                )
            accepts, expected = self.rules[name]
            if not accepts(value):
                raise ValueError(f"{name} is {value!r}; expected {expected}")
        return TextOptions(**options)

    def _read(self, prompts: Prompts, second: Prompts | None, options: TextOptions) -> list[Read]:
        if second is not None and len(self.tokenizers) == 1:
            raise ValueError("a second prompt is given, but this model has one text encoder; leave prompt_2 out")
        others = [None] * len(prompts) if second is None else second
        pairs = list(zip(prompts, others, strict=True))
        last = [first if other is None else other for first, other in pairs]
        columns = [[text or "" for text in texts] for texts in (prompts, last)]
        networks = zip(self.tokenizers, columns, strict=False)  # one of them reads the first column alone
        read = zip(*(self._tokens(tokenizer, texts, options) for tokenizer, texts in networks), strict=True)
        return [Read(tokens, text is None) for tokens, text in zip(read, last, strict=True)]

    def _tokens(self, tokenizer: PromptTokenizer, prompts: Sequence[str], options: TextOptions) -> list[Tokens]:
        for prompt in prompts:
            if any("\ud800" <= character <= "\udfff" for character in prompt):
                raise ValueError(f"the prompt {shortened(prompt)!r} is not Unicode; remove its lone surrogates")
        read = tokenizer.read([self._text(prompt, options) for prompt in prompts], options.weighting)
        hint = " or say chunks=True" if "chunks" in self.rules else ""
        for prompt, tokens in zip(prompts, read, strict=True):
            if tokenizer.windows(tokens) > 1 and not options.chunks:
                raise ValueError(
                    f"the prompt {shortened(prompt)!r} makes {tokenizer.length(tokens)} tokens, but the text encoder "
                    f"takes {tokenizer.window}; shorten it{hint}"
                )
        return read

    def _windows(self, read: Sequence[Read]) -> int:
        return max(
            (
                tokenizer.windows(tokens)
                for one in read
                for tokenizer, tokens in zip(self.tokenizers, one.tokens, strict=True)
            ),
            default=1,
        )

    def _encode(self, read: Sequence[Read], windows: int, options: TextOptions) -> Encoded:
        place = {tokens: index for index, tokens in enumerate(dict.fromkeys(one.tokens for one in read))}
        with inference():
            made = (self._known if len(place) == 1 else self._made)(tuple(place), windows, options)
            index = placed(np.array([place[one.tokens] for one in read], dtype=np.int64), made.states)
            zero = placed(np.array([one.absent and self.absent_is_zero for one in read], dtype=bool), made.states)
            states = _cleared(_joined(made.states, windows)[index], zero)
            pooled = made.pooled
            if pooled is not None:  # that of the first window
                pooled = _cleared(pooled[::windows][index], zero)
            mask = None if made.mask is None else _joined(made.mask, windows)[index]
        return Encoded(states, pooled, mask)

    @cached_property
    def _known(self) -> Callable[[tuple[tuple[Tokens, ...], ...], int, TextOptions], Encoded]:
        return lru_cache(MOST_KNOWN)(self._made)

    def _made(self, prompts: tuple[tuple[Tokens, ...], ...], windows: int, options: TextOptions) -> Encoded:
        """(R, T, D), (R, P), (R, T); R = prompts * windows"""
        columns = zip(*prompts, strict=True)
        rows = [tokenizer.rows(column, windows) for tokenizer, column in zip(self.tokenizers, columns, strict=True)]
        return self._run(rows, options)


def _joined(rows: Array, windows: int) -> Array:
    """(B * windows, T, ...) -> (B, windows * T, ...)"""
    return rows.reshape((-1, windows * rows.shape[1], *rows.shape[2:]))


def _cleared(x: Array, zero: Array) -> Array:
    """x (B, ...) with zeros in the rows that zero (B,) names."""
    xp = namespace(x)
    return xp.where(zero.reshape((-1, *(1,) * (x.ndim - 1))), xp.zeros_like(x), x)
