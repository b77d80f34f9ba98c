"""What sub-commands have in common: which model, how to sample, and where to write."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydiff.pipeline import Pipeline
    from pydiff.tasks.run import Result


def add_sampling(command: argparse.ArgumentParser) -> None:
    """How to sample."""
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


def add_model(command: argparse.ArgumentParser) -> None:
    """Which model."""
    command.add_argument(
        "--model", action="append", metavar="MODEL", help="a folder, .safetensors file or hub id; one per stage"
    )
    command.add_argument("--tokenizer", metavar="DIR", help="a folder with CLIP's, for a .safetensors file")
    command.add_argument("--variant", metavar="NAME", help="fp16 and the like, of the files to read")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    command.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:1, ...")


def add_output(command: argparse.ArgumentParser, sheet: str) -> None:
    """Where to write, and what beside the pictures."""
    command.add_argument("-o", "--output", type=Path, metavar="PNG", help="where to write (default: from the prompt)")
    command.add_argument("--sheet", type=Path, metavar="PNG", help=sheet)
    command.add_argument(
        "--heat", action="append", metavar="WORD", help="also write NAME-heat.png: where this word of the prompt looked"
    )
    command.add_argument("--from", dest="repeat", type=Path, metavar="PNG", help="repeat a picture that pydiff wrote")
    command.add_argument("--no-metadata", action="store_true", help="write PNGs without their settings")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def open_model(arguments: argparse.Namespace) -> Pipeline:
    import torch

    from pydiff.pipeline import load

    return load(
        arguments.model,
        dtype=getattr(torch, arguments.dtype),
        device=arguments.device,
        variant=arguments.variant,
        tokenizer=arguments.tokenizer,
    )


def call_of(
    arguments: argparse.Namespace, task: str, own: dict[str, Any], repeated: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments of a task: a picture's settings when --from is given, over them what the command line says.
    own: those of the task alone, None for what was not said; repeated: which settings only this task takes."""
    call = _repeated(arguments, task, repeated) if arguments.repeat else {}
    said = {
        "negative_prompt": arguments.negative,
        "seed": arguments.seed,
        "size": arguments.size,
        "height": arguments.height,
        "width": arguments.width,
        "num_inference_steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "sampler": arguments.sampler,
        "capture": arguments.heat,
    }
    call |= {name: value for name, value in own.items() if value is not None}
    for name, value in said.items():
        if value is not None:
            first = isinstance(call.get(name), list)  # a picture's settings list one value per stage
            call[name] = [value, *call[name][1:]] if first else value
    return call


def _repeated(arguments: argparse.Namespace, task: str, own: Collection[str]) -> dict[str, Any]:
    """The arguments of a task from a picture's settings."""
    from pydiff.images import read_settings
    from pydiff.pipeline import EMBEDDED_NAME
    from pydiff.tasks.plan import Options
    from pydiff.tasks.run import REPEATED

    settings = read_settings(arguments.repeat)
    if settings.get("task") != task or not isinstance(settings.get("prompt"), str | None):
        raise ValueError(f"{arguments.repeat} was not made by {task} (its task is {settings.get('task')!r})")
    if settings.get("seed") is None and arguments.seed is None:
        raise ValueError(f"{arguments.repeat} was made without a seed, so nothing can repeat it; give --seed")
    if settings.get("model") != EMBEDDED_NAME and not arguments.model:
        raise ValueError(f"{arguments.repeat} was made by the model {settings.get('model')!r}; give it with --model")
    call = {name: value for name, value in settings.items() if name in (*REPEATED, *own)}
    if arguments.size not in (None, call.get("size")):  # other stages will run: keep what was said of the first
        for name in [name for name in Options.__dataclass_fields__ if isinstance(call.get(name), list) and call[name]]:
            call[name] = call[name][0]
        call = {name: value for name, value in call.items() if name not in ("height", "width")}
    return call


def output_paths(arguments: argparse.Namespace, prompt: str, count: int) -> list[Path]:
    """One path per picture; ValueError where one cannot be written."""
    from pydiff.images import check_png_path

    words = "".join(c if c.isalnum() else "-" for c in prompt.lower()).strip("-")
    path = arguments.output or Path(f"{'-'.join(filter(None, words.split('-')))[:60] or 'picture'}.png")
    check_png_path(path)
    paths = [path]
    if count > 1:
        paths = [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count + 1)]
    targets = [*paths, *(map(_heat_path, paths) if arguments.heat else ())]
    targets += [arguments.sheet] if arguments.sheet else []
    for target in targets:
        check_png_path(target)
    if len(set(targets)) < len(targets):
        raise ValueError(f"{arguments.sheet} is to be both a picture and the sheet; give two names")
    return paths


def write_pictures(arguments: argparse.Namespace, result: Result, pictures: dict[Path, int]) -> None:
    """Write pictures of a result by their number in it, and their heat where it was asked for; say where."""
    from pydiff.images import write_png

    for path, index in pictures.items():
        write_png(path, result.images[index], None if arguments.no_metadata else result.settings[index])
        print(path)
        if arguments.heat:
            write_png(_heat_path(path), result.heat.strip(index), None)
            print(_heat_path(path))


def _heat_path(path: Path) -> Path:
    """Where the heat of the picture at `path` is written."""
    return path.with_name(f"{path.stem}-heat{path.suffix}")


def write_sheet(path: Path, rows: Sequence[Sequence[Any]], captions: Sequence[str]) -> None:
    """Write rows of pictures with a caption under each."""
    from pydiff.images import contact_sheet, write_png

    write_png(path, contact_sheet(rows, captions), None)
    print(path)
