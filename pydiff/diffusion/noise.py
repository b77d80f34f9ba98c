"""Randomness: one generator per picture, so that a picture does not depend on the batch it is made in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pydiff.arrays import Array, is_torch, placed
from pydiff.ops.generator import Generator

if TYPE_CHECKING:
    import torch

LARGEST_SEED = 2**64


class Noise:
    """Normal noise for a batch. seeds: one int in [0, 2^64) per picture, or one torch.Generator per picture.

    A seed gives the same numbers with and without torch. Draws are on the generators' own device and in the order of
    the pictures, as diffusers draws from a list of generators; those of the seeds are made at the first draw, and all
    draws are of one kind of array. The same generator may serve two pictures only if it is meant to be drawn from
    twice.
    """

    def __init__(self, seeds: Sequence[int | torch.Generator]) -> None:
        if isinstance(seeds, int) or is_torch_generator(seeds) or len(seeds) == 0:
            raise ValueError(f"seeds is {seeds!r}; expected a list with one seed or generator per picture")
        self.generators: list[Any] = [_checked(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self.generators)

    def __call__(self, shape: Sequence[int], *, like: Array) -> Array:
        """shape is that of one picture, (C, H, W); returns (B, C, H, W) of the kind and type of `like`, where it is.
        CuPy's is drawn on the host and copied once. Raises ValueError for arrays that are not torch's from a
        torch.Generator."""
        if is_torch(like):
            return self._torch(shape, like)
        self.generators = [Generator(one) if isinstance(one, int) else one for one in self.generators]
        if any(is_torch_generator(one) for one in self.generators):
            raise ValueError("seeds holds a torch.Generator, but this model runs without torch; give integers")
        drawn = [one.normal((1, *shape), dtype=like.dtype) for one in self.generators]
        return placed(np.concatenate(drawn), like)

    def _torch(self, shape: Sequence[int], like: Array) -> Array:
        import torch

        made = [torch.Generator().manual_seed(one) if isinstance(one, int) else one for one in self.generators]
        self.generators = made
        drawn = [torch.randn((1, *shape), generator=one, device=one.device, dtype=like.dtype) for one in made]
        return torch.cat(drawn).to(like.device)


def is_torch_generator(value: Any) -> bool:
    """Whether it is a torch.Generator; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Generator)


def _checked(seed: int | torch.Generator) -> int | torch.Generator:
    if is_torch_generator(seed) or (isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < LARGEST_SEED):
        return seed
    raise ValueError(f"seed is {seed!r}; expected an integer in [0, 2^64) or a torch.Generator")
