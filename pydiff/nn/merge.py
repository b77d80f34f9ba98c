"""Token merging: pixels that look alike attend as one (Bolya and Hoffman 2023, Token Merging for Fast Stable Diffusion,
arXiv 2303.17604).

The top left pixel of every 2x2 is a destination, the others are sources. Every source is matched with the destination
of the closest direction, by the cosine of what the layer reads; the sources that are closest to theirs become one with
them, their mean, and what the layer makes of it is copied back to each. The paper draws the destinations; here nothing
is random, and every row of a batch is matched alone. An approximation, off by default.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Matches(NamedTuple):
    """Of N pixels of which M are left. place (B, N): where each pixel stands among those; own (B, M): the pixel that
    stands there itself, destinations before the sources that are left, each in their order."""

    place: Tensor
    own: Tensor

    def merged(self, x: Tensor) -> Tensor:
        """Means, (B, N, C) -> (B, M, C). Pixels that are the same stay as they are, bit for bit."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        first = _taken(wide, self.own)
        apart = wide - _taken(first, self.place)
        sums = torch.zeros_like(first).scatter_add(1, self.place[..., None].expand_as(apart), apart)
        counts = torch.zeros_like(first[..., 0]).scatter_add(1, self.place, torch.ones_like(wide[..., 0]))
        return (first + sums / counts[..., None]).to(x.dtype)

    def unmerged(self, x: Tensor) -> Tensor:
        """Copies, (B, M, C) -> (B, N, C)."""
        return _taken(x, self.place)


def left(size: tuple[int, int], share: float) -> int:
    """How many pixels M of N = height x width are left where this share of N is merged: at least the destinations."""
    height, width = size
    pixels = height * width
    return max(pixels - int(share * pixels), ((height + 1) // 2) * ((width + 1) // 2))


def match(x: Tensor, size: tuple[int, int], count: int) -> Matches:
    """The matches of x (B, N, C), pictures of this height and width, of which `count` pixels are to be left."""
    destinations, sources = _parts(size, x.device)
    unit = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
    best, nearest = (unit[:, sources] @ unit[:, destinations].mT).max(-1)  # (B, S)
    order = best.argsort(dim=-1, descending=True, stable=True)
    merged, kept = order.tensor_split([x.shape[1] - count], -1)
    own = torch.cat([destinations.expand(len(x), -1), sources[kept.sort(-1).values]], 1)
    place = torch.empty(x.shape[:2], dtype=torch.int64, device=x.device)
    place.scatter_(1, own, torch.arange(count, device=x.device).expand(len(x), -1))
    place.scatter_(1, sources[merged], nearest.gather(1, merged))
    return Matches(place, own)


def _parts(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The destinations (D,) and the sources (S,) among pixels, line by line."""
    lines, columns = (torch.arange(side, device=device) % 2 == 0 for side in size)
    first = (lines[:, None] & columns).flatten()
    return first.nonzero()[:, 0], (~first).nonzero()[:, 0]


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x (B, K, C) by index (B, L)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
