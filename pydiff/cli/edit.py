"""`pydiff edit`: change a picture by changing its prompt."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pydiff.cli.frame import Sheet, carry_out
from pydiff.cli.options import add_common, add_from_noise, call_of, name_of, output_paths

if TYPE_CHECKING:
    from pydiff.tasks.run import Result

EXAMPLES = """\
  pydiff edit "a red circle" "a green circle" --seed 7 -o green.png --sheet both.png
  pydiff edit "a red circle and a blue square" "a red star and a blue square" --blend circle --blend star -o star.png
  pydiff edit "a large red circle" --reweight large=-1 -o smaller.png
  pydiff edit --from green.png -o again.png"""
OWN = ("method", "cross_replace", "self_replace", "reweight", "local_blend", "excluded")


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "edit",
        help="change a picture by changing its prompt",
        description="Make the picture of TARGET that is the picture of SOURCE but for the words that differ "
        "(Prompt-to-Prompt). Several targets make several pictures.",
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("source", nargs="?", metavar="SOURCE", help="the prompt of the picture as it is")
    command.add_argument("target", nargs="*", metavar="TARGET", help="its prompt as it is to be; none with --reweight")
    command.add_argument("--method", metavar="NAME", help="prompt_to_prompt (default), masactrl or plug_and_play")
    command.add_argument(
        "--cross-replace", type=float, metavar="SHARE", help="of the run in which words look where the source's do"
    )
    command.add_argument("--self-replace", type=float, metavar="SHARE", help="of the run in which pixels do")
    command.add_argument(
        "--reweight", action="append", type=_weight, metavar="WORD=W", help="multiply the attention to a word, -2 to 2"
    )
    command.add_argument(
        "--blend", dest="local_blend", action="append", metavar="WORD", help="change nothing but where this word looks"
    )
    command.add_argument("--exclude", dest="excluded", action="append", metavar="WORD", help="nor where this one does")
    add_from_noise(command)
    add_common(command, "also write the source and its edits side by side")


def _weight(text: str) -> tuple[str, float]:
    word, sign, number = text.rpartition("=")
    if not sign or not word:
        raise argparse.ArgumentTypeError(f"{text!r} is no WORD=W, such as fluffy=2")
    try:
        return word, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{number!r} in {text!r} is no number") from None


def run(arguments: argparse.Namespace) -> int:
    own = {name: getattr(arguments, name) for name in OWN}
    if own["reweight"] is not None:
        own["reweight"] = dict(own["reweight"])
    prompts = {"source": arguments.source, "prompt": arguments.target or None}
    call = call_of(arguments, "edit", {**prompts, **own}, _settings() if arguments.repeat else ())
    target = call.pop("prompt", None)
    if "source" not in call:
        raise ValueError("no prompts; give SOURCE and TARGET in quotes, or --from a picture that pydiff edit wrote")
    targets = [target] if isinstance(target, str) else target or []
    paths = output_paths(arguments, name_of((targets or [call["source"]])[0]), max(1, len(targets)))
    return carry_out(arguments, "edit", {**call, "target": targets or None}, paths, first=1, sheet=_side_by_side)


def _side_by_side(result: Result) -> Sheet:
    return [result.images], [" | ".join(str(settings["prompt"]) for settings in result.settings)]


def _settings() -> set[str]:
    """What settings hold of an edit."""
    import dataclasses

    from pydiff.tasks.edit import METHODS

    return {"source", "method", *(field.name for kind in METHODS.values() for field in dataclasses.fields(kind))}
