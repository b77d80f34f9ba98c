"""What Google's prompt-to-prompt (Hertz et al. 2022; seq_aligner.py and ptp_utils.py) makes of two prompts, defects
included: words are what single spaces separate, and where a swapped word changes its number of tokens, all after the
last such word is misaligned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pydiff.text.spans import PromptColumns
from pydiff.text.weighting import shortened

_WORD_END = "</w>"  # CLIP's mark of a word's last token, which only its own tokenizer class takes off


def word_columns(prompt: PromptColumns, word: str | int) -> list[int]:
    """The columns of a word, or of the word-th: none where no word between single spaces equals it. Tokens are given
    to words by counting the characters that each decodes to."""
    words = prompt.text.split(" ")
    wanted = {word} if isinstance(word, int) else {place for place, other in enumerate(words) if other == word}
    columns, place, seen = [], 0, 0
    for index, token in enumerate(prompt.tokens):
        seen += len(prompt.tokenizer.tokenizer.decode([token.id]).removesuffix(_WORD_END).strip("#"))
        if place in wanted:
            columns.append(prompt.column(index))
        if place < len(words) and seen >= len(words[place]):
            place, seen = place + 1, 0
    return columns


def replacement_mapper(source: PromptColumns, target: PromptColumns) -> NDArray[np.float64]:
    """(T, T): the share of each source column's attention (rows) that a target column takes.

    Raises ValueError where the prompts differ in their number of words, or a word that differs has no tokens.
    """
    words, others = source.text.split(" "), target.text.split(" ")
    if len(words) != len(others):
        raise ValueError(
            f"the prompts have {len(words)} and {len(others)} words between single spaces, {shortened(source.text)!r} "
            f"and {shortened(target.text)!r}; expected as many, or use mode='refine'"
        )
    mapper, here, there = np.zeros((source.length, source.length)), 0, 0
    for place in (place for place, pair in enumerate(zip(words, others, strict=True)) if pair[0] != pair[1]):
        taken, takers = word_columns(source, place), word_columns(target, place)
        if not taken or not takers:
            raise ValueError(
                f"the words {words[place]!r} and {others[place]!r} cannot be swapped: compat='google' finds no tokens "
                "of one of them; write prompts with single spaces, or leave compat out"
            )
        run = np.arange(taken[0] - here)
        mapper[here + run, there + run] = 1
        if len(taken) == len(takers):
            mapper[taken, takers] = 1
        else:
            mapper[taken[0] : taken[-1] + 1, takers] = 1 / len(takers)
        here, there = taken[-1] + 1, there + len(run) + len(takers)
    rest = np.arange(there, there + source.length - max(here, there))
    mapper[rest, rest] = 1  # the defect: both count the target's columns
    return mapper


def refinement_mapper(source: PromptColumns, target: PromptColumns) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(T,) the source column that each target column takes, -1 for none, and (T,) whether it takes one.

    Padding takes the source's column of its own number, whatever stands there.
    """
    (before, after), length = source.tokenizer.frame, source.length
    ids = [[*before, *(token.id for token in prompt.tokens), *after] for prompt in (source, target)]
    mapper = np.arange(length)
    mapper[: len(ids[1])] = global_alignment(*ids)
    return mapper, mapper != -1


def global_alignment(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """For every entry of target the place of the one in source that it is aligned with, -1 for none (Needleman and
    Wunsch 1970): a match scores 1, a mismatch -1, a gap 0. Of equal scores a gap in source is taken first, then one in
    target; so only equal entries are aligned."""
    score = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, one in enumerate(source, 1):
        for j, other in enumerate(target, 1):
            diagonal = score[i - 1][j - 1] + (1 if one == other else -1)
            score[i][j] = max(score[i][j - 1], score[i - 1][j], diagonal)
    aligned, i, j = [-1] * len(target), len(source), len(target)
    while i and j:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            aligned[j] = i
    return aligned
