"""`pydiff generate`: pictures of a prompt."""

from __future__ import annotations

import argparse
from typing import Any

from pydiff.cli.frame import carry_out
from pydiff.cli.options import add_common, add_count, add_from_noise, call_of, name_of, output_paths

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
    add_count(command)
    add_from_noise(command)
    add_common(command, "also write a contact sheet of all stages")


def run(arguments: argparse.Namespace) -> int:
    call = call_of(arguments, "generate", {"prompt": arguments.prompt})
    if "prompt" not in call:
        raise ValueError("no prompt; give one in quotes, or --from a picture that pydiff wrote")
    paths = output_paths(arguments, name_of(call["prompt"] or ""), arguments.n)
    return carry_out(arguments, "generate", call, paths)
