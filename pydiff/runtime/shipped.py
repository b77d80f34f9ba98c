"""The models that pydiff carries, on ONNX Runtime. What walks a graph is imported while the graphs open already."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydiff.runtime.manifest import read_manifest
from pydiff.runtime.sessions import Exported, Session, provider_of

if TYPE_CHECKING:
    from pydiff.cascade import Cascade

SHIPPED = Path(__file__).parents[1] / "embedded" / "weights"  # one manifest for the stages of all models
FIRST = ("text_encoder", "unet")  # what a run needs first, in its order


def open_shipped(stages: Sequence[str], name: str, provider: str | None = None, *, ahead: bool = False) -> Cascade:
    """A model that pydiff carries. Its files are of the package, as the code is, so that they are not verified again.

    ahead: the graphs that a run needs first are opened on a thread of their own, from now on. Raises ValueError as
    `pydiff.runtime.opening.open_exported` does.
    """
    exported = Exported(SHIPPED, read_manifest(SHIPPED), provider_of(provider))
    if ahead:
        found = [exported.found(SHIPPED / stages[0] / component) for component in FIRST]
        graphs = [graph for graph in found if graph is not None]
        threading.Thread(target=_open, args=(graphs,), name="pydiff-ahead").start()
    from pydiff.runtime.opening import cascade_of

    return cascade_of(exported, stages, name)


def _open(graphs: Sequence[Session]) -> None:
    """Open them; what is refused is refused again by the first call, to the caller."""
    with suppress(ValueError):
        for graph in graphs:
            graph.opened()
