"""The command `pydiff`: one sub-command per task."""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydiff._version import __version__

if TYPE_CHECKING:
    from pydiff.cascade import State
    from pydiff.tasks.run import Result

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT

EXAMPLES = """\
examples:
  pydiff generate "a red circle left of a blue square on a white background" --seed 7 -o circle.png
  pydiff generate "three green stars" -n 4 --size 1024 --sheet stars.png
  pydiff generate --from circle.png -o again.png
  pydiff generate --model stable-diffusion-v1-5 "a cat on a table" --steps 20 -o cat.png
"""


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
        "--size", type=int, metavar="PIXELS", help="side of the picture; of the shipped model 64, 256 (default) or 1024"
    )
    command.add_argument("--steps", type=int, metavar="N", help="steps of the first stage")
    command.add_argument(
        "--guidance", type=float, metavar="SCALE", help="how closely to follow the words; 1 is plainly"
    )
    command.add_argument("--negative", default=None, metavar="PROMPT", help="what to steer away from")
    command.add_argument("--sampler", metavar="NAME", help="ddpm, ddim, pndm, euler, euler_ancestral, dpmpp_2m, ...")
    command.add_argument("--height", type=int, metavar="PIXELS", help="of the picture, where it is not the model's own")
    command.add_argument("--width", type=int, metavar="PIXELS", help="of the picture, where it is not the model's own")
    command.add_argument(
        "--model", action="append", metavar="MODEL", help="a folder, .safetensors file or hub id; one per stage"
    )
    command.add_argument("--tokenizer", metavar="DIR", help="a folder with CLIP's, for a .safetensors file")
    command.add_argument("--variant", metavar="NAME", help="fp16 and the like, of the files to read")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    command.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:1, ...")
    command.add_argument("--sheet", type=Path, metavar="PNG", help="also write a contact sheet of all stages")
    command.add_argument("--from", dest="source", type=Path, metavar="PNG", help="repeat a picture that pydiff wrote")
    command.add_argument("--no-metadata", action="store_true", help="write PNGs without their settings")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def run_generate(arguments: argparse.Namespace) -> int:
    call = _call_of(arguments)
    paths = _output_paths(arguments, call["prompt"] or "")
    import torch

    from pydiff.pipeline import load

    pipe = load(
        arguments.model,
        dtype=getattr(torch, arguments.dtype),
        device=arguments.device,
        variant=arguments.variant,
        tokenizer=arguments.tokenizer,
    )
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
    call = _repeated(arguments) if arguments.source else {}
    if arguments.n < 1:
        raise ValueError(f"-n is {arguments.n}; expected at least 1")
    said = {
        "prompt": arguments.prompt,
        "negative_prompt": arguments.negative,
        "seed": arguments.seed,
        "size": arguments.size,
        "height": arguments.height,
        "width": arguments.width,
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


def _repeated(arguments: argparse.Namespace) -> dict[str, Any]:
    """generate()'s arguments from a picture's settings."""
    from pydiff.images import read_settings
    from pydiff.pipeline import EMBEDDED_NAME
    from pydiff.tasks.plan import Options
    from pydiff.tasks.run import REPEATED

    settings = read_settings(arguments.source)
    if settings.get("task") != "generate" or not isinstance(settings.get("prompt"), str | None):
        raise ValueError(f"{arguments.source} was not made by generate (its task is {settings.get('task')!r})")
    if settings.get("seed") is None and arguments.seed is None:
        raise ValueError(f"{arguments.source} was made without a seed, so nothing can repeat it; give --seed")
    if settings.get("model") != EMBEDDED_NAME and not arguments.model:
        raise ValueError(f"{arguments.source} was made by the model {settings.get('model')!r}; give it with --model")
    call = {name: value for name, value in settings.items() if name in REPEATED}
    if arguments.size not in (None, call.get("size")):  # other stages will run: keep what was said of the first
        for name in [name for name in Options.__dataclass_fields__ if isinstance(call.get(name), list) and call[name]]:
            call[name] = call[name][0]
        call = {name: value for name, value in call.items() if name not in ("height", "width")}
    return call


def _output_paths(arguments: argparse.Namespace, prompt: str) -> list[Path]:
    """One path per picture; ValueError where one cannot be written."""
    from pydiff.images import check_png_path

    words = "".join(c if c.isalnum() else "-" for c in prompt.lower()).strip("-")
    path = arguments.output or Path(f"{'-'.join(filter(None, words.split('-')))[:60] or 'picture'}.png")
    check_png_path(path)
    paths = [path]
    if arguments.n > 1:
        paths = [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, arguments.n + 1)]
    targets = [*paths, arguments.sheet] if arguments.sheet else paths
    for target in targets:
        check_png_path(target)
    if len(set(targets)) < len(targets):
        raise ValueError(f"{arguments.sheet} is to be both a picture and the sheet; give two names")
    return paths


def _write(path: Path, result: Result, index: int, plain: bool) -> None:
    from pydiff.images import write_png

    write_png(path, result.images[index], None if plain else result.settings[index])


def _write_sheet(path: Path, result: Result) -> None:
    from pydiff.images import contact_sheet, write_png

    rows = list(zip(*result.stages, strict=True))
    captions = [f"{settings['prompt'] or ''}  (seed {settings['seed']})" for settings in result.settings]
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
