"""Step caching: deep features of one evaluation serve the next ones too (Ma et al. 2023, DeepCache, arXiv 2312.00858).

What a U-Net makes at its coarse levels changes slowly from step to step. So every n-th evaluation of a run is whole,
and those between run the outermost level alone, over what came up from the others last. An approximation, off by
default. The features are the run's: networks keep nothing between calls.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

from pydiff.arrays import Array


@runtime_checkable
class Reusing(Protocol):
    """A `pydiff.networks.Denoiser` that can do so."""

    def reusing(self, x: Array, t: Array, prepared: Any, deep: Array | None, /) -> tuple[Array, Array]:
        """The prediction (B, C_out, H, W) in x's type, and what came up to the outermost level, (B, C, H, W). deep:
        that of an earlier call with as many rows, in whose place it stands; None: all levels run."""


class StepCache:
    """Of one run: every so many evaluations one is whole, as is one of other branches or rows than the one before."""

    def __init__(self, every: int) -> None:
        self.every, self.age = every, 0
        self.of: Hashable = None
        self.deep: list[Array | None] = []

    def __call__(
        self, network: Reusing, given: Sequence[tuple[Array, Any]], t: Array, branches: tuple[int, ...]
    ) -> list[Array]:
        """The predictions of the calls of one evaluation, each of x and what `prepare` made."""
        of = (id(network), branches, *(tuple(x.shape) for x, _ in given))
        if self.of != of or self.age == self.every:
            self.of, self.age, self.deep = of, 0, [None] * len(given)
        made = [network.reusing(x, t, cond, deep) for (x, cond), deep in zip(given, self.deep, strict=True)]
        self.age, self.deep = self.age + 1, [deep for _, deep in made]
        return [prediction for prediction, _ in made]
