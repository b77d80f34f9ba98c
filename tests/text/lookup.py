"""Text networks that look states up in a table: for any engine, and with none of a text encoder's logic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.text.clip import Reading
from pydiff.text.runner import Ran

WIDTH = 8
TABLE = np.random.default_rng(0).normal(0.2, 1.0, (50_000, WIDTH)).astype(np.float32)


class LookUp(NamedTuple):
    """engine: makes its array of NumPy's."""

    engine: Callable[[NDArray[Any]], Any] = np.asarray
    width: int = WIDTH
    pooled_width: int | None = WIDTH
    most_skip: int = 0

    def to(self, device: Any = None, dtype: Any = None) -> None:
        raise ValueError("it stays where it is")

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.bool_], skip: int = 0) -> Ran:
        states = TABLE[ids] * mask[..., None]
        return Ran(self.engine(states), self.engine(states[:, 0] - states[:, 1]))


class LookUps(NamedTuple):
    """`pydiff.text.runner.TextNetworks` of them."""

    engine: Callable[[NDArray[Any]], Any] = np.asarray
    whole_tokenizers: bool = False

    def t5(self, folder: Path) -> LookUp:
        return LookUp(self.engine)

    def clip(self, folder: Path, reading: Reading, projected: bool) -> LookUp:
        return LookUp(self.engine)
