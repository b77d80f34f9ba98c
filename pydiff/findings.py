"""What `pydiff doctor` writes down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydiff.ops import Threshold

FOLDER = Path(__file__).parent
THRESHOLDS = (Threshold(), Threshold("static"), Threshold("dynamic", 0.9, 1.5), Threshold("dynamic", 0.5, 50.0))
TOLERANCE = 1e-5  # relative to the largest value, of float32 against float64


class Finding(NamedTuple):
    """state: "ok"; "missing", which makes pydiff slower or narrower; or "broken", which makes it unfit for use."""

    state: str
    name: str
    detail: str


def build() -> dict[str, str]:
    """What the build recorded; empty when pydiff was not built from source here."""
    try:
        return dict(json.loads((FOLDER / "_build.json").read_text()))
    except (OSError, ValueError):
        return {}


def checked(name: str, check: Callable[[], float], tolerance: float) -> Finding:
    """What comes of a check that returns an error relative to the largest value."""
    try:
        error = check()
    except Exception as failure:  # whatever fails here is the finding
        return Finding("broken", name, f"{type(failure).__name__}: {failure}")
    advice = "" if error <= tolerance else "; set PYDIFF_KERNELS=reference"
    return Finding("ok" if error <= tolerance else "broken", name, f"relative error {error:.1e}{advice}")
