"""pydiff: text-to-image diffusion with U-Nets, at the lowest latency the machine allows.

pipe = pydiff.load()
pipe.generate("a red circle left of a blue square on a white background", seed=7).save("circle.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydiff._version import __version__

if TYPE_CHECKING:
    from pydiff.pipeline import Pipeline, load
    from pydiff.tasks.inverted import Inverted
    from pydiff.tasks.run import Preview, Result
    from pydiff.text.prompts import UnknownWord

_HOMES = {
    "Inverted": "pydiff.tasks.inverted",
    "Pipeline": "pydiff.pipeline",
    "Preview": "pydiff.tasks.run",
    "Result": "pydiff.tasks.run",
    "UnknownWord": "pydiff.text.prompts",
    "load": "pydiff.pipeline",
}
__all__ = ["Inverted", "Pipeline", "Preview", "Result", "UnknownWord", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pydiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
