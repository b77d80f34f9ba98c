"""What a field of a network's configuration may hold: a predicate, and words for what it accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Rule = tuple[Callable[[Any], bool], str]

MOST_LAYERS, MOST_CHANNELS = 128, 1 << 20  # a config asks for no more work than a network could need


def whole(low: int, high: int) -> Rule:
    """An int from low to high."""
    return lambda value: type(value) is int and low <= value <= high, f"an int from {low} to {high}"


def one_of(*values: Any) -> Rule:
    """One of these values, of the same type: 0 is not False."""
    names = " or ".join("null" if value is None else repr(value) for value in values)
    return lambda value: any(
        type(value) is type(v) and value == v for v in values
    ), f"{names}; nothing else is supported"


def optional(rule: Rule) -> Rule:
    """What rule accepts, or None."""
    return lambda value: value is None or rule[0](value), f"{rule[1]}, or null"


def per_level(rule: Rule) -> Rule:
    """What rule accepts, or a tuple of it."""
    accepts, expected = rule
    return (
        lambda value: all(map(accepts, value)) if isinstance(value, tuple) else accepts(value),
        f"{expected}, or one per level",
    )


def tuple_of(rule: Rule) -> Rule:
    """A tuple of what rule accepts, not empty."""
    return lambda value: isinstance(value, tuple) and len(value) > 0 and all(map(rule[0], value)), f"a list: {rule[1]}"


def named(names: Iterable[str]) -> Rule:
    """One of these names."""
    known = tuple(names)
    return lambda value: isinstance(value, str) and value in known, f"one of {', '.join(known)}"


def divides(name: str, divisor: int, of: str, value: int) -> None:
    """Raise ValueError unless divisor divides value."""
    if value % divisor:
        raise ValueError(f"{name} is {divisor}, which does not divide {value} ({of})")


COUNT = (whole(1, MOST_CHANNELS)[0], "a positive int")
LAYERS = whole(1, MOST_LAYERS)
BOOL: Rule = (lambda value: type(value) is bool, "true or false")
FACTOR: Rule = (lambda value: type(value) in (int, float) and 0 < value < 1e9, "a positive number")
KERNEL: Rule = (lambda value: type(value) is int and 1 <= value <= 31 and value % 2 == 1, "an odd int")
