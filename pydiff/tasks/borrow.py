"""What an edit does at every noise level of a run: the table of its targets as AttentionEdit values, and local
blending."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import Array, like, namespace, placed
from pydiff.diffusion import loop
from pydiff.diffusion.edits import EditRow, EditTable
from pydiff.diffusion.local_blend import LocalBlend, blend_mask, blended
from pydiff.models.layer_sizes import layer_size
from pydiff.models.unet_config import UNetConfig
from pydiff.networks import Denoiser
from pydiff.nn.edit import AttentionEdit, Heat, Layers, PixelEdit, among
from pydiff.tasks.layers import attending


class Borrowing(NamedTuple):
    """An edit of a batch [source, target_1, ...]: its table; pixels, as in AttentionEdit; and of local blending the
    columns whose attention it follows (B, T, K), how, and after which noise levels. pooled: for every
    target the noise levels first <= level < last at which it is told the source's pooled text; spatial: those that it
    begins from the source's x.
    """

    table: EditTable
    pixels: str
    probe: NDArray[np.float64] | None
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
    have the same tables. Arrays are of the kind of `weight`, an array of the network, and where that is; floats are of
    its type."""

    def __init__(self, borrowed: Borrowing, heat: Heat, weight: Array) -> None:
        self.borrowed, self.heat, self.weight = borrowed, heat, weight
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

        def table(part: NDArray[Any]) -> Array:
            moved = like(part, self.weight) if part.dtype.kind == "f" else placed(part, self.weight)
            padded = among(moved, rows)
            assert padded is not None
            return padded

        edit = AttentionEdit(tokens=row.keep.shape[1], pixels=self.borrowed.pixels)
        if row.borrows:
            edit = edit._replace(source=table(row.source), transfer=table(row.transfer), keep=table(row.keep))
        if row.self_source is not None:
            layers = Layers(max_pixels=self.borrowed.table.self_max_pixels)
            own = np.arange(len(row.source))
            alone = (row.source != own) & (row.self_source == own)
            unborrowed = table(alone) if alone.any() else None
            edit = edit._replace(pixel_edit=PixelEdit(table(row.self_source), "map", layers, unborrowed))
        if any(told):
            pooled = [0, *(0 if one else index for index, one in enumerate(told, 1))]
            edit = edit._replace(pooled=table(np.array(pooled)))
        if self.borrowed.probe is not None:
            edit = edit.capturing(table(self.borrowed.probe), self.heat)
        return edit


def followed_size(network: Denoiser, size: tuple[int, int]) -> tuple[int, int]:
    """The height and width of the maps that local blending follows: a quarter of x's sides, as in Google's code, or the
    size next to it that a layer has."""
    config = network.config
    assert isinstance(config, UNetConfig)
    sizes = {layer_size(layer, config, size) for layer in attending(network, "text")}
    return min(sorted(sizes), key=lambda one: abs(one[0] * one[1] - size[0] * size[1] // 16))


def adjusted(borrowed: Borrowing, heat: Heat, followed: tuple[int, int], state: loop.State) -> Array:
    """x (B, C, H, W) after a step: the source's before levels of `spatial` and outside local blending. followed: height
    and width of the captured maps."""
    x, (first, last) = state.x, borrowed.blended
    xp = namespace(x)
    if borrowed.probe is not None and first <= state.level < last:
        (sums,) = heat.sums.values()
        maps = xp.moveaxis(sums[: len(x)].reshape((len(x), *followed, -1)), -1, 0)[:, :, None]  # (K, B, 1, h, w)
        excluded = maps[1] if len(maps) > 1 else None
        x = blended(x, blend_mask(maps[0], (x.shape[2], x.shape[3]), borrowed.blend, excluded=excluded))
    replaced = _inside(borrowed.spatial, state.level + 1)
    if not any(replaced):
        return x
    return xp.stack([x[0], *(x[0] if one else x[row] for row, one in enumerate(replaced, 1))])


def _inside(spans: Sequence[tuple[int, int]], level: int) -> tuple[bool, ...]:
    return tuple(first <= level < last for first, last in spans)
