"""How far a run is, on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydiff.cascade import State


class Progress:
    """A bar per stage on a terminal, fed with the states of a run."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet or not sys.stderr.isatty()
        self.bar: Any = None
        self.stage = -1

    def __enter__(self) -> Progress:
        return self

    def __call__(self, state: State) -> None:
        if self.quiet:
            return
        if state.stage != self.stage:
            self.close()
            self.stage, self.bar = state.stage, self._open(state)
        self.bar.update()

    def _open(self, state: State) -> Any:
        from tqdm import tqdm

        size = f"{state.x.shape[-1]}x{state.x.shape[-2]}"
        return tqdm(
            total=state.steps, desc=f"stage {state.stage + 1}/{state.stages} {size:>9}", unit="step", leave=True
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def __exit__(self, *problem: object) -> None:
        self.close()
