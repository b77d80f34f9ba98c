"""A picture through a network in overlapping tiles, so that memory depends on the tile and not on the picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tiled(network: Callable[[Tensor], Tensor], x: Tensor, overlap: int, overlap_out: int) -> Tensor:
    """network(x) from square tiles, each sharing a quarter of its edge with the next one and blended there.

    x (B, C, H, W) -> (B, C', H', W'), where the network turns every `overlap` pixels into `overlap_out`. A tile has an
    edge of 4 overlaps; x that fits into one goes through whole. In the shared quarter the share of the new tile rises
    from 0 in steps of 1 / overlap_out: downwards first, then to the right, over neighbours that are blended already,
    as in diffusers' AutoencoderKL.
    """
    edge, step, kept = 4 * overlap, 3 * overlap, 3 * overlap_out
    if max(x.shape[2:]) <= edge:
        return network(x)
    rows: list[Tensor] = []
    above: list[Tensor] = []
    for top in range(0, x.shape[2], step):
        row: list[Tensor] = []
        for left in range(0, x.shape[3], step):
            tile = network(x[:, :, top : top + edge, left : left + edge])
            if above:
                tile = _blended(above[len(row)], tile, 2, overlap_out)
            if row:
                tile = _blended(row[-1], tile, 3, overlap_out)
            row.append(tile)
        rows.append(torch.cat([tile[:, :, :kept, :kept] for tile in row], dim=3))
        above = row
    return torch.cat(rows, dim=2)


def _blended(before: Tensor, tile: Tensor, dim: int, extent: int) -> Tensor:
    """tile, its first pixels along dim mixed with the last ones of the tile before it; at an edge there are fewer."""
    extent = min(tile.shape[dim], extent)
    share = torch.arange(extent, device=tile.device, dtype=tile.dtype) / extent
    share = share.view(-1, *(1,) * (3 - dim))
    old, new = before.narrow(dim, before.shape[dim] - extent, extent), tile.narrow(dim, 0, extent)
    rest = tile.narrow(dim, extent, tile.shape[dim] - extent)
    return torch.cat([old * (1 - share) + new * share, rest], dim=dim)
