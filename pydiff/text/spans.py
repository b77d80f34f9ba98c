"""Where the words of a prompt stand among the tokens that a text network reads: the columns of its attention maps."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from pydiff.text.tokens import PromptTokenizer
from pydiff.text.weighting import shortened

Phrase = str | tuple[str, int]  # words as they stand in a prompt: all their occurrences, or the i-th, counted from 0
AsRead = Callable[[str], str]

# Thai and Lao, Myanmar, Khmer, kana and Han: written without spaces, so that no word's end can be seen
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
)
_ZERO_WIDTH_SPACE = "\u200b"  # of all format characters the one that parts words


class Unit(NamedTuple):
    """What a word is matched by: a run of letters, digits and marks; one letter of a script without spaces; one other
    sign. text: as the tokenizer normalises it; start, end: its characters; glued: it follows the last without space."""

    text: str
    start: int
    end: int
    glued: bool


class Token(NamedTuple):
    """A token that is not part of the frame: its id, and the first and last unit of which it holds characters. A token
    of white space belongs to the unit after it, or the last one."""

    id: int
    first: int
    last: int


@dataclass(frozen=True)
class PromptColumns:
    """A prompt in `windows` windows of its tokenizer: T = windows * window columns, as diffusers counts them.

    text: what the tokenizer read. as_read: what the encoder makes of a prompt before the tokenizer gets it. Made by
    `read_columns`.
    """

    text: str
    tokenizer: PromptTokenizer
    windows: int
    units: tuple[Unit, ...]
    tokens: tuple[Token, ...]
    as_read: AsRead

    @property
    def length(self) -> int:
        """T: the tokens of all windows, frames and padding included."""
        return self.windows * self.tokenizer.window

    def column(self, token: int) -> int:
        """The column of the token-th token, counted without frames."""
        window, place = divmod(token, self.tokenizer.room)
        return window * self.tokenizer.window + len(self.tokenizer.frame[0]) + place

    @cached_property
    def frame(self) -> tuple[int, ...]:
        """The columns of the tokens that stand before and after the prompt's own in every window."""
        (before, after), room = self.tokenizer.frame, self.tokenizer.room
        columns: list[int] = []
        for window in range(self.windows):
            start = window * self.tokenizer.window
            end = start + len(before) + min(max(len(self.tokens) - window * room, 0), room)
            columns += [*range(start, start + len(before)), *range(end, end + len(after))]
        return tuple(columns)

    @cached_property
    def padding(self) -> frozenset[int]:
        """The columns that hold neither the prompt's tokens nor frames."""
        taken = {*self.frame, *map(self.column, range(len(self.tokens)))}
        return frozenset(range(self.length)) - taken

    def occurrences(self, words: str) -> list[tuple[int, ...]]:
        """The columns of every occurrence of a word, or of several that stand in a row; none where it does not occur.

        Words are compared as the tokenizer normalises them; white space between them does not count, and a word is
        whole: "cat" is in "cat," and in "cat's", not in "cats". A token that holds characters of two words belongs to
        both. Raises ValueError for what is no text or empty.
        """
        if not isinstance(words, str):
            raise ValueError(f"{words!r} is no word; expected a string that stands in the prompt")
        wanted = [unit.text for unit in _units(self.as_read(_unicode(words)), self.tokenizer.tokenizer)]
        if not wanted:
            raise ValueError(f"the word {words!r} is empty; name a word of the prompt {shortened(self.text)!r}")
        texts, found, at = [unit.text for unit in self.units], [], 0
        while at + len(wanted) <= len(texts):
            here = texts[at : at + len(wanted)] == wanted
            if here:
                found.append(self._columns(at, at + len(wanted) - 1))
            at += len(wanted) if here else 1
        return [columns for columns in found if columns]

    def find(self, phrase: Phrase) -> tuple[int, ...]:
        """The columns of a phrase, ascending; none where it does not occur. Raises ValueError for what is no phrase."""
        words, number = phrase if isinstance(phrase, tuple) and len(phrase) == 2 else (phrase, None)
        if not isinstance(words, str) or not (number is None or (type(number) is int and number >= 0)):
            raise ValueError(f"{phrase!r} names no word; expected a string, or (word, number of its occurrence from 0)")
        found = self.occurrences(words)
        return tuple(sorted({column for columns in found[_picked(number)] for column in columns}))

    def columns(self, phrase: Phrase) -> tuple[int, ...]:
        """The columns of a phrase, ascending. Raises ValueError, which names it, where it does not occur."""
        columns = self.find(phrase)
        if not columns:
            raise ValueError(f"{named(phrase)} is not in the prompt {shortened(self.text)!r}; name a word of it")
        return columns

    def _columns(self, first: int, last: int) -> tuple[int, ...]:
        """Of the tokens that hold characters of these units."""
        inside = (index for index, token in enumerate(self.tokens) if token.first <= last and token.last >= first)
        return tuple(map(self.column, inside))


