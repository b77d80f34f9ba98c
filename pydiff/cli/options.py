"""What sub-commands have in common: which model, how to sample, and where to write."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydiff.pipeline import Pipeline

# Arguments of tasks, by what says them on the command line; each command has some of these.
SAID = {
    "negative_prompt": "negative",
    "num_images_per_prompt": "n",
    "seed": "seed",
    "size": "size",
    "height": "height",
    "width": "width",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "guidance_interval": "guidance_interval",
    "low_memory": "low_memory",
    "cache_steps": "cache_steps",
    "merge_tokens": "merge_tokens",
    "sampler": "sampler",
    "capture": "heat",
}
FROM_PICTURES = (  # tasks whose settings do not hold all that they began from
    *("image_to_image", "inpaint", "outpaint", "instruct", "restore", "upscale", "variations", "reconstruct"),
)


def add_common(command: argparse.ArgumentParser, sheet: str, default: str = "from the prompt") -> None:
    """What every command has. sheet: what it shows; default: how a picture is named that is given no name."""
    _add_sampling(command)
    add_model(command)
    _add_output(command, sheet, default)


def add_count(command: argparse.ArgumentParser) -> None:
    """Several pictures of one call."""
    command.add_argument("-n", type=int, default=1, metavar="N", help="how many pictures (seeds S, S+1, ...)")


def _add_sampling(command: argparse.ArgumentParser) -> None:
    """How to sample, whatever the task."""
    command.add_argument("--seed", type=int, metavar="S", help="an integer; the same seed makes the same picture")
    command.add_argument("--steps", type=int, metavar="N", help="steps of the first stage")
    command.add_argument("--sampler", metavar="NAME", help="ddpm, ddim, pndm, euler, euler_ancestral, dpmpp_2m, ...")
    command.add_argument(
        "--cache-steps",
        type=int,
        metavar="N",
        help="run the whole network at every N-th step only: faster, and not quite the same picture",
    )
    command.add_argument(
        "--merge-tokens",
        type=float,
        metavar="SHARE",
        help="merge this share of the pixels, below 0.75, where they attend: faster, not quite the same, not in edits",
    )
    command.add_argument(
        "--low-memory", action="store_true", default=None, help="one branch of one picture at a time; the same picture"
    )


def add_words(command: argparse.ArgumentParser, size: str) -> None:
    """How to follow words, in which of a cascade's sizes. size: what that is by default."""
    command.add_argument(
        "--size", type=int, metavar="PIXELS", help=f"side of the picture; of the shipped model 64, 256 or 1024 ({size})"
    )
    command.add_argument(
        *("--guidance", "--guidance-scale"),
        type=float,
        metavar="SCALE",
        help="how closely to follow the words; 1 is plainly",
    )
    command.add_argument(
        "--guidance-interval",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="guide only at noise between these, 0 none to 1 all: faster, and not quite the same picture",
    )
    command.add_argument("--negative", "--negative-prompt", metavar="PROMPT", help="what to steer away from")
    command.add_argument(
        "--heat", action="append", metavar="WORD", help="also write NAME-heat.png: where this word of the prompt looked"
    )


def add_from_noise(command: argparse.ArgumentParser) -> None:
    """What pictures have that begin from words and noise alone: also sides, and settings that say all of them."""
    add_words(command, "by default 256")
    command.add_argument("--height", type=int, metavar="PIXELS", help="of the picture, where it is not the model's own")
    command.add_argument("--width", type=int, metavar="PIXELS", help="of the picture, where it is not the model's own")
    command.add_argument("--from", dest="repeat", type=Path, metavar="PNG", help="repeat a picture that pydiff wrote")


