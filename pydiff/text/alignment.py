"""Two prompts aligned: which tokens of the second take the attention of which tokens of the first (Prompt-to-Prompt,
Hertz et al. 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterator, Sequence
from itertools import chain, groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.diffusion.edits import check_compat
from pydiff.text.google import refinement_mapper, replacement_mapper
from pydiff.text.spans import PromptColumns
from pydiff.text.weighting import shortened

MODES = ("auto", "replace", "refine")


class Alignment(NamedTuple):
    """transfer (T, T): the share of source column i's attention that target column j takes; has_source (T,): whether a
    target column takes the source's instead of its own. swapped, added, removed: the words, as the prompts write them.
    """

    transfer: NDArray[np.float64]
    has_source: NDArray[np.bool_]
    swapped: tuple[tuple[str, str], ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class Atom(NamedTuple):
    """The least run of tokens that holds no other word's characters. text: as normalised; tokens: places of its tokens;
    ids: what they are; start, end: its characters; glued: it follows the last without space."""

    text: str
    tokens: tuple[int, ...]
    ids: tuple[int, ...]
    start: int
    end: int
    glued: bool


Word = tuple[Atom, ...]  # what stands between white space


class Link(NamedTuple):
    """Atoms of the source and those of the target that take their attention; same: one each, of equal text."""

    source: Word
    target: Word
    same: bool


def align(source: PromptColumns, target: PromptColumns, mode: str = "auto", *, compat: str | None = None) -> Alignment:
    """Align two prompts that were read together.

    Words that both prompts have: the target's tokens take the attention of the source's. mode: "auto" finds by itself
    which words were swapped (runs of words in the place of as many others), added or removed; "replace" pairs the i-th
    word with the i-th, of which there must be as many; "refine" swaps nothing. A swapped word takes the attention of
    the word in whose place it stands: token by token where they have as many, else each of n tokens takes 1/n of all.
    Added words and, in "refine", changed ones keep their own. Frames take that of the same window's frame. Padding
    takes that of the padding in its own column, or keeps its own where the source has a token there.

    compat: "google" for the original code's mappers (`pydiff.text.google`), where "auto" is "replace" for prompts of as
    many words and "refine" for others.

    Raises ValueError for prompts that were not read together, another mode, and prompts that the mode does not fit.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    if source.tokenizer != target.tokenizer or source.windows != target.windows:
        raise ValueError("the prompts come from different tokenizers or windows; read them together")
    if check_compat(compat) is not None:
        return _google(source, target, mode)
    atoms, others = _atoms(source), _atoms(target)
    if mode == "refine":
        links = list(_within(atoms, others, swaps=False))
    else:
        words, replacing = _words(atoms), _words(others)
        if mode == "replace" and len(words) != len(replacing):
            raise ValueError(_unpaired(source, target, len(words), len(replacing)))
        links = list(_paired(words, replacing) if mode == "replace" else _found(words, replacing))
    transfer, has_source = _tables(source, target, links)
    linked = {atom for link in links for atom in link.source}, {atom for link in links for atom in link.target}
    swapped = [(_quote(source, link.source), _quote(target, link.target)) for link in links if not link.same]
    added, removed = _unlinked(target, others, linked[1]), _unlinked(source, atoms, linked[0])
    return Alignment(transfer, has_source, tuple(swapped), added, removed)


def _unpaired(source: PromptColumns, target: PromptColumns, count: int, other: int) -> str:
    changes = align(source, target)
    listed = ", ".join(repr(shortened(words)) for words in (*changes.removed, *changes.added))
    return (
        f"mode='replace' swaps words one by one, but the source prompt has {count} words and the target {other}; "
        f"{listed} cannot be paired; use mode='auto' or 'refine'"
    )


def _google(source: PromptColumns, target: PromptColumns, mode: str) -> Alignment:
    if source.windows != 1:
        raise ValueError(f"compat='google' reads one window of tokens, but the prompts take {source.windows}")
    columns = np.arange(source.length)
    if mode == "replace" or (mode == "auto" and source.text.count(" ") == target.text.count(" ")):
        return Alignment(replacement_mapper(source, target), np.ones_like(columns, dtype=bool))
    mapper, has_source = refinement_mapper(source, target)
    transfer = np.zeros((source.length, source.length))
    transfer[mapper[has_source], columns[has_source]] = 1
    return Alignment(transfer, has_source)


def _atoms(prompt: PromptColumns) -> Word:
    runs: list[list[int]] = []  # first token, last token, first unit, last unit
    for index, token in enumerate(prompt.tokens):
        if runs and token.first <= runs[-1][3]:
            runs[-1][1], runs[-1][3] = index, max(runs[-1][3], token.last)
        else:
            runs.append([index, index, token.first, token.last])
    return tuple(_atom(prompt, *run) for run in runs)


