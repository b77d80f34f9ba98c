"""The tasks that begin from a picture: `pydiff inpaint`, `outpaint`, `instruct`, `restore`, `upscale` and
`image-to-image`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydiff.cli.frame import Sheet, carry_out, stages_sheet
from pydiff.cli.options import add_common, add_count, add_words, call_of, name_of, output_paths

if TYPE_CHECKING:
    from PIL import Image

    from pydiff.tasks.run import Result

Arguments = Mapping[str, dict[str, Any]]  # of argparse, by name or flag
PICTURES = ("image", "mask", "example")  # arguments that are files


class Task(NamedTuple):
    """name: of the pipeline's method. says: what it does; more: what else there is to know. own: its own arguments, by
    the method's names. size: of what it makes unless said, None where it takes no size and no words. model: the one
    that does it unless another is named."""

    name: str
    says: str
    more: str
    example: str
    own: Arguments
    size: str | None = None
    model: str | None = None

    @property
    def command(self) -> str:
        return self.name.replace("_", "-")


IMAGE: Arguments = {"image": {"metavar": "IMAGE", "type": Path, "help": "a PNG, JPEG or WebP file"}}
PROMPT: Arguments = {
    "prompt": {"metavar": "PROMPT", "nargs": "?", "default": "", "help": "what the whole shows (default: anything)"}
}
STRENGTH: Arguments = {
    "--strength": {"type": float, "metavar": "S", "help": "how much of the way back to noise, in (0, 1]"}
}
FILLING: Arguments = {
    "--method": {"metavar": "NAME", "help": "repaint, blend or model; by default what suits the model"},
    "--jump-length": {"type": int, "metavar": "N", "help": "of repaint: steps that it goes back up (10)"},
    "--jump-n-sample": {"type": int, "metavar": "N", "help": "of repaint: times that it walks these steps (10)"},
    "--window-overlap": {"type": float, "metavar": "SHARE", "help": "of the windows that a large picture is seen in"},
}
INPAINT: Arguments = {
    **IMAGE,
    "mask": {"metavar": "MASK", "type": Path, "help": "of the same size: white is made, black is kept"},
    **PROMPT,
    **FILLING,
    **STRENGTH,
    "--feather": {"type": float, "metavar": "PX", "help": "fade in over so many pixels, from the hole's edge inwards"},
    "--soft-mask": {"action": "store_true", "default": None, "help": "the mask's grays are shares of what is made"},
    "--padding-mask-crop": {"type": int, "metavar": "PX", "help": "run only the hole and so many pixels around it"},
    "--example": {"type": Path, "metavar": "PICTURE", "help": "the thing to paint, for models that paint by example"},
}
OUTPAINT: Arguments = {
    **IMAGE,
    **PROMPT,
    **{f"--{side}": {"type": int, "metavar": "PX", "help": "margin to add"} for side in ("left", "right", "top")},
    "--bottom": {"type": int, "metavar": "PX", "help": "margin to add"},
    **FILLING,
}
INSTRUCT: Arguments = {
    **IMAGE,
    "prompt": {"metavar": "TEXT", "help": "what to do"},
    "--image-guidance-scale": {"type": float, "metavar": "SCALE", "help": "how closely to keep to the picture"},
}
RESTORE: Arguments = {
    **IMAGE,
    "--task": {"required": True, "metavar": "TASK", "help": "colorize, inpaint, uncrop or jpeg"},
    "--mask": {"type": Path, "metavar": "MASK", "help": "white is missing, for inpaint and uncrop"},
}
IMAGE_TO_IMAGE: Arguments = {
    **IMAGE,
    "prompt": {"metavar": "PROMPT", "help": "what it shall show"},
    **STRENGTH,
}
TASKS = (
    Task(
        "inpaint",
        "fill the white part of a mask",
        "What is black in the mask is kept to the bit.",
        'inpaint circle.png mask.png "a red circle left of a yellow ring" --seed 7 -o ring.png',
        INPAINT,
        "by default the nearest to the picture's",
    ),
    Task(
        "outpaint",
        "put a picture on a larger canvas and fill it",
        "The picture itself is kept to the bit.",
        'outpaint circle.png "a red circle" --left 64 --right 64 -o wide.png',
        OUTPAINT,
        "by default the nearest to the picture's",
    ),
    Task(
        "instruct",
        "change a picture as words say",
        "The shipped model pydiff-instruct follows some instructions about flat shapes.",
        'instruct circle.png "make the circle green" -o green.png',
        INSTRUCT,
        "by default the largest within the picture's",
        "pydiff-instruct",
    ),
    Task(
        "restore",
        "colour, fill, extend or clean a damaged picture",
        "The shipped model pydiff-palette knows flat shapes at 64x64 pixels.",
        "restore grey.png --task colorize -o colours.png",
        RESTORE,
        None,
        "pydiff-palette",
    ),
    Task(
        "upscale",
        "make a picture larger",
        "The super-resolution stages run alone.",
        "upscale circle.png --size 1024 -o large.png",
        {**IMAGE, **PROMPT},
        "by default 256",
    ),
    Task(
        "image_to_image",
        "change a picture towards a prompt",
        "It is noised part of the way, and walks back as the prompt says.",
        'image-to-image circle.png "a green circle" --strength 0.6 -o green.png',
        IMAGE_TO_IMAGE,
        "by default 256",
    ),
)
EXAMPLES = "\n".join(f"  pydiff {task.example}" for task in TASKS)


def add_commands(commands: Any) -> None:
    for task in TASKS:
        command = commands.add_parser(
            task.command,
            help=task.says,
            description=f"{task.says.capitalize()}. {task.more}",
            epilog=f"example:\n  pydiff {task.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        own = [command.add_argument(name, **how).dest for name, how in task.own.items()]
        command.set_defaults(run=partial(run, task=task, own=own))
        add_count(command)
        if task.size is not None:
            add_words(command, task.size)
        add_common(command, "also write the picture, and all stages of those made", f"IMAGE-{task.command}.png")


def run(arguments: argparse.Namespace, task: Task, own: Sequence[str]) -> int:
    from pydiff.images import open_image

    said = {name: getattr(arguments, name) for name in own}
    files = {name: said[name] for name in PICTURES if said.get(name) is not None}
    name = f"{name_of(arguments.image.stem)}-{task.command}"
    paths = output_paths(arguments, name, arguments.n, files.values())
    pictures = {name: open_image(path) for name, path in files.items()}
    call = call_of(arguments, task.name, {**said, **pictures})
    return carry_out(arguments, task.name, call, paths, model=task.model, sheet=partial(_sheet, pictures["image"]))


def _sheet(given: Image.Image, result: Result) -> Sheet:
    """The picture, and what was made of it."""
    from pydiff.images import from_user, to_pil

    rows, captions = stages_sheet(result)
    return [[*to_pil(from_user(given)), *row] for row in rows], captions
