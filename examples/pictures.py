"""What begins from a picture: a hole is filled, more is drawn around it, grays get colours, an instruction is followed.

`python examples/pictures.py SHEET.png`
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

import pydiff
from pydiff.images import contact_sheet

SOURCE = "a red circle left of a blue square on a white background"
FILLED = "a red circle left of a yellow ring on a white background"
RING = "an orange ring on a blue background"
AROUND = "a blue background"
INSTRUCTION = "make the blue square green"
HOLE = (144, 72, 240, 184)  # left, top, right and bottom, of 256 pixels
SEED = 7


def main(path: Path) -> None:
    pipe, painter, follower = (pydiff.load(name) for name in (None, "pydiff-palette", "pydiff-instruct"))
    small, large = (stage[0] for stage in pipe.generate(SOURCE, seed=SEED, size=256).stages)
    ring = pipe.generate(RING, seed=SEED, size=64).images[0]
    mask = Image.new("L", large.size)
    mask.paste(255, HOLE)
    hole = large.copy()
    hole.paste("gray", HOLE)
    made = [
        hole,
        pipe.inpaint(large, mask, FILLED, seed=SEED).images[0],
        ring,
        pipe.outpaint(ring, AROUND, left=24, right=24, top=24, bottom=24, guidance_scale=1.5, seed=SEED).images[0],
        painter.restore(small.convert("L"), "colorize", seed=SEED).images[0],
        follower.instruct(large, INSTRUCTION, seed=SEED).images[0],
    ]
    caption = f'a hole; filled with "{FILLED}"; a picture; more around it; coloured from gray; "{INSTRUCTION}"'
    contact_sheet([made], [caption]).save(path)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "pictures.png"))
