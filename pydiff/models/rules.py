"""What a field of a network's configuration may hold: a predicate, and words for what it accepts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Rule = tuple[Callable[[Any], bool], str]

# A config asks for no more work than a network could need: of layers in all, of sizes of picture, of a picture's side.
MOST_LAYERS, MOST_CHANNELS, MOST_BLOCKS, MOST_LEVELS, MOST_SIDE = 128, 1 << 20, 256, 16, 1 << 14


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


def read_fields(values: Mapping[str, Any], class_name: str, known: Iterable[str]) -> dict[str, Any]:
    """The fields in the object of a config.json, lists as tuples; those that start with "_" are diffusers' own.

    Raises ValueError for another class of model and for a field that is not known.
    """
    made_by = values.get("_class_name", class_name)
    if made_by != class_name:
        raise ValueError(f"the config is of a {made_by!r}; expected a {class_name!r}")
    given = {name: value for name, value in values.items() if not str(name).startswith("_")}
    unknown = sorted(map(str, given.keys() - set(known)))
    if unknown:
        names = ", ".join(unknown)
        raise ValueError(f"unknown fields in the config of a {class_name}: {names}; remove or correct them")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def write_fields(config: Any, class_name: str) -> dict[str, Any]:
    """The object of a config.json, which diffusers opens, of a dataclass that holds its fields."""
    fields = dataclasses.asdict(config)
    return {"_class_name": class_name} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()
    }


def check_fields(config: Any, rules: Mapping[str, Rule]) -> None:
    """Raise ValueError, by name, unless every field holds what its rule accepts."""
    for name, (accepts, expected) in rules.items():
        value = getattr(config, name)
        if not accepts(value):
            raise ValueError(f"{name} is {value!r}; expected {expected}")


def check_levels(config: Any, names: Iterable[str]) -> None:
    """Raise ValueError unless these fields, where they are tuples, have one value for each of block_out_channels, of
    which there are not too many."""
    levels = len(config.block_out_channels)
    if levels > MOST_LEVELS:
        raise ValueError(f"block_out_channels has {levels} values; expected at most {MOST_LEVELS}")
    for name in names:
        value = getattr(config, name)
        if isinstance(value, tuple) and len(value) != levels:
            raise ValueError(f"{name} has {len(value)} values, block_out_channels {levels}; give one per level")


def check_blocks(count: int) -> None:
    """Raise ValueError for more residual and transformer blocks on the way down than a network could need."""
    if count > MOST_BLOCKS:
        raise ValueError(f"layers_per_block asks for {count} blocks in all; expected at most {MOST_BLOCKS}")


COUNT = (whole(1, MOST_CHANNELS)[0], f"a positive int of at most {MOST_CHANNELS}")
_SIDE = whole(1, MOST_SIDE)[0]
LAYERS = whole(1, MOST_LAYERS)
BOOL: Rule = (lambda value: type(value) is bool, "true or false")
FACTOR: Rule = (lambda value: type(value) in (int, float) and 0 < value < 1e9, "a positive number")
NUMBER: Rule = (lambda value: type(value) in (int, float) and -1e9 < value < 1e9, "a finite number")
SHIFT: Rule = (lambda value: type(value) in (int, float) and 0 <= value <= 1, "a number from 0 to 1")
DROPOUT: Rule = (lambda value: type(value) in (int, float) and 0 <= value < 1, "a number from 0 to below 1")
SIZE: Rule = (
    lambda v: v is None or _SIDE(v) or (isinstance(v, tuple) and len(v) == 2 and all(map(_SIDE, v))),
    f"a positive int of at most {MOST_SIDE}, [height, width], or null",
)
KERNEL: Rule = (lambda value: type(value) is int and 1 <= value <= 31 and value % 2 == 1, "an odd int")