def add_model(command: argparse.ArgumentParser) -> None:
    """Which model."""
    command.add_argument(
        "--model", action="append", metavar="MODEL", help="a folder, .safetensors file or hub id; one per stage"
    )
    command.add_argument("--tokenizer", metavar="DIR", help="a folder with CLIP's, for a .safetensors file")
    command.add_argument("--variant", metavar="NAME", help="fp16 and the like, of the files to read")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the networks (float32)")
    command.add_argument("--int8", action="store_true", default=None, help="products of bytes, an approximation")
    command.add_argument("--device", metavar="NAME", help="cpu (default), cuda, cuda:1, ...")
    command.add_argument(
        "--compile", metavar="MODE", help="networks by torch.compile, once for every size: default, max-autotune, ..."
    )
    command.add_argument("--provider", metavar="NAME", help="of an exported folder: cpu (default), cuda or tensorrt")


def _add_output(command: argparse.ArgumentParser, sheet: str, default: str) -> None:
    """Where to write, and what beside the pictures."""
    command.add_argument("-o", "--output", type=Path, metavar="PNG", help=f"where to write (default: {default})")
    command.add_argument("--sheet", type=Path, metavar="PNG", help=sheet)
    command.add_argument("--no-metadata", action="store_true", help="write PNGs without their settings")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def open_model(
    arguments: argparse.Namespace, default: str | None = None, provider: str | None = None, ahead: bool = False
) -> Pipeline:
    """The model that is named, or else the default one. provider: where none is named; ahead: see `load`."""
    from pydiff.pipeline import load

    named = arguments.model or default
    return load(
        named[0] if isinstance(named, list) and len(named) == 1 else named,  # one that pydiff carries has one name
        dtype=arguments.dtype,
        device=arguments.device,
        variant=arguments.variant,
        tokenizer=arguments.tokenizer,
        provider=arguments.provider or provider,
        ahead=ahead,
        int8=bool(arguments.int8),
        compile=arguments.compile or False,
    )


def call_of(
    arguments: argparse.Namespace, task: str, own: dict[str, Any], repeated: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments of a task: a picture's settings when --from is given, over them what the command line says.
    own: those of the task alone, None for what was not said; repeated: which settings only this task takes."""
    given = vars(arguments)
    call = _repeated(arguments, task, repeated) if given.get("repeat") else {}
    call |= {name: value for name, value in own.items() if value is not None}
    for name, said in SAID.items():
        value = given.get(said)
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
    if settings.get("task") in FROM_PICTURES or "inversion" in settings:
        why = "it began from another picture, which its settings do not hold; give that one to its task again"
        raise ValueError(f"{arguments.repeat} was not made by {task} (its task is {settings.get('task')!r}): {why}")
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


def output_paths(arguments: argparse.Namespace, name: str, count: int, given: Iterable[Path] = ()) -> list[Path]:
    """One path per picture, by default of this name; ValueError where one cannot be written or is one of `given`."""
    from pydiff.weights.files import check_png_path

    if count < 1:
        raise ValueError(f"-n is {count}; expected at least 1")
    path = arguments.output or Path(f"{name}.png")
    check_png_path(path)
    paths = [path]
    if count > 1:
        paths = [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count + 1)]
    targets = [*paths, *(map(heat_path, paths) if vars(arguments).get("heat") else ())]
    targets += [arguments.sheet] if arguments.sheet else []
    inputs = {one.resolve() for one in given}
    for target in targets:
        check_png_path(target)
        if target.resolve() in inputs:
            raise ValueError(f"the output {target} is a picture that is given; choose another name")
    if len(set(targets)) < len(targets):
        raise ValueError(f"{arguments.sheet} is to be both a picture and the sheet; give two names")
    return paths


def name_of(text: str) -> str:
    """A file's name from what a picture shows."""
    words = "".join(c if c.isalnum() else "-" for c in text.lower()).split("-")
    return "-".join(filter(None, words))[:60] or "picture"


def heat_path(path: Path) -> Path:
    """Where the heat of the picture at `path` is written."""
    return path.with_name(f"{path.stem}-heat{path.suffix}")
