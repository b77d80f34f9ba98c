"""Prompt editing as a table: for every noise level what the attention of each target borrows from the source's
(Prompt-to-Prompt, Hertz et al. 2022).

Replacing, refining and re-weighting words are all linear in the attention maps A (B, heads, N, T):

    edited A = A[source] @ transfer + A * keep
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.diffusion.checks import real, whole

Share = float | tuple[float, float]  # of a run: its first part, or from where to where; 0 is its begin, 1 its end
SLACK = 1e-6  # in levels: 0.29 of 100 levels ends at level 29, though 0.29 * 100 < 29


class TokenEdit(NamedTuple):
    """How one target borrows. transfer (T, T): the share of source token i's attention that target token j takes;
    has_source (T,): whether token j takes the source's attention instead of its own; weight (T,): what the result is
    multiplied by; start, stop (T,): the levels start <= level < stop at which token j is edited."""

    transfer: NDArray[np.float64]
    has_source: NDArray[np.bool_]
    weight: NDArray[np.float64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]


class EditRow(NamedTuple):
    """The edit at one noise level, of a batch [source, target_1, ..., target_(B-1)]; float64.

    source (B,): the row whose attention is borrowed, its own for a row that is left alone, as the source's always is.
    transfer (B, T, T), keep (B, T): edited A = A[source] @ transfer + A * keep; 0 and 1 where only pixels borrow and in
    rows left alone. self_source (B,): the row whose queries and keys self-attention uses in layers of at most
    `EditTable.self_max_pixels` pixels; None: everybody's own. borrows: whether any row's text attention is edited.
    """

    transfer: NDArray[np.float64]
    keep: NDArray[np.float64]
    source: NDArray[np.int64]
    self_source: NDArray[np.int64] | None
    borrows: bool


class EditTable(NamedTuple):
    """rows[level], from the noisiest level on; equal rows are the same object. self_max_pixels: the largest layers,
    in pixels, whose self-attention is replaced."""

    rows: tuple[EditRow, ...]
    self_max_pixels: int

    def at(self, level: int) -> EditRow:
        """The row of a noise level. Raises ValueError for one that the table does not have."""
        if not 0 <= level < len(self.rows):
            raise ValueError(f"level is {level!r}; the edit table has levels 0 to {len(self.rows) - 1}")
        return self.rows[level]


def edit_table(
    targets: Sequence[TokenEdit], levels: int, *, self_levels: tuple[int, int] = (0, 0), self_max_size: int = 16
) -> EditTable:
    """The table of a run of `levels` noise levels. self_levels: the levels first <= level < last at which targets use
    the source's self-attention, in layers of at most self_max_size * self_max_size pixels.

    Raises ValueError where there is no target, or for numbers that are not whole.
    """
    if not targets:
        raise ValueError("an edit has no target; give at least one target prompt")
    whole("levels", levels, 1)
    pixels = whole("self_replace_max_size", self_max_size, 0) ** 2
    first = np.zeros(len(targets) + 1, np.int64)
    start, stop = (np.stack([getattr(target, name) for target in targets]) for name in ("start", "stop"))
    made: dict[tuple[bytes, bool], EditRow] = {}

    def row(level: int) -> EditRow:
        active = (start <= level) & (level < stop)  # (B - 1, T)
        key = active.tobytes(), self_levels[0] <= level < self_levels[1]
        if key not in made:
            made[key] = _row(*_tables(targets, active), first if key[1] else None)
        return made[key]

    return EditTable(tuple(row(level) for level in range(levels)), pixels)


def of_targets(tables: Sequence[EditTable]) -> EditTable:
    """Target i as tables[i] has it; all of them are of the same prompts and levels, and equal ones the same object."""
    if all(table is tables[0] for table in tables):
        return tables[0]
    made: dict[tuple[int, ...], EditRow] = {}
    rows = []
    for level in range(len(tables[0].rows)):
        given = [table.at(level) for table in tables]
        key = tuple(map(id, given))
        if key not in made:
            made[key] = _of_rows(given)
        rows.append(made[key])
    return EditTable(tuple(rows), tables[0].self_max_pixels)


def _of_rows(given: Sequence[EditRow]) -> EditRow:
    """Row 1 + i, that of target i, from the i-th of these."""
    own = np.arange(len(given) + 1)

    def picked(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.stack([parts[0][0], *(part[index] for index, part in enumerate(parts, 1))])

    transfer, keep = (picked([getattr(row, name) for row in given]) for name in ("transfer", "keep"))
    self_source = picked([own if row.self_source is None else row.self_source for row in given])
    return _row(transfer, keep, None if np.array_equal(self_source, own) else self_source)


def _row(transfer: NDArray[Any], keep: NDArray[Any], self_source: NDArray[Any] | None) -> EditRow:
    """Rows whose text attention is left alone have no source but that of their pixels, where others' text is edited."""
    alone = (transfer == 0).all((1, 2)) & (keep == 1).all(1)
    borrows, source = not bool(alone.all()), np.where(alone, np.arange(len(keep)), 0)
    if borrows and self_source is not None:
        source = np.minimum(source, self_source)
    return EditRow(transfer, keep, source, self_source, borrows)


def _tables(targets: Sequence[TokenEdit], active: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """transfer (B, T, T) and keep (B, T), where tokens `active` (B - 1, T) are edited."""
    length = active.shape[1]
    transfer = np.zeros((len(targets) + 1, length, length))
    keep = np.ones((len(targets) + 1, length))
    for row, (target, edited) in enumerate(zip(targets, active, strict=True), 1):
        weight = target.weight * edited
        transfer[row] = target.transfer * weight  # columns are the target's
        keep[row] = weight * ~target.has_source + ~edited
    return transfer, keep


def edited_levels(name: str, share: Any, levels: int, *, compat: str | None = None, extra: int = 0) -> tuple[int, int]:
    """The levels first <= level < last of a share of a run, which is 0 to 1, or a pair of such.

    Level k of n is edited where start <= k / n < end, up to rounding. With compat="google" the first and last are
    int(share * (n + extra)), as in the original code, whose text schedule has extra = 1 row and whose self-attention
    schedule none. Raises ValueError, by name, for what is no share.
    """
    check_compat(compat)
    pair = share if isinstance(share, tuple | list) else (0.0, share)
    if len(pair) != 2:
        raise ValueError(f"{name} is {share!r}; expected a share of the run, or (start, end)")
    start, end = (real(name, value) for value in pair)
    if not 0 <= start <= end <= 1:
        raise ValueError(f"{name} is {share!r}; expected shares of the run with 0 <= start <= end <= 1")
    if compat is not None:
        return int(start * (levels + extra)), int(end * (levels + extra))
    return math.ceil(start * levels - SLACK), math.ceil(end * levels - SLACK)


def check_compat(compat: str | None) -> str | None:
    """Raise ValueError unless compat is None or "google"."""
    if compat not in (None, "google"):
        raise ValueError(f"compat is {compat!r}; expected 'google' or None")
    return compat
