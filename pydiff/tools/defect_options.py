"""What `python -m pydiff.tools.defects` can be told."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from pydiff.cli.options import add_model
from pydiff.tasks.inpaint import METHODS
from pydiff.tools.batch import tool_parser
from pydiff.tools.defect_kinds import KINDS, PLACES, Kind, read_kinds

DESCRIPTION = "Pictures with defects, their masks and boxes, to train inspection systems on."
NOT_SETTINGS = ("output", "shard")  # what another run that goes on may say otherwise
OPTIONS = {  # of `Pipeline.inpaint`, by what they are called here
    "class_labels": "class_label",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "sampler": "sampler",
    "negative_prompt": "negative",
    "padding_mask_crop": "crop",
}


def check(given: argparse.Namespace) -> None:
    """Raise ValueError for options that are out of range or do not fit together."""
    if given.masks is not None and (given.place is not None or given.within is not None):
        raise ValueError("--masks says where defects are; leave out --place and --within")
    if given.method == "repaint" and (given.strength is not None or given.keep is not None):
        raise ValueError("--strength and --keep are for --method blend and model; repaint always begins from noise")
    if given.keep is not None and not 0 <= given.keep <= 1:
        raise ValueError(f"--keep is {given.keep}; expected a number in [0, 1]")
    if given.strength is not None and not 0 < given.strength <= 1:
        raise ValueError(f"--strength is {given.strength}; expected a number in (0, 1]")
    for name, least in (("per_picture", 1), ("tries", 1), ("threshold", 0), ("seed", 0)):
        if getattr(given, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(given, name)}; expected at least {least}")


def kinds_of(given: argparse.Namespace) -> tuple[Kind, ...]:
    """The kinds of defects in turn. Raises ValueError for unknown ones."""
    table = KINDS if given.kinds_file is None else {**KINDS, **read_kinds(given.kinds_file)}
    usual = ["scratch", "dent", "missing"] if given.masks is None and given.place is None else ["defect"]
    names = list(dict.fromkeys(given.kinds or usual))
    for name in names:
        if name not in table:
            raise ValueError(f"the kind {name!r} is unknown; expected of {', '.join(table)}")
    return tuple(table[name] if given.place is None else table[name]._replace(place=given.place) for name in names)


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    return {name: value for name, value in plain.items() if name not in NOT_SETTINGS and value is not None}


def command_of(given: argparse.Namespace) -> str:
    """What makes the same again, but for --output."""
    usual = vars(make_parser().parse_args([".", "-o", "."]))
    words = ["python", "-m", "pydiff.tools.defects", str(given.clean)]
    for name, value in settings_of(given).items():
        if name != "clean" and value != usual[name]:
            flag = "--" + name.replace("_", "-")
            values = value if isinstance(value, list) else [value]
            words += [flag, *map(str, values)] if name == "kinds" else [w for one in values for w in (flag, str(one))]
    return shlex.join(words)


def make_parser() -> argparse.ArgumentParser:
    parser = tool_parser("defects", DESCRIPTION)
    add = parser.add_argument
    add("clean", type=Path, metavar="CLEAN-DIR", help="a folder of pictures without defects")
    add("-o", "--output", type=Path, required=True, help="the folder to write into, or to go on in")
    add_model(parser)
    add("--masks", type=Path, metavar="DIR", help="where defects are: a mask of its name for every picture")
    add("--within", type=Path, metavar="DIR", help="where the objects are, likewise (default: all but the background)")
    add("--place", choices=PLACES, help="how defects are placed, for all kinds")
    add("--kinds", nargs="+", metavar="KIND", help=f"in turn, of {', '.join(KINDS)} (default: the first three)")
    add("--kinds-file", type=Path, metavar="JSON", help="other kinds, a row of a table each")
    add("--prompt", metavar="TEXT", help="what the model is told; {kind} in it stands for the kind")
    add("--negative", metavar="TEXT", help="what to steer away from")
    add("--class-label", type=int, metavar="N", help="of a model that knows classes")
    add("--method", choices=METHODS, help="of filling (default: model where it knows of holes, else blend)")
    add("--strength", type=float, metavar="S", help="in (0, 1], how far back to noise (default: each kind's own)")
    add("--keep", type=float, metavar="K", help="in [0, 1], how much of what was painted stays (default: likewise)")
    add("--steps", type=int, metavar="N")
    add("--guidance", type=float, metavar="SCALE", help="how closely to follow the prompt")
    add("--sampler", metavar="NAME")
    add(
        "--size", type=int, metavar="PIXELS", help="of the last stage of a cascade that runs (default: as pictures are)"
    )
    add("--crop", type=int, metavar="PX", help="run only the hole and so much around it, at the model's own size")
    add("--feather", type=int, metavar="PX", help="fade-in at the hole's edge (default: 1 per 64 pixels of the side)")
    add("--per-picture", type=int, default=1, metavar="N", help="defects of each picture, one a copy (default 1)")
    add("--seed", type=int, default=0, metavar="S")
    add("--tries", type=int, default=5, metavar="N", help="for a defect that cannot be seen (default 5)")
    add("--threshold", type=int, default=24, metavar="N", help="levels of 255 that are a visible change (default 24)")
    add("--shard", default="0/1", metavar="I/N", help="do part I of N of the pictures (default 0/1)")
    return parser
