"""The command `pydiff`: one sub-command per task."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydiff._version import __version__

if TYPE_CHECKING:
    from pydiff.cascade import State
    from pydiff.tasks.generate import Result

BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT

EXAMPLES = """\
examples:
  pydiff generate "a red circle left of a blue square on a white background" --seed 7 -o circle.png
  pydiff generate "three green stars" -n 4 --size 1024 --sheet stars.png
  pydiff generate --from circle.png -o again.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 2 bad input, 130 interrupted."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 0
    warnings.showwarning = _warn
    try:
        status: int = arguments.run(arguments)
        return status
    except ValueError as error:
        print(f"pydiff: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\npydiff: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pydiff",
        description="Text-to-image diffusion with U-Nets. Works out of the box with a small model of simple shapes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pydiff {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_generate(commands)
    doctor = commands.add_parser("doctor", help="say what is installed, what runs natively, and what is missing")
    doctor.set_defaults(run=run_doctor)
    return parser


def _add_generate(commands: Any) -> None:
    command = commands.add_parser(
        "generate",
        help="make pictures of a prompt",
        description="Make pictures of a prompt. Written PNGs carry their settings; --from repeats one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run_generate)
    command.add_argument("prompt", nargs="?", metavar="PROMPT", help='what to show; "" is anything')
    command.add_argument("-o", "--output", type=Path, metavar="PNG", help="where to write (default: from the prompt)")
    command.add_argument("-n", type=int, default=1, metavar="N", help="how many pictures (seeds S, S+1, ...)")
    command.add_argument("--seed", type=int, metavar="S", help="an integer; the same seed makes the same picture")
    command.add_argument(
        "--size", type=int, metavar="PIXELS", help="side of the picture: 64, 256 or 1024 (default 256)"
    )
    command.add_argument("--steps", type=int, metavar="N", help="steps of the first stage")
    command.add_argument(
        "--guidance", type=float, metavar="SCALE", help="how closely to follow the words; 1 is plainly"
    )
    command.add_argument("--negative", default=None, metavar="PROMPT", help="what to steer away from")
    command.add_argument("--sampler", metavar="NAME", help="ddpm, ddim, euler, euler_ancestral, dpmpp_2m, heun, ...")
    command.add_argument("--model", type=Path, action="append", metavar="DIR", help="a folder per stage, small first")
    command.add_argument("--sheet", type=Path, metavar="PNG", help="also write a contact sheet of all stages")
    command.add_argument("--from", dest="source", type=Path, metavar="PNG", help="repeat a picture that pydiff wrote")
    command.add_argument("--no-metadata", action="store_true", help="write PNGs without their settings")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def run_generate(arguments: argparse.Namespace) -> int:
    call = _call_of(arguments)
    paths = _output_paths(arguments, call["prompt"])
    from pydiff.pipeline import load

    pipe = load(arguments.model)
    with Progress(quiet=arguments.quiet) as progress:
        result = pipe.generate(**call, num_images_per_prompt=arguments.n, watch=progress)
    for index, path in enumerate(paths):
        _write(path, result, index, arguments.no_metadata)
        print(path)
    if arguments.sheet:
        _write_sheet(arguments.sheet, result)
        print(arguments.sheet)
    return 0


def _call_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """generate()'s arguments: a picture's settings when --from is given, over them what the command line says."""
    call: dict[str, Any] = {}
    if arguments.source:
        from pydiff.images import read_settings
        from pydiff.tasks.generate import REPEATED

        call = {name: value for name, value in read_settings(arguments.source).items() if name in REPEATED}
        if arguments.size is not None:  # other stages will run: keep what was said of the first
            call = {name: value[0] if isinstance(value, list) else value for name, value in call.items()}
    if arguments.n < 1:
        raise ValueError(f"-n is {arguments.n}; expected at least 1")
    said = {
        "prompt": arguments.prompt,
        "negative_prompt": arguments.negative,
        "seed": arguments.seed,
        "size": arguments.size,
        "num_inference_steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "sampler": arguments.sampler,
    }
    for name, value in said.items():
        if value is not None:
            first = isinstance(call.get(name), list)  # a picture's settings list one value per stage
            call[name] = [value, *call[name][1:]] if first else value
    if "prompt" not in call:
        raise ValueError("no prompt; give one in quotes, or --from a picture that pydiff wrote")
    return call


def _output_paths(arguments: argparse.Namespace, prompt: str) -> list[Path]:
    """One path per picture, in folders that exist."""
    words = "".join(c if c.isalnum() else "-" for c in prompt.lower()).strip("-")
    path = arguments.output or Path(f"{'-'.join(filter(None, words.split('-')))[:60] or 'picture'}.png")
    if path.suffix.lower() != ".png":
        raise ValueError(f"the output {path} is no .png; pydiff writes PNG files")
    for target in filter(None, (path, arguments.sheet)):
        if not target.parent.is_dir():
            raise ValueError(f"the folder {target.parent} does not exist; make it first")
        if not os.access(target.parent, os.W_OK):
            raise ValueError(f"the folder {target.parent} cannot be written to")
        if target.is_dir():
            raise ValueError(f"the output {target} is a folder; give a file name")
    if arguments.n == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, arguments.n + 1)]


def _write(path: Path, result: Result, index: int, plain: bool) -> None:
    from pydiff.images import write_png

    write_png(path, result.images[index], None if plain else result.settings[index])


def _write_sheet(path: Path, result: Result) -> None:
    from pydiff.images import contact_sheet, write_png

    rows = list(zip(*result.stages, strict=True))
    captions = [f"{settings['prompt']}  (seed {settings['seed']})" for settings in result.settings]
    write_png(path, contact_sheet(rows, captions), None)


def run_doctor(arguments: argparse.Namespace) -> int:
    from pydiff import doctor

    print(doctor.report())
    return 0 if doctor.healthy() else 1


class Progress:
    """A bar per stage on a terminal, fed with the states of a run."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet or not sys.stderr.isatty()
        self.bar: Any = None
        self.stage = -1

    def __enter__(self) -> Progress:
        return self

    def __call__(self, state: State) -> None:
        if self.quiet:
            return
        if state.stage != self.stage:
            self.close()
            self.stage, self.bar = state.stage, self._open(state)
        self.bar.update()

    def _open(self, state: State) -> Any:
        from tqdm import tqdm

        size = f"{state.x.shape[-1]}x{state.x.shape[-2]}"
        return tqdm(
            total=state.steps, desc=f"stage {state.stage + 1}/{state.stages} {size:>9}", unit="step", leave=True
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def __exit__(self, *problem: object) -> None:
        self.close()


def _warn(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
    print(f"pydiff: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
