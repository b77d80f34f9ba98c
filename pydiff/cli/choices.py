"""`pydiff choices`: what a model runs, and why it refuses the rest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydiff.cli.options import add_model, open_model

if TYPE_CHECKING:
    from pydiff.tasks.choices import Choice


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "choices",
        help="say which tasks, samplers, thresholdings and ways of sampling a model runs",
        description="Say what a model runs of tasks, conditions, samplers, thresholdings and samplings, and why not.",
    )
    command.set_defaults(run=run)
    add_model(command)


def run(arguments: argparse.Namespace) -> int:
    print("\n".join(described(open_model(arguments).choices())))
    return 0


def described(choices: Sequence[Choice]) -> list[str]:
    """A line for what runs, then one for each reason against the rest, with all that it is against."""
    lines = []
    against: dict[str, list[str]] = {}
    for row in choices:
        if row.runs:
            parts = (", ".join(part) for part in (row.conditions, row.algorithms, row.thresholdings))
            lines.append(" | ".join((row.task, row.sampling, *parts)))
        for what, why in row.refused.items():
            axis = "" if what == "task" else f" {what}"
            against.setdefault(why.partition(";")[0], []).append(f"{row.task}, {row.sampling}{axis}")
    return [*lines, "", *(f"{why}: {' | '.join(of)}" for why, of in against.items())]
