"""A folder of pairs as `pydiff.tools.pairs` leaves it, drawn instead of made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pydiff.embedded.world import Group, Scene, draw, place_things
from pydiff.images import write_png
from pydiff.weights import write_json


def scene(colour: str, shape: str) -> Scene:
    return Scene((Group(1, colour, shape),), None, "on the left", "white", True)


def draw_pairs(folder: Path, size: int) -> None:
    """Three pairs: a red circle at the left, which becomes green, or black, or a square."""
    folder.mkdir(exist_ok=True)
    source = scene("red", "circle")
    things = place_things(source, np.random.default_rng(0))
    said = []
    for index, (colour, shape) in enumerate((("green", "circle"), ("black", "circle"), ("red", "square"))):
        names = {"source": f"{index}-source.png", "target": f"{index}-target.png"}
        target = scene(colour, shape)
        for name, shown in (("source", source), ("target", target)):
            group = shown.groups[0]
            changed = tuple(thing._replace(colour=group.colour, shape=group.shape) for thing in things)
            write_png(folder / names[name], Image.fromarray(draw(shown, changed, size)), None)
        told = {"captions": ["a red circle", f"a {colour} {shape}"], "seed": 0}
        said.append({**names, **told, "change": {"before": source, "after": target, "changed": 0}})
    write_json(folder / "000000.json", {"pairs": said})