def phrases(words: Phrase | Sequence[Phrase]) -> list[Phrase]:
    """One phrase, or several, as a list. Raises ValueError for what names no words."""
    given: Any = words
    if isinstance(given, str) or _is_phrase(given):
        return [given if isinstance(given, str) else tuple(given)]
    found = list(given) if isinstance(given, Sequence) and not isinstance(given, bytes) else []
    if not found or not all(isinstance(one, str) or _is_phrase(one) for one in found):
        raise ValueError(
            f"{words!r} names no words; expected a string, (word, number of its occurrence from 0), or a list"
        )
    return [one if isinstance(one, str) else tuple(one) for one in found]


def _is_phrase(given: Any) -> bool:
    """Whether this is a word with the number of its occurrence."""
    return isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], str) and type(given[1]) is int


def named(phrase: Phrase) -> str:
    """A phrase in an error message."""
    if isinstance(phrase, str):
        return f"the word {shortened(phrase)!r}"
    return f"occurrence {phrase[1]} of the word {shortened(phrase[0])!r}"


def read_columns(
    tokenizer: PromptTokenizer, prompts: Sequence[str], windows: int | None = None, as_read: AsRead = str
) -> list[PromptColumns]:
    """The columns of prompts that are read together. windows: what the encoder reads them in, by default as many as the
    longest needs. as_read: what it does to a prompt first (T5: lower case, stripped); the words that are looked for
    get the same.

    Raises ValueError for a prompt that is no Unicode text or does not fit into the windows.
    """
    read = [_read(tokenizer, as_read(_unicode(prompt)), as_read) for prompt in prompts]
    needed = [max(1, -(-len(one.tokens) // tokenizer.room)) for one in read]
    total = max(needed, default=1) if windows is None else windows
    for one, count in zip(read, needed, strict=True):
        if count > total:
            raise ValueError(f"the prompt {shortened(one.text)!r} takes {count} windows of tokens; expected {total}")
    return [dataclasses.replace(one, windows=total) for one in read]


def _read(tokenizer: PromptTokenizer, text: str, as_read: AsRead) -> PromptColumns:
    encoding = tokenizer.tokenizer.encode(text)
    units = _units(text, tokenizer.tokenizer)
    starts, ends = [unit.start for unit in units], [unit.end for unit in units]
    tokens = []
    for number, special, (start, end) in zip(encoding.ids, encoding.special_tokens_mask, encoding.offsets, strict=True):
        if not special:
            first = max(0, min(bisect_right(ends, start), len(units) - 1))
            tokens.append(Token(number, first, max(first, bisect_left(starts, end) - 1)))
    return PromptColumns(text, tokenizer, 1, tuple(units), tuple(tokens), as_read)


def _units(text: str, tokenizer: Tokenizer) -> list[Unit]:
    """The units of a text; those that the tokenizer drops are left out."""
    bounds: list[list[int]] = []
    previous = " "
    for index, character in enumerate(text):
        kind = _kind(character)
        if kind != " " and (kind == "mark" or kind == previous == "letter") and previous != " ":
            bounds[-1][1] = index + 1
        elif kind != " ":
            bounds.append([index, index + 1])
        previous = previous if kind == "mark" and previous != " " else kind
    normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    units, last = [], -1
    for start, end in bounds:
        normal = normalise(text[start:end])
        if normal:
            units.append(Unit(normal, start, end, start == last))
            last = end
    return units


def _kind(character: str) -> str:
    if character.isspace():
        return " "
    category = unicodedata.category(character)
    if category[0] == "M" or (category == "Cf" and character != _ZERO_WIDTH_SPACE):
        return "mark"
    if _UNSPACED.match(character) or not (character.isalnum() or character == "_"):
        return "sign"
    return "letter"


def _picked(number: int | None) -> slice:
    return slice(None) if number is None else slice(number, number + 1)


def _unicode(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{shortened(text)!r} is not Unicode; remove its lone surrogates")
    return text
