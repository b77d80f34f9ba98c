"""What a user says of an edit, in words, as the tables of `pydiff.diffusion.edits`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydiff.diffusion.checks import real, whole
from pydiff.diffusion.edits import EditTable, Share, TokenEdit, check_compat, edit_table, edited_levels
from pydiff.text.alignment import align
from pydiff.text.google import word_columns
from pydiff.text.spans import Phrase, PromptColumns, named, phrases
from pydiff.text.weighting import shortened

DEFAULT = "default_"  # the key of the words that a schedule does not name


def prompt_edit(
    prompts: Sequence[PromptColumns],
    levels: int,
    *,
    mode: str = "auto",
    cross_replace: Share | Mapping[Phrase, Share] = 0.8,
    self_replace: Share = 0.4,
    reweight: Mapping[Phrase, float | Sequence[float]] | None = None,
    self_replace_max_size: int = 16,
    compat: str | None = None,
) -> EditTable:
    """The edits of a batch [source, target_1, ...] over a run of `levels` noise levels.

    mode: how prompts are aligned (`align`). cross_replace: the share of the run in which targets take the source's
    attention to the text, or from where to where; or per word of the targets, "default_" being all others, by default
    (0, 1). self_replace: the same for the attention of pixels to pixels, in layers of at most self_replace_max_size *
    self_replace_max_size pixels. reweight: what the attention to a word of the targets is multiplied by while it is
    edited, or a sweep: one number per target. Of words that overlap the last one counts. compat: "google" for the
    alignment, the words and the rounding of the original code.

    Raises ValueError for a word that no target has, and for numbers outside their ranges.
    """
    check_compat(compat)
    count = whole("levels", levels, 1)
    if len(prompts) < 2:
        raise ValueError(f"an edit has a source and at least one target prompt; {len(prompts)} prompts came")
    source, targets = prompts[0], prompts[1:]
    start, stop = _schedule(targets, cross_replace, count, compat)
    weight = _per_column("reweight", targets, 1.0, _weights(reweight, len(targets)), compat)
    edits = [
        TokenEdit(*align(source, target, mode, compat=compat)[:2], *columns)
        for target, *columns in zip(targets, weight, start, stop, strict=True)
    ]
    self_levels = edited_levels("self_replace", self_replace, count, compat=compat)
    return edit_table(edits, count, self_levels=self_levels, self_max_size=self_replace_max_size)


def word_probe(
    prompts: Sequence[PromptColumns],
    words: Phrase | Sequence[Phrase],
    *,
    name: str = "words",
    compat: str | None = None,
) -> NDArray[np.float64]:
    """(B, T): 1 where a column of a prompt belongs to one of the words, which need not be in all prompts. Its product
    with attention maps is the attention to the words. Raises ValueError, with the option's name, for a word that no
    prompt has."""
    check_compat(compat)
    return _per_column(name, prompts, 0.0, {phrase: [1.0] * len(prompts) for phrase in phrases(words)}, compat)


def _per_column(
    name: str,
    prompts: Sequence[PromptColumns],
    usual: float,
    given: Mapping[Phrase, Sequence[float]],
    compat: str | None,
) -> NDArray[np.float64]:
    """(B, T): the number that each column of each prompt is given, one per prompt for every phrase; else the usual."""
    values = np.full((len(prompts), prompts[0].length), float(usual))
    for phrase, numbers in given.items():
        places = [_find(prompt, phrase, compat) for prompt in prompts]
        if not any(places):
            texts = ", ".join(repr(shortened(prompt.text)) for prompt in prompts)
            raise ValueError(f"{name} names {named(phrase)}, which is not in {texts}; name a word that is")
        for row, (columns, number) in enumerate(zip(places, numbers, strict=True)):
            values[row, list(columns)] = number
    return values


def _find(prompt: PromptColumns, phrase: Phrase, compat: str | None) -> Sequence[int]:
    columns = prompt.find(phrase)
    return word_columns(prompt, prompt.as_read(phrase)) if compat and isinstance(phrase, str) else columns


def _schedule(
    targets: Sequence[PromptColumns], cross_replace: Any, levels: int, compat: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(B, T) each: the levels start <= level < stop at which a column takes the source's attention."""
    said = dict(cross_replace) if isinstance(cross_replace, Mapping) else {DEFAULT: cross_replace}
    usual, count = said.pop(DEFAULT, (0.0, 1.0)), len(targets)

    def inside(name: str, share: Any) -> tuple[int, int]:
        return edited_levels(name, share, levels, compat=compat, extra=1)

    spans = {phrase: inside(f"cross_replace of {phrase!r}", share) for phrase, share in said.items()}
    start, stop = (
        _per_column(
            "cross_replace", targets, other, {word: [span[end]] * count for word, span in spans.items()}, compat
        )
        for end, other in enumerate(inside("cross_replace", usual))
    )
    return start, stop


def _weights(given: Any, targets: int) -> dict[Phrase, list[float]]:
    """One finite number per target for every phrase."""
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"reweight is {given!r}; expected a word's weight, such as {{'fluffy': 2.0}}")
    made = {}
    for phrase, value in (given or {}).items():
        swept = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value] * targets
        numbers = [real(f"reweight of {phrase!r}", number) for number in swept]
        if len(numbers) != targets:
            raise ValueError(f"reweight of {phrase!r} lists {len(numbers)} values for {targets} targets; give as many")
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"reweight of {phrase!r} is {value!r}; expected finite numbers")
        made[phrase] = numbers
    return made
