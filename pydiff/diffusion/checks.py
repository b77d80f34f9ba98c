"""Numbers that callers and config files give."""

from __future__ import annotations

import math
import numbers
from typing import Any


def real(name: str, value: Any) -> float:
    """A number as a float, infinities and NaN included. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} is {value!r}; expected a number")
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return math.inf


def whole(name: str, value: Any, low: int) -> int:
    """An integer of at least `low`. Raises ValueError for anything else."""
    if not isinstance(value, bool) and isinstance(value, numbers.Integral) and int(value) >= low:
        return int(value)
    raise ValueError(f"{name} is {value!r}; expected an integer of at least {low}")