def _atom(prompt: PromptColumns, first: int, last: int, left: int, right: int) -> Atom:
    units, ids = prompt.units[left : right + 1], tuple(token.id for token in prompt.tokens[first : last + 1])
    if not units:  # white space that makes tokens
        return Atom("", tuple(range(first, last + 1)), ids, 0, 0, False)
    text = "".join(unit.text for unit in units)
    return Atom(text, tuple(range(first, last + 1)), ids, units[0].start, units[-1].end, units[0].glued)


def _words(atoms: Word) -> list[Word]:
    starts = [index for index, atom in enumerate(atoms) if index == 0 or not atom.glued]
    return [atoms[start:end] for start, end in pairwise([*starts, len(atoms)])]


def _found(words: Sequence[Word], others: Sequence[Word]) -> Iterator[Link]:
    """Words that differ are swapped one by one where as many stand in a place; of others equal parts are linked."""
    for i, j, k, m in _runs([_text(word) for word in words], [_text(word) for word in others]):
        if j - i == m - k:
            yield from _paired(words[i:j], others[k:m])
        else:
            yield from _within(tuple(chain(*words[i:j])), tuple(chain(*others[k:m])), swaps=False)


def _paired(words: Sequence[Word], others: Sequence[Word]) -> Iterator[Link]:
    for word, other in zip(words, others, strict=True):
        yield from _within(word, other, swaps=True)


def _within(atoms: Word, others: Word, swaps: bool) -> Iterator[Link]:
    """Links of equal atoms and, where there are swaps, of those that stand between them."""
    texts = [atom.text for atom in atoms], [atom.text for atom in others]
    for i, j, k, m in _runs(*texts):
        if texts[0][i:j] == texts[1][k:m]:
            yield from (Link((atom,), (other,), True) for atom, other in zip(atoms[i:j], others[k:m], strict=True))
        elif swaps and i < j and k < m:
            yield Link(atoms[i:j], others[k:m], False)


def _runs(entries: Sequence[Hashable], others: Sequence[Hashable]) -> Iterator[tuple[int, int, int, int]]:
    """Both sequences cut into pairs of parts, i to j of the one and k to m of the other: an entry that both have, or
    all that stands between two such."""
    i = k = 0
    for left, right in _common(entries, others):
        if i < left or k < right:
            yield i, left, k, right
        yield left, left + 1, right, right + 1
        i, k = left + 1, right + 1
    if i < len(entries) or k < len(others):
        yield i, len(entries), k, len(others)


def _common(entries: Sequence[Hashable], others: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The places of equal entries, ascending in both: as many as there can be, in as few runs as can be, as early as
    can be (Needleman and Wunsch 1970, with the affine gaps of Gotoh 1982)."""
    match = len(entries) + len(others) + 1  # counts for more than all runs together
    best = [[0] * (len(others) + 1) for _ in range(len(entries) + 1)]
    ended = [[-match] * (len(others) + 1) for _ in range(len(entries) + 1)]  # of those that end with a pair here
    for i, entry in enumerate(entries, 1):
        for j, other in enumerate(others, 1):
            if entry == other:
                ended[i][j] = match + max(ended[i - 1][j - 1], best[i - 1][j - 1] - 1)
            best[i][j] = max(best[i - 1][j], best[i][j - 1], ended[i][j])
    pairs, i, j, inside = [], len(entries), len(others), False
    while i and j:
        if not inside and best[i][j] == best[i][j - 1]:
            j -= 1
        elif not inside and best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
            inside = ended[i][j] >= best[i][j] - 1
    return pairs[::-1]


def _text(word: Word) -> tuple[str, ...]:
    return tuple(atom.text for atom in word)


def _tables(
    source: PromptColumns, target: PromptColumns, links: Sequence[Link]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    transfer = np.zeros((source.length, source.length))
    for link in links:
        for taken, takers in _token_runs(link):
            rows, columns = [source.column(token) for token in taken], [target.column(token) for token in takers]
            if len(rows) == len(columns):
                transfer[rows, columns] = 1
            else:
                transfer[np.ix_(rows, columns)] = 1 / len(columns)
    transfer[list(source.frame), list(target.frame)] = 1
    padding = sorted(source.padding & target.padding)
    transfer[padding, padding] = 1
    return transfer, (transfer != 0).any(axis=0)


def _token_runs(link: Link) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The tokens of a link that belong together: all, or of equal texts in unequal tokens the equal ones."""
    taken, takers = (tuple(chain(*(atom.tokens for atom in side))) for side in (link.source, link.target))
    ids, others = link.source[0].ids, link.target[0].ids
    if not link.same or ids == others:
        yield taken, takers
        return
    for i, j, k, m in _runs(ids, others):
        if ids[i:j] == others[k:m]:
            yield taken[i:j], takers[k:m]


def _unlinked(prompt: PromptColumns, atoms: Word, linked: Container[Atom]) -> tuple[str, ...]:
    """Every run of atoms that no link holds."""
    runs = groupby(atoms, key=lambda atom: atom in linked)
    return tuple(_quote(prompt, tuple(run)) for inside, run in runs if not inside)


def _quote(prompt: PromptColumns, atoms: Word) -> str:
    return prompt.text[atoms[0].start : atoms[-1].end]
