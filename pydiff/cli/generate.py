"""`pydiff generate`: pictures of a prompt."""

from __future__ import annotations

import argparse
from typing import Any

from pydiff.cli.options import (
    add_model,
    add_output,
    add_sampling,
    call_of,
    open_model,
    output_paths,
    write_pictures,
    write_sheet,
)
from pydiff.cli.progress import Progress

EXAMPLES = """\
  pydiff generate "a red circle left of a blue square on a white background" --seed 7 -o circle.png
  pydiff generate "three green stars" -n 4 --size 1024 --sheet stars.png
  pydiff generate --from circle.png -o again.png
  pydiff generate "a red circle" --heat circle --heat red -o circle.png
  pydiff generate --model stable-diffusion-v1-5 "a cat on a table" --steps 20 -o cat.png"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "generate",
        help="make pictures of a prompt",
        description="Make pictures of a prompt. Written PNGs carry their settings; --from repeats one.",
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("prompt", nargs="?", metavar="PROMPT", help='what to show; "" is anything')
    command.add_argument("-n", type=int, default=1, metavar="N", help="how many pictures (seeds S, S+1, ...)")
    add_sampling(command)
    add_model(command)
    add_output(command, "also write a contact sheet of all stages")


def run(arguments: argparse.Namespace) -> int:
    call = call_of(arguments, "generate", {"prompt": arguments.prompt})
    if arguments.n < 1:
        raise ValueError(f"-n is {arguments.n}; expected at least 1")
    if "prompt" not in call:
        raise ValueError("no prompt; give one in quotes, or --from a picture that pydiff wrote")
    paths = output_paths(arguments, call["prompt"] or "", arguments.n)
    pipe = open_model(arguments)
    with Progress(quiet=arguments.quiet) as progress:
        result = pipe.generate(**call, num_images_per_prompt=arguments.n, watch=progress)
    write_pictures(arguments, result, {path: index for index, path in enumerate(paths)})
    if arguments.sheet:
        captions = [f"{settings['prompt'] or ''}  (seed {settings['seed']})" for settings in result.settings]
        write_sheet(arguments.sheet, list(zip(*result.stages, strict=True)), captions)
    return 0
