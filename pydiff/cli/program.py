"""What all programs here have in common: bad usage and bad input are one line on stderr, and a status."""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT


class Parser(argparse.ArgumentParser):
    """Bad usage is one line, as any other bad input. Its first word is `called`, by default the first of prog's."""

    called: str | None = None

    def error(self, message: str) -> NoReturn:
        self.exit(say(self.called or self.prog.split()[0], f"{message}; see {self.prog} --help", BAD_INPUT))


def say(called: str, message: object, status: int) -> int:
    print(f"{called}: {' '.join(str(message).split())}", file=sys.stderr)
    return status


def run_to_status(called: str, run: Callable[[], int], *, on_interrupt: str, failed: int = FAILED) -> int:
    """What `run` returns, or the status of what it raised: 2 bad input, `failed` where the system refuses, 130
    interrupted. Warnings are a line each."""

    def warn(message: Any, *_: Any, **__: Any) -> None:
        print(f"{called}: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = warn
        try:
            return run()
        except ValueError as error:
            return say(called, error, BAD_INPUT)
        except OSError as error:
            return say(called, error, failed)
        except KeyboardInterrupt:
            return say(called, on_interrupt, INTERRUPTED)
