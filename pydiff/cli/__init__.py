"""The command `pydiff`: one sub-command per task."""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from pydiff._version import __version__
from pydiff.cli import choices, edit, generate, pictures

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            status: int = arguments.run(arguments)
            return status
        except ValueError as error:
            return _say(error, BAD_INPUT)
        except OSError as error:
            return _say(error, FAILED)
        except KeyboardInterrupt:
            return _say("interrupted; no half-made picture was written", INTERRUPTED)


def _say(message: object, status: int) -> int:
    print(f"pydiff: {' '.join(str(message).split())}", file=sys.stderr)
    return status


class Parser(argparse.ArgumentParser):
    """Bad usage is one line, as any other bad input."""

    def error(self, message: str) -> NoReturn:
        self.exit(_say(f"{message}; see {self.prog} --help", BAD_INPUT))


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
    doctor = commands.add_parser("doctor", help="say what is installed, what runs natively, and what is missing")
    doctor.set_defaults(run=run_doctor)
    return parser


def run_doctor(arguments: argparse.Namespace) -> int:
    from pydiff import doctor

    print(doctor.report())
    return 0 if doctor.healthy() else 1


def _warn(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
    print(f"pydiff: warning: {message}", file=sys.stderr)
