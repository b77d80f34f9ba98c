"""Numbers and lists that callers give."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any, TypeGuard

MOST_PER_PROMPT = 4096  # pictures of one prompt in one call


def otherwise(value: Any, default: Any) -> Any:
    return default if value is None else value


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def unusual(options: Any) -> dict[str, Any]:
    """The fields of a dataclass of options that are not as they are when nothing is said."""
    usual = type(options)()
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {name: value for name, value in fields.items() if value != getattr(usual, name)}


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    if not isinstance(value, bool) and isinstance(value, numbers.Integral):
        whole = int(value)
        if whole >= low and (high is None or whole <= high):
            return whole
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise ValueError(f"{name} is {value!r}; expected an integer {bounds}")


def per_prompt(value: Any) -> int:
    """num_images_per_prompt."""
    return integer("num_images_per_prompt", value, 1, MOST_PER_PROMPT)


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    try:
        number = float(value) if not isinstance(value, bool) and isinstance(value, numbers.Real) else math.nan
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}; expected a finite number")
    if not low <= number <= high:
        raise ValueError(f"{name} is {value}; expected a number from {low:g} to {high:g}")
    return number
