"""Perturbed-attention guidance (Ahn et al. 2024): the prediction is led away from what the network makes where, in some
layers, a pixel attends to no pixel but itself.

Where text and pixels stand in one softmax, which the paper does not know, the attention to text stays as it is, and
what falls on pixels falls on the pixel itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pydiff.arrays import is_array, namespace, placed
from pydiff.cascade import Stage, Start
from pydiff.diffusion.guidance import Guidance, fading, per_level, perturbed
from pydiff.diffusion.rows import StepTable
from pydiff.nn.edit import AttentionEdit, Layers, RowsIn, among
from pydiff.tasks.changes import no_edit
from pydiff.tasks.checks import number, otherwise
from pydiff.tasks.layers import attending, check_open, fitting

MIDDLE = "mid_block."


class PerturbedPlan(NamedTuple):
    """scales: of the guidance at every noise level; layers: which are perturbed, None where no scale is above 0; said:
    what a caller says to have the same."""

    scales: Sequence[float]
    layers: Layers | None
    said: dict[str, Any]

    def applied(self, guidance: Guidance) -> Guidance:
        """The guidance with a branch more for what is perturbed, if anything is."""
        return guidance if self.layers is None else perturbed(guidance, self.scales)


def plan_perturbed(stage: Stage, scale: float | list[float], fade: Any, layers: Any, table: StepTable) -> PerturbedPlan:
    """A stage's options pag_scale (a number, or one per noise level), pag_adaptive_scale and pag_layers. Raises
    ValueError for numbers below 0, and for names of no layer that attends to pixels."""
    fade = number("pag_adaptive_scale", otherwise(fade, 0.0), 0)
    scales = [number("pag_scale", value, 0) for value in per_level("pag_scale", scale, table.levels)]
    on, known = any(scales), attending(stage.unet, "pixels")
    names = None if layers is None else fitting("pag_layers", layers, known)
    if on:
        check_open(stage.unet, "pag_scale")
    if on and names is None:
        names = [name for name in known if name.startswith(MIDDLE)]
        if not names:
            raise ValueError(
                f"pag_scale is {scale!r}, but in the middle of this network no layer attends to pixels; name others "
                "in pag_layers, or leave it out"
            )
    times = dict.fromkeys(range(table.levels), 0.0)
    times |= {row.level: row.t for row in reversed(table.rows) if row.evaluate}
    said = {"pag_scale": scale, "pag_adaptive_scale": fade, "pag_layers": names}
    if fade > 0:
        scales = [p and faded for p, faded in zip(scales, fading(scales, fade, list(times.values())), strict=True)]
    return PerturbedPlan(scales, Layers(frozenset(names or ())) if any(scales) else None, said)


def with_perturbed(start: Start, layers: Layers) -> Start:
    """The start with one more branch: branch 0 again, with what is done to its attention, and perturbed."""
    own, plain, last, rows = start.edit, no_edit(start), len(start.branches), len(start.x)

    def edits(level: int, branches: tuple[int, ...]) -> AttentionEdit | None:
        others = tuple(branch for branch in branches if branch != last)
        edit = None if own is None else own(level, others)
        if len(others) == len(branches):
            return edit
        marked = placed(np.arange(rows * len(branches)) >= rows * len(others), start.x)
        repeated: AttentionEdit = _repeated(plain if edit is None else edit, rows)
        if edit is not None and edit.probe is not None:  # what is captured of branch 0 is captured once
            repeated = repeated._replace(probe=among(edit.probe, len(edit.probe) + rows))
        return repeated._replace(perturbed=RowsIn(marked, layers))

    return start._replace(branches=[*start.branches, start.branches[0]], edit=edits)


def _repeated(part: Any, rows: int) -> Any:
    """An edit, or a part of one, of a batch whose first rows, those of branch 0, stand at its end once
    more."""
    if is_array(part):
        xp, first = namespace(part), part[:rows]  # which borrow from each other alone
        return xp.concat([part, first + len(part) if part.dtype == xp.int64 else first])
    if isinstance(part, tuple):
        fields = [_repeated(field, rows) for field in part]
        return part._make(fields) if hasattr(part, "_make") else tuple(fields)
    return part
