"""The command `pydiff`: one sub-command per task."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pydiff._version import __version__
from pydiff.cli import choices, edit, export, generate, pictures
from pydiff.cli.program import Parser, run_to_status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 0

    def run() -> int:
        status: int = arguments.run(arguments)
        return status

    return run_to_status("pydiff", run, on_interrupt="interrupted; no half-made picture was written")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="pydiff",
        description="Text-to-image diffusion with U-Nets. Works out of the box with a small model of simple shapes.",
        epilog=f"examples:\n{generate.EXAMPLES}\n{edit.EXAMPLES}\n{pictures.EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pydiff {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    generate.add_command(commands)
    edit.add_command(commands)
    pictures.add_commands(commands)
    choices.add_command(commands)
    export.add_command(commands)
    doctor = commands.add_parser("doctor", help="say what is installed, what runs natively, and what is missing")
    doctor.set_defaults(run=run_doctor)
    return parser


def run_doctor(arguments: argparse.Namespace) -> int:
    from pydiff import doctor

    print(doctor.report())
    return 0 if doctor.healthy() else 1
