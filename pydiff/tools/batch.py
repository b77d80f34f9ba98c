"""Long lists of work: each item is done once, whatever happens between, and what cannot be done is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from pydiff.cli.program import BAD_INPUT, Parser, run_to_status

Item = TypeVar("Item")


class Shard(NamedTuple):
    """Part `index` of `count` parts of a list: every count-th item, so that parts can be done side by side."""

    index: int = 0  # type: ignore[assignment]  # fields here, not methods of tuple
    count: int = 1  # type: ignore[assignment]

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of "2/8", the third of eight. Raises ValueError for anything else."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(f"shard is {text!r}; expected I/N with I from 0 to N - 1, such as 0/4")
        return cls(int(index), int(count))


def work_off(
    items: Sequence[Item],
    *,
    name: Callable[[Item], str],
    done: Callable[[Item], bool],
    work: Callable[[Item], None],
    shard: Shard = Shard(),
    quiet: bool = False,
) -> int:
    """Do every item of the shard that is not done yet, with a bar on a terminal unless quiet. An item that raises
    ValueError or OSError is told on stderr, by name and reason, and the others go on. Returns how many failed."""
    mine = items[shard.index :: shard.count]
    todo = [item for item in mine if not done(item)]
    failed = 0
    with tqdm(total=len(mine), initial=len(mine) - len(todo), disable=quiet or None, file=sys.stderr) as bar:
        for item in todo:
            try:
                work(item)
            except (ValueError, OSError) as error:
                failed += 1
                bar.write(f"{name(item)}: {error}", file=sys.stderr)
            bar.update()
    return failed


def tool_parser(called: str, description: str) -> Parser:
    """That of `python -m pydiff.tools.CALLED`."""
    parser = Parser(prog=f"python -m pydiff.tools.{called}", description=description)
    parser.called = called
    return parser


def run_tool(called: str, run: Callable[[], int]) -> int:
    """Its exit status; whatever it could not read or write is bad input."""
    return run_to_status(called, run, on_interrupt="interrupted; the same command goes on", failed=BAD_INPUT)
