"""`pydiff export`: a model as a folder that runs without torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DTYPES = ("float32", "float16", "int8")
EXAMPLES = """\
  pydiff export shapes
  pydiff generate "a red circle" --model shapes
  pydiff export smaller --model stable-diffusion-v1-5 --dtype float16"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "export",
        help="write a model as a folder that runs without torch",
        description="Write a model as a folder of ONNX graphs that `--model` and pydiff.load open without torch. All "
        "graphs and a run of every stage are compared with torch before the folder appears.",
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("folder", type=Path, metavar="DIR", help="where to write; a folder that is new or empty")
    command.add_argument("--model", action="append", metavar="MODEL", help="a folder, file or hub id; one per stage")
    command.add_argument("--variant", metavar="NAME", help="fp16 and the like, of the files to read")
    command.add_argument(
        "--tokenizer", metavar="DIR", help="for a single file: CLIP's tokenizer, or a pipeline with it"
    )
    command.add_argument("--prediction-type", metavar="NAME", help="for a single file: epsilon or v_prediction")
    command.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the weights (float32)")
    command.add_argument("-q", "--quiet", action="store_true", help="say nothing of what is done")


def run(arguments: argparse.Namespace) -> int:
    from pydiff.export.model import PARITY, export

    named = arguments.model
    made = export(
        named[0] if named is not None and len(named) == 1 else named,
        arguments.folder,
        dtype=arguments.dtype,
        variant=arguments.variant,
        tokenizer=arguments.tokenizer,
        prediction_type=arguments.prediction_type,
        tell=(lambda line: None) if arguments.quiet else _tell,
    )
    print(summary(json.loads((made / PARITY).read_text())["checks"]))
    print(made)
    return 0


def summary(checks: Sequence[Mapping[str, Any]]) -> str:
    """What came out of the comparisons with torch, in a line."""
    bounded = [check for check in checks if check["bound"] is not None]
    nearest = max(bounded, key=lambda check: check["error"] / check["bound"])
    return (
        f"{len(checks)} comparisons with torch, all of the {len(bounded)} with a bound within it; nearest to it is the "
        f"{nearest['what']} of {nearest['stage']}, with {nearest['error']:.2g} of {nearest['bound']:g}"
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
