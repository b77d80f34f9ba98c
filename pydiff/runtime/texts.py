"""Text networks of an exported folder, as `pydiff.text.runner.Runner`s."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import on_host
from pydiff.runtime.sessions import Session
from pydiff.text.runner import Ran


class OnnxText:
    """A graph of token ids, and a mask where it takes one, to states. hidden: outputs of the layers that clip_skip may
    end at, the last one first. What it makes is the host's, where a stage takes it from once."""

    def __init__(self, session: Session) -> None:
        self.session = session
        outputs = session.graph.outputs
        self.hidden = ["states", *(f"states_{skip}" for skip in range(1, len(outputs)) if f"states_{skip}" in outputs)]

    @property
    def width(self) -> int:
        return int(self.session.graph.outputs["states"].shape[-1])

    @property
    def pooled_width(self) -> int | None:
        pooled = self.session.graph.outputs.get("pooled")
        return None if pooled is None else int(pooled.shape[-1])

    @property
    def most_skip(self) -> int:
        return len(self.hidden) - 1

    def to(self, device: Any = None, dtype: Any = None) -> None:
        """Raises ValueError: it runs where it was opened."""
        raise ValueError("an exported model runs where it was opened; load it with provider='cuda', or export it anew")

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.bool_], skip: int = 0) -> Ran:
        given = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        inputs = {name: given[name] for name in self.session.graph.inputs}
        names = [self.hidden[skip], *(["pooled"] if "pooled" in self.session.graph.outputs else [])]
        states, *pooled = (on_host(made) for made in self.session(inputs, names))
        return Ran(states, *pooled)  # type: ignore[arg-type]
