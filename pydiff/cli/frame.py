"""What every sub-command does with a task: load, run, write, and say where."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydiff.cli.engine import run_task
from pydiff.cli.options import heat_path
from pydiff.cli.progress import Progress

if TYPE_CHECKING:
    from pydiff.tasks.run import Result

Sheet = tuple[Sequence[Sequence[Any]], Sequence[str]]  # rows of pictures, and a caption under each


def stages_sheet(result: Result) -> Sheet:
    """A row per picture: all stages of it."""
    captions = [f"{settings['prompt'] or ''}  (seed {settings['seed']})" for settings in result.settings]
    return list(zip(*result.stages, strict=True)), captions


def carry_out(
    arguments: argparse.Namespace,
    task: str,
    call: dict[str, Any],
    paths: Sequence[Path],
    *,
    model: str | None = None,
    first: int = 0,
    sheet: Callable[[Result], Sheet] = stages_sheet,
) -> int:
    """Run the pipeline's method `task`, and write its pictures from number `first` on to the paths, beside each its
    heat where it was asked for, and the sheet; the exit status. model: the one to load where none is named."""
    with Progress(quiet=arguments.quiet) as progress:
        result = run_task(arguments, task, {**call, "watch": progress}, model)
    from pydiff.images import contact_sheet, write_png

    for index, path in enumerate(paths, first):
        write_png(path, result.images[index], None if arguments.no_metadata else result.settings[index])
        print(path)
        if call.get("capture"):
            write_png(heat_path(path), result.heat.strip(index), None)
            print(heat_path(path))
    if arguments.sheet:
        write_png(arguments.sheet, contact_sheet(*sheet(result)), None)
        print(arguments.sheet)
    return 0
