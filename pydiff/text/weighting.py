"""Weights of words in prompts, in the syntax of AUTOMATIC1111's Stable Diffusion web UI (wiki page "Features",
"Attention/emphasis"): `(word)`, `(word:1.3)`, `[word]`, nested at will.
"""

from __future__ import annotations

import math
import re
from itertools import groupby
from typing import Any, NamedTuple

from numpy.typing import NDArray

from pydiff.arrays import Array, cast, like, namespace, wide

EMPHASIS = 1.1  # of a pair of round brackets; a pair of square ones divides by it

_MARK = re.compile(
    r"""
    \\(?P<escaped>[()\[\]\\]?)                    # a bracket that means itself; a backslash before others is dropped
    | :\s*(?P<weight>[+-]?[.\d]+)\s*\)            # the end of a pair that says its weight
    | (?P<bracket>[()\[\]])
    | (?P<text>[^\\()\[\]:]+|:)
    """,
    re.VERBOSE,
)


class Piece(NamedTuple):
    """A run of a prompt's characters and their weight."""

    text: str
    weight: float


def parse_weights(prompt: str) -> list[Piece]:
    r"""The pieces of a prompt, without marks; neighbours differ in weight, and an empty prompt is one empty piece.

    `(a)` weighs a 1.1, `[a]` 1 / 1.1, `(a:1.3)` 1.3; nested weights multiply. `\(`, `\)`, `\[`, `\]` and `\\` mean the
    character. As in the web UI, a bracket that is never closed reaches to the end, and a closing one without its
    opening one means itself. Raises ValueError for a weight that is no finite number, as in `(a:1.2.3)`.
    """
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where the open pairs began

    def multiply(start: int, factor: float) -> None:
        weights[start:] = [weight * factor for weight in weights[start:]]

    for mark in _MARK.finditer(prompt):
        bracket = mark["bracket"]
        if bracket in opened:
            opened[bracket].append(len(texts))
        elif mark["weight"] is not None and opened["("]:
            multiply(opened["("].pop(), _number(mark["weight"], prompt))
        elif bracket == ")" and opened["("]:
            multiply(opened["("].pop(), EMPHASIS)
        elif bracket == "]" and opened["["]:
            multiply(opened["["].pop(), 1 / EMPHASIS)
        else:
            texts.append(mark[0] if mark["escaped"] is None else mark["escaped"])
            weights.append(1.0)
    for start in opened["("]:
        multiply(start, EMPHASIS)
    for start in opened["["]:
        multiply(start, 1 / EMPHASIS)
    runs = groupby(zip(texts, weights, strict=True), key=lambda piece: piece[1])
    return [Piece("".join(text for text, _ in run), weight) for weight, run in runs] or [Piece("", 1.0)]


def _number(said: str, prompt: str) -> float:
    try:
        weight = float(said)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(
            f"the weight {said[:20]!r} in the prompt {shortened(prompt)!r} is no finite number; expected 1.3"
        )
    return weight


def plain(prompt: str) -> str:
    """A prompt without its weights."""
    return "".join(piece.text for piece in parse_weights(prompt))


def shortened(prompt: str) -> str:
    """What an error message shows of a prompt."""
    return prompt if len(prompt) <= 60 else prompt[:57] + "..."


def weigh(states: Array, weights: NDArray[Any] | None) -> Array:
    """States (R, T, D) times weights (R, T), each row scaled back to the mean it had, as the web UI's "original"
    emphasis does (modules/sd_emphasis.py; there over a whole batch, here per row, so that a picture does not depend on
    its batch)."""
    if weights is None:
        return states
    xp, given = namespace(states), wide(states)
    weighted = given * like(weights, given)[..., None]
    before, after = (xp.mean(x, axis=(1, 2), keepdims=True) for x in (given, weighted))
    one = xp.ones_like(after)
    scale = xp.where(after == 0, one, before / xp.where(after == 0, one, after))
    return cast(weighted * scale, states.dtype)
