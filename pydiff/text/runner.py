"""Text networks as text encoders see them, whatever engine runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import Array

if TYPE_CHECKING:
    from pydiff.text.clip import Reading


class Ran(NamedTuple):
    """What a network makes of rows of tokens: states (R, T, D), and the projected pooled state (R, P) where there is
    one."""

    states: Array
    pooled: Array | None = None


class Runner(Protocol):
    """One text network, ready to run; it is not changed by being called."""

    @property
    def width(self) -> int:
        """D of the states."""

    @property
    def pooled_width(self) -> int | None:
        """P of the pooled state, None where there is none."""

    @property
    def most_skip(self) -> int:
        """How many layers may be left out at the end, beyond those that the pipeline leaves out: clip_skip."""

    def to(self, device: Any = None, dtype: Any = None) -> None:
        """Move and cast the network, in place. ValueError where the engine cannot."""

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.bool_], skip: int = 0) -> Ran:
        """ids, mask (R, T) from the host, True where a token is, to arrays of the engine. skip: at most `most_skip`.
        Whether the mask is used is the network's matter."""


class TextNetworks(Protocol):
    """Where text networks come from. ValueError names what is missing or wrong in a folder."""

    @property
    def whole_tokenizers(self) -> bool:
        """Whether tokenizers were written by `pydiff.text.tokenizer_files.write_tokenizer`: transformers, which would
        make CLIP's anew, is not needed to read them."""

    def t5(self, folder: Path) -> Runner:
        """The T5 encoder in a component's folder, with config.json."""

    def clip(self, folder: Path, reading: Reading, projected: bool) -> Runner:
        """A CLIP text network; states are those that `reading` (its skip and normed) takes. projected: with the
        projection of its pooled state."""
