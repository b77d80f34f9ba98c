"""A folder of pairs as `pydiff.tools.pairs` leaves it, drawn instead of made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pydiff.embedded.world import Group, Scene, draw, place_things
from pydiff.images import write_png
from pydiff.weights import write_json


def scene(colour: str) -> Scene:
    return Scene((Group(1, colour, "circle"),), None, "on the left", "white", True)


def draw_pairs(folder: Path, size: int) -> None:
    """Two pairs: a red circle at the left, which becomes green, or black."""
    folder.mkdir(exist_ok=True)
    things = place_things(scene("red"), np.random.default_rng(0))
    said = []
    for index, colour in enumerate(("green", "black")):
        names = {"source": f"{index}-source.png", "target": f"{index}-target.png"}
        for name, shown in (("source", "red"), ("target", colour)):
            recoloured = tuple(thing._replace(colour=shown) for thing in things)
            write_png(folder / names[name], Image.fromarray(draw(scene(shown), recoloured, size)), None)
        told = {"instruction": f"make it {colour}", "back": f"make the {colour} circle red"}
        change = {"before": scene("red"), "after": scene(colour), "changed": 0}
        said.append({**names, **told, "change": change})
    write_json(folder / "000000.json", {"pairs": said})
