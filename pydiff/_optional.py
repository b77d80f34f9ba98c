"""Packages that only some checkpoints or options need."""

from __future__ import annotations

import importlib
from types import ModuleType

TORCH = "pydiff-engine[torch]"
TRANSFORMERS = "transformers>=5.6,<6"  # where all tokenizers are the tokenizers library's


def optional(module: str, package: str, purpose: str) -> ModuleType:
    """Import a module of a package that need not be there. Raises ValueError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{purpose} needs the package {package}, which does not import: pip install {package!r}"
        ) from error
