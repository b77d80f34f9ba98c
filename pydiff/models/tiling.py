"""A picture through a network in overlapping tiles, so that memory depends on the tile and not on the picture."""

from __future__ import annotations

from collections.abc import Callable

from pydiff.arrays import Array, namespace


def tiled(network: Callable[[Array], Array], x: Array, overlap: int, overlap_out: int) -> Array:
    """network(x) from square tiles, each sharing a quarter of its edge with the next one and blended there.

    x (B, C, H, W) -> (B, C', H', W'), where the network turns every `overlap` pixels into `overlap_out`. A tile has an
    edge of 4 overlaps; x that fits into one goes through whole. In the shared quarter the share of the new tile rises
    from 0 in steps of 1 / overlap_out: downwards first, then to the right, over neighbours that are blended already,
    as in diffusers' AutoencoderKL.
    """
    edge, step, kept = 4 * overlap, 3 * overlap, 3 * overlap_out
    if max(x.shape[2:]) <= edge:
        return network(x)
    xp = namespace(x)
    rows: list[Array] = []
    above: list[Array] = []
    for top in range(0, x.shape[2], step):
        row: list[Array] = []
        for left in range(0, x.shape[3], step):
            tile = network(x[:, :, top : top + edge, left : left + edge])
            if above:
                tile = _blended(above[len(row)], tile, 2, overlap_out)
            if row:
                tile = _blended(row[-1], tile, 3, overlap_out)
            row.append(tile)
        rows.append(xp.concat([tile[:, :, :kept, :kept] for tile in row], axis=3))
        above = row
    whole: Array = xp.concat(rows, axis=2)
    return whole


def _blended(before: Array, tile: Array, axis: int, extent: int) -> Array:
    """tile, its first pixels along the axis mixed with the last ones of the tile before; at an edge there are fewer."""
    extent = min(tile.shape[axis], extent)
    xp = namespace(tile)
    share = xp.arange(extent, dtype=tile.dtype, device=tile.device) / extent
    share = share.reshape((-1, *(1,) * (3 - axis)))
    old, new = _part(before, axis, before.shape[axis] - extent), _part(tile, axis, 0, extent)
    mixed: Array = xp.concat([old * (1 - share) + new * share, _part(tile, axis, extent)], axis=axis)
    return mixed


def _part(x: Array, axis: int, start: int, stop: int | None = None) -> Array:
    return x[(*(slice(None),) * axis, slice(start, stop))]
