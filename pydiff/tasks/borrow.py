"""What an edit does at every noise level of a run: the table of its targets as AttentionEdit values, and local
blending."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pydiff.diffusion import loop
from pydiff.diffusion.edits import EditRow, EditTable
from pydiff.diffusion.local_blend import LocalBlend, blend_mask, blended
from pydiff.models.unet import UNet
from pydiff.nn.edit import AttentionEdit, Heat, Layers, PixelEdit, among
from pydiff.tasks.layers import attending, layer_size


class Borrowing(NamedTuple):
    """An edit of a batch [source, target_1, ...]: its table; pixels, as in AttentionEdit; and of local blending the
    columns whose attention it follows (B, T, K), how, and after which noise levels. pooled: for every
    target the noise levels first <= level < last at which it is told the source's pooled text; spatial: those that it
    begins from the source's x.
    """

    table: EditTable
    pixels: str
    probe: Tensor | None
    blend: LocalBlend
    blended: tuple[int, int]
    pooled: tuple[tuple[int, int], ...]
    spatial: tuple[tuple[int, int], ...]

    @property
    def adjusts(self) -> bool:
        """Whether x changes after any step."""
        return self.probe is not None or any(first < last for first, last in self.spatial)


class TextBranchEdits:
    """Noise level and branches to AttentionEdit: the rows of branch 0, which reads the prompts, borrow; equal levels
    have the same tables. Tensors are on the device of `like`, a weight of the network, and of its type."""

    def __init__(self, borrowed: Borrowing, heat: Heat, like: Tensor) -> None:
        self.borrowed, self.heat, self.like = borrowed, heat, like
        self.made: dict[tuple[int, tuple[bool, ...], int], AttentionEdit | None] = {}

    def __call__(self, level: int, branches: tuple[int, ...]) -> AttentionEdit | None:
        if branches[0] != 0:
            return None
        row, told = self.borrowed.table.at(level), _inside(self.borrowed.pooled, level)
        key = id(row), told, len(branches)
        if key not in self.made:
            self.made[key] = self._make(row, told, len(row.source) * len(branches))
        return self.made[key]

    def _make(self, row: EditRow, told: tuple[bool, ...], rows: int) -> AttentionEdit | None:
        if not row.borrows and row.self_source is None and self.borrowed.probe is None and not any(told):
            return None

        def table(part: Tensor) -> Tensor:
            moved = part.to(self.like) if part.is_floating_point() else part.to(self.like.device)
            padded = among(moved, rows)
            assert padded is not None
            return padded

        edit = AttentionEdit(tokens=row.keep.shape[1], pixels=self.borrowed.pixels)
        if row.borrows:
            edit = edit._replace(source=table(row.source), transfer=table(row.transfer), keep=table(row.keep))
        if row.self_source is not None:
            layers = Layers(max_pixels=self.borrowed.table.self_max_pixels)
            own = torch.arange(len(row.source))
            alone = (row.source != own) & (row.self_source == own)
            unborrowed = table(alone) if alone.any() else None
            edit = edit._replace(pixel_edit=PixelEdit(table(row.self_source), "map", layers, unborrowed))
        if any(told):
            pooled = [0, *(0 if one else index for index, one in enumerate(told, 1))]
            edit = edit._replace(pooled=table(torch.tensor(pooled)))
        if self.borrowed.probe is not None:
            edit = edit.capturing(table(self.borrowed.probe), self.heat)
        return edit


def followed_size(network: UNet, size: tuple[int, int]) -> tuple[int, int]:
    """The height and width of the maps that local blending follows: a quarter of x's sides, as in Google's code, or the
    size next to it that a layer has."""
    sizes = {layer_size(layer, network.config, size) for layer in attending(network, "text")}
    return min(sorted(sizes), key=lambda one: abs(one[0] * one[1] - size[0] * size[1] // 16))


def adjusted(borrowed: Borrowing, heat: Heat, followed: tuple[int, int], state: loop.State) -> Tensor:
    """x (B, C, H, W) after a step: the source's before levels of `spatial` and outside local blending. followed: height
    and width of the captured maps."""
    x, (first, last) = state.x, borrowed.blended
    if borrowed.probe is not None and first <= state.level < last:
        (sums,) = heat.sums.values()
        maps = sums[: len(x)].unflatten(1, followed).movedim(-1, 0)[:, :, None]  # (K, B, 1, h, w)
        excluded = maps[1] if len(maps) > 1 else None
        x = blended(x, blend_mask(maps[0], (x.shape[2], x.shape[3]), borrowed.blend, excluded=excluded))
    replaced = _inside(borrowed.spatial, state.level + 1)
    if not any(replaced):
        return x
    return torch.stack([x[0], *(x[0] if one else x[row] for row, one in enumerate(replaced, 1))])


def _inside(spans: Sequence[tuple[int, int]], level: int) -> tuple[bool, ...]:
    return tuple(first <= level < last for first, last in spans)
