"""Instructions about scenes of the world, and caption pairs to make pictures for them.

`python -m pydiff.embedded.instructions --number N -o captions.jsonl` writes what `python -m pydiff.tools.pairs` takes:
per line a source caption and edits of it, each with a target caption, the instruction, the one that leads back, and for
the reader the two scenes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pydiff.embedded.captions import caption
from pydiff.embedded.judge import Change
from pydiff.embedded.world import COLOURS, OBJECT_COLOURS, SHAPES, Group, Scene, is_unseen, sample_scene
from pydiff.weights.files import write_whole

KINDS = ("colour", "shape", "object")  # what of one object changes; of "object" both
EDITS = ("colour", "colour", "colour", "shape", "shape", "object")  # of each source caption
SEED = 61_000

RECOLOUR = (
    "make the {thing} {colour}",
    "turn the {thing} {colour}",
    "paint the {thing} {colour}",
    "change the {thing} to {colour}",
    "change the color of the {thing} to {colour}",
)
REPLACE = (
    "turn the {thing} into {new}",
    "make the {thing} {new}",
    "replace the {thing} with {new}",
    "change the {thing} to {new}",
    "change the {thing} into {new}",
)


def instruction(change: Change, rng: np.random.Generator) -> str:
    """One of many ways to ask for the change of a group's colour, shape or both; it names what changes by as many words
    as it takes to tell it from the other group, or by more. Raises ValueError for a change of the background."""
    if change.changed is None:
        raise ValueError("the change is of the background; expected one of an object")
    old, new = change.before.groups[change.changed], change.after.groups[change.changed]
    words = RECOLOUR if old.shape == new.shape and rng.random() < 0.8 else REPLACE
    made = f"{new.colour} {new.shape}" if old.colour != new.colour or rng.random() < 0.3 else new.shape
    article = "an" if made[0] in "aeiou" else "a"
    chosen = words[int(rng.integers(len(words)))]
    return chosen.format(thing=_thing(change.before, change.changed, rng), colour=new.colour, new=f"{article} {made}")


def _thing(scene: Scene, index: int, rng: np.random.Generator) -> str:
    group = scene.groups[index]
    others = [one for number, one in enumerate(scene.groups) if number != index]
    unique = all(one.shape != group.shape for one in others)
    return group.shape if unique and rng.random() < 0.5 else f"{group.colour} {group.shape}"


def sample_source(rng: np.random.Generator) -> Scene:
    """A scene of one or two objects of different kinds, whose background is named."""
    while True:
        scene = sample_scene(rng)
        if len(scene.groups) <= 2 and all(group.count == 1 for group in scene.groups):
            return scene._replace(named_background=True)


def sample_change(scene: Scene, kind: str, rng: np.random.Generator) -> Change:
    """The scene with one object of another colour, of another shape, or of both."""
    while True:
        which = int(rng.integers(len(scene.groups)))
        group = scene.groups[which]
        taken = {one.colour for one in scene.groups} | {scene.background}
        colour = str(rng.choice([one for one in OBJECT_COLOURS if one not in taken]))
        shape = str(rng.choice([one for one in SHAPES if one != group.shape]))
        new = group._replace(colour=group.colour if kind == "shape" else colour)
        new = new._replace(shape=group.shape if kind == "colour" else shape)
        after = scene._replace(groups=(*scene.groups[:which], new, *scene.groups[which + 1 :]))
        kinds = {(one.colour, one.shape) for one in after.groups}
        if len(kinds) == len(after.groups) and not is_unseen(after):
            return Change(scene, after, which)


def lines(number: int) -> Iterator[dict[str, Any]]:
    """The first `number` lines of an endless list; a shorter list is the beginning of a longer one."""
    for index in range(number):
        rng = np.random.default_rng((SEED, index))
        scene, words = sample_source(rng), int(rng.integers(1 << 30))
        edits, targets = [], set[Scene]()
        for kind in EDITS:
            change = sample_change(scene, kind, rng)
            if change.after in targets:
                continue
            targets.add(change.after)
            back = Change(change.after, change.before, change.changed)
            edits.append(
                {
                    "target": _said(change.after, words),
                    "instruction": instruction(change, rng),
                    "back": instruction(back, rng),
                    "kind": kind,
                    "change": {"before": change.before, "after": change.after, "changed": change.changed},
                }
            )
        yield {"source": _said(scene, words), "edits": edits}


def instructions_of(line: Mapping[str, Any]) -> list[str]:
    """All instructions of a line, there and back."""
    return [edit[way] for edit in line["edits"] for way in ("instruction", "back")]


def _said(scene: Scene, words: int) -> str:
    return caption(scene, np.random.default_rng(words))


def change_of(said: Any) -> Change:
    """What a line's "change" holds, once it was JSON. Raises ValueError for anything else."""
    try:
        before, after, changed = _scene(said["before"]), _scene(said["after"]), said["changed"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the change {str(said)[:60]!r} is not of two scenes: {error}") from error
    count = len(before.groups)
    if len(after.groups) != count or not (changed is None or (type(changed) is int and 0 <= changed < count)):
        raise ValueError(f"the change is of group {changed!r} of {count}, which become {len(after.groups)}")
    return Change(before, after, changed)


def _scene(said: Any) -> Scene:
    groups, *others = said
    scene = Scene(tuple(Group(*group) for group in groups), *others)
    for group in scene.groups:
        if group.count != 1 or group.colour not in COLOURS or group.shape not in SHAPES:
            raise ValueError(f"{tuple(group)} is no single object of the world")
    if not scene.groups or scene.background not in COLOURS:
        raise ValueError(f"there is no object, or no background such as {scene.background!r}")
    return scene


def main() -> None:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m pydiff.embedded.instructions", description=about)
    parser.add_argument("--number", type=int, default=1000, help="source captions (default 1000)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    arguments = parser.parse_args()
    if arguments.number < 1:
        parser.error(f"--number is {arguments.number}; give 1 or more")
    text = "".join(json.dumps(line) + "\n" for line in lines(arguments.number))
    write_whole(arguments.output, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
