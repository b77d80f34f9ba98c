"""Seeds and generators: one per picture."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from pydiff.diffusion.noise import is_torch_generator
from pydiff.tasks.checks import integer, is_list

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**63 - 1
Seed = int | Sequence[int] | None
Generators: TypeAlias = "torch.Generator | Sequence[torch.Generator] | None"


def seed_list(seed: Seed, count: int) -> list[int]:
    """One seed per picture: as given; from one int s the seeds s, s + 1, ...; from None random ones."""
    if seed is None:
        return [secrets.randbelow(2**32) for _ in range(count)]
    if is_list(seed):
        if len(seed) != count:
            raise ValueError(f"seed lists {len(seed)} numbers for {count} pictures; give one int, or one per picture")
        return [integer("seed", value, 0, MAX_SEED) for value in seed]
    first = integer("seed", seed, 0, MAX_SEED - count + 1)
    return [first + index for index in range(count)]


def generators(seed: Seed, generator: Generators, count: int) -> tuple[list[int | None], list[int | torch.Generator]]:
    """Seeds, None where a generator was given, and what noise is drawn from, a seed or a generator; one per picture."""
    if generator is None:
        seeds = seed_list(seed, count)
        return list(seeds), list(seeds)
    if seed is not None:
        raise ValueError("seed and generator are both given; give one of them")
    given: list[Any] = list(generator) if is_list(generator) else [generator]
    if not all(map(is_torch_generator, given)):
        raise ValueError(f"generator is {generator!r}; expected a torch.Generator per picture")
    if len(given) != count:
        raise ValueError(f"generator lists {len(given)} generators for {count} pictures; give one per picture")
    return [None] * count, given
