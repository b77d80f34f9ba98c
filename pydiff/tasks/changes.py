"""Changes to the attention of a stage that any task may take beside its own edits."""

from __future__ import annotations

from collections.abc import Callable

from pydiff.cascade import Start
from pydiff.nn.edit import AttentionEdit

Change = Callable[[Start], Start]  # made of a checked call, applied to its first stage when that begins


def with_edit(start: Start, change: Callable[[AttentionEdit, int, tuple[int, ...]], AttentionEdit]) -> Start:
    """The start with every AttentionEdit changed: change(edit, noise level, branches that are evaluated), where the
    edit, of all rows of those branches, is the task's own, or one that leaves all as it is."""
    own, text = start.edit, start.branches[0].cond.text
    assert text is not None

    def edits(level: int, branches: tuple[int, ...]) -> AttentionEdit:
        edit = None if own is None else own(level, branches)
        return change(AttentionEdit(text.shape[1]) if edit is None else edit, level, branches)

    return start._replace(edit=edits)
