"""Sizes of the pictures that stages make."""

from __future__ import annotations

from collections.abc import Sequence

from pydiff.cascade import Stage

Size = tuple[int, int]  # height and width


def sizes_like(stages: Sequence[Stage], given: Size) -> list[Size]:
    """Those of pictures with the sides' proportion of one that is given; the larger side is the stage's."""
    side = max(stages[0].size)
    height, width = (max(1, round(length * side / max(given))) for length in given)
    return [(height * max(stage.size) // side, width * max(stage.size) // side) for stage in stages]
