"""Randomness: one generator per picture, so that a picture does not depend on the batch it is made in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST_SEED = 2**64


class Noise:
    """Normal noise for a batch. seeds: one int in [0, 2^64) per picture, or one torch.Generator per picture.

    Draws are on the generators' own device and in the order of the pictures, as diffusers draws from a list of
    generators. The same generator may serve two pictures only if it is meant to be drawn from twice.
    """

    def __init__(self, seeds: Sequence[int | torch.Generator]) -> None:
        if isinstance(seeds, (int, torch.Generator)) or len(seeds) == 0:
            raise ValueError(f"seeds is {seeds!r}; expected a list with one seed or generator per picture")
        self.generators = [_generator(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self.generators)

    def __call__(
        self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """shape is that of one picture, (C, H, W); returns (B, C, H, W)."""
        one = (1, *shape)
        drawn = [torch.randn(one, generator=g, device=g.device, dtype=dtype) for g in self.generators]
        return torch.cat(drawn).to(device)


def _generator(seed: int | torch.Generator) -> torch.Generator:
    if isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < LARGEST_SEED:
        raise ValueError(f"seed is {seed!r}; expected an integer in [0, 2^64) or a torch.Generator")
    return torch.Generator().manual_seed(seed)
