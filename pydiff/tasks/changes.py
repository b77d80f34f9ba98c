"""Changes to the attention of a stage that any task may take beside its own edits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pydiff.arrays import Array, placed
from pydiff.cascade import Start
from pydiff.nn.edit import AttentionEdit

Change = Callable[[Start], Start]  # made of a checked call, applied to its first stage when that begins


def with_edit(start: Start, change: Callable[[AttentionEdit, int, tuple[int, ...]], AttentionEdit]) -> Start:
    """The start with every AttentionEdit changed: change(edit, noise level, branches that are evaluated), where the
    edit, of all rows of those branches, is the task's own, or one that leaves all as it is."""
    own, plain = start.edit, no_edit(start)

    def edits(level: int, branches: tuple[int, ...]) -> AttentionEdit:
        edit = None if own is None else own(level, branches)
        return change(plain if edit is None else edit, level, branches)

    return start._replace(edit=edits)


def no_edit(start: Start) -> AttentionEdit:
    """One that leaves all as it is."""
    text = start.branches[0].cond.text
    return AttentionEdit(0 if text is None else text.shape[1])


def first_rows(start: Start, branches: int) -> Array:
    """(R B,) int64 for R branches of B rows: of every row the first one of its branch."""
    count = len(start.x)
    return placed(np.arange(branches).repeat(count) * count, start.x)
