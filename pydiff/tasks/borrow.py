"""What an edit does at every noise level of a run: the table of its targets as AttentionEdit values, and local
blending."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pydiff.diffusion import loop
from pydiff.diffusion.edits import EditRow, EditTable
from pydiff.diffusion.local_blend import LocalBlend, blend_mask, blended
from pydiff.nn.edit import AttentionEdit, Capture, Heat, Layers, PixelEdit, among
from pydiff.tasks.layers import sides


class Borrowing(NamedTuple):
    """An edit of a batch [source, target_1, ...]: its table; pixels, as in AttentionEdit; and of local blending the
    columns whose attention it follows (B, T, K), how, and from which noise level on."""

    table: EditTable
    pixels: str
    probe: Tensor | None
    blend: LocalBlend
    first_blend: int


class TextBranchEdits:
    """Noise level and branches to AttentionEdit: the rows of branch 0, which reads the prompts, borrow; equal levels
    have the same tables. Tensors are on the device of `like`, a weight of the network, and of its type."""

    def __init__(self, borrowed: Borrowing, heat: Heat | None, like: Tensor) -> None:
        self.borrowed, self.heat, self.like = borrowed, heat, like
        self.made: dict[tuple[int, int], AttentionEdit | None] = {}

    def __call__(self, level: int, branches: tuple[int, ...]) -> AttentionEdit | None:
        if branches[0] != 0:
            return None
        row = self.borrowed.table.at(level)
        key = id(row), len(branches)
        if key not in self.made:
            self.made[key] = self._make(row, len(row.source) * len(branches))
        return self.made[key]

    def _make(self, row: EditRow, rows: int) -> AttentionEdit | None:
        if not row.borrows and row.self_source is None and self.heat is None:
            return None

        def table(part: Tensor) -> Tensor:
            moved = part.to(self.like.device) if part.dtype == torch.int64 else part.to(self.like)
            padded = among(moved, rows)
            assert padded is not None
            return padded

        edit = AttentionEdit(tokens=row.keep.shape[1], pixels=self.borrowed.pixels)
        if row.borrows:
            edit = edit._replace(source=table(row.source), transfer=table(row.transfer), keep=table(row.keep))
        if row.self_source is not None:
            layers = Layers(max_pixels=self.borrowed.table.self_max_pixels)
            edit = edit._replace(pixel_edit=PixelEdit(table(row.self_source), "map", layers))
        if self.heat is not None and self.borrowed.probe is not None:
            edit = edit._replace(captures=(Capture(table(self.borrowed.probe), self.heat),))
        return edit


def blend(borrowed: Borrowing, heat: Heat, rows: int, state: loop.State) -> Tensor:
    """x (B, C, H, W) where the words look, the source's x elsewhere. Followed are the maps of a quarter of the side, as
    Google's, or of the size next to it."""
    if state.level < borrowed.first_blend:
        return state.x
    height, width = state.x.shape[2:]
    pixels = min(heat.sums, key=lambda count: abs(count - height * width // 16))
    maps = heat.sums[pixels][:rows].unflatten(1, sides(pixels, (height, width))).movedim(-1, 0)  # (K, B, h, w)
    excluded = maps[1][:, None] if len(maps) > 1 else None
    return blended(state.x, blend_mask(maps[0][:, None], (height, width), borrowed.blend, excluded=excluded))
