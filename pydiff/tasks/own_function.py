"""A user's own edit of attention maps, f(source_map, target_map, progress) -> map: the slow way, which forms them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pydiff.arrays import placed
from pydiff.cascade import Stage, Start
from pydiff.nn.edit import AttentionEdit, Layers, MapEdit
from pydiff.tasks.changes import Change, with_edit
from pydiff.tasks.layers import attending, check_open, fitting


def own_function(function: Any, layers: str | Sequence[str] | None, stage: Stage, levels: int) -> Change:
    """In the named layers, by default all that attend to text, the maps (heads, N, M) of every target become
    function(source's, its own, progress), and nothing else is done to them; progress is level / levels, from 0 below 1.
    In the branch that reads the prompts. Raises ValueError for what cannot be called and for names of no layer."""
    if not callable(function):
        raise ValueError(f"function is {function!r}; expected one of (source_map, target_map, progress) -> map")
    check_open(stage.unet, "function")
    known = list(stage.unet.attention)
    names = attending(stage.unet, "text") if layers is None else fitting("function_layers", layers, known)
    where = Layers(frozenset(names))

    def changed(start: Start) -> Start:
        def change(edit: AttentionEdit, level: int, branches: tuple[int, ...]) -> AttentionEdit:
            if branches[0] != 0:
                return edit
            count = len(start.x)
            source = np.arange(count * len(branches))
            source[1:count] = 0
            return edit._replace(map_edit=MapEdit(function, placed(source, start.x), level / levels, where))

        return with_edit(start, change)

    return changed
