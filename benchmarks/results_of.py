"""Results as they were written, and how their numbers are printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent / "results"
PREFIX = "cpu-"
OURS = "pydiff"  # exact engines' names begin so
NONE = "-"
Row = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Any]]


def load(home: Path = HOME) -> dict[str, Any]:
    """Every file's object, by the benchmark's name."""
    paths = sorted(home.glob(f"{PREFIX}*.json"))
    return {path.stem.removeprefix(PREFIX): json.loads(path.read_text()) for path in paths}


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table, the first columns aligned left, the others right."""
    rule = ["---"] * left + ["---:"] * (len(columns) - left)
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in (columns, rule, *rows))


def starting(result: Mapping[str, Any], title: str) -> Sequence[Row]:
    """The table whose title starts so; none where there is none."""
    found: Iterable[Sequence[Row]] = (table for name, table in result.items() if name.startswith(title))
    return next(iter(found), ())


def seconds(cell: Any) -> str:
    """A median in units that fit, three digits; a dash where nothing was measured."""
    value = middle(cell)
    if value is None:
        return NONE
    return f"{1e3 * value:.3g} ms" if value < 0.1 else f"{value:.2f} s"


def middle(cell: Any) -> float | None:
    """The median of repetitions, or the number that a cell is; None for none."""
    if isinstance(cell, Mapping):
        cell = cell["median"]
    return None if cell in ("", None) else float(cell)


def times(value: float | None) -> str:
    """A ratio."""
    return NONE if value is None else f"{value:.2f}x" if value < 10 else f"{value:.0f}x"


def share(value: Any) -> str:
    return NONE if value in ("", None) else f"{float(value):.0%}"


def between(values: Iterable[float | None]) -> str:
    """Ratios from the smallest to the largest."""
    known = [value for value in values if value is not None]
    if not known:
        return NONE
    least, most = times(min(known)), times(max(known))
    return least if least == most else f"{least} to {most}"


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)", text)]


def of(rows: Sequence[Row], **wanted: str) -> Row:
    """The first row whose columns hold these; an empty one where there is none."""
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), {})


def ours(rows: Sequence[Row], dtype: str) -> Row:
    """pydiff's fastest row of a type that is exact."""
    own = [row for row in rows if row["engine"].startswith(OURS) and row["type"] == dtype and row["s"]]
    return min(own, key=lambda row: row["s"]["median"], default={})
