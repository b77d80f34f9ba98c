"""A gallery: a few prompts, four seeds each, on one sheet. `python examples/gallery.py SHEET.png`"""

from __future__ import annotations

import sys
from pathlib import Path

import pydiff
from pydiff.images import contact_sheet

PROMPTS = [
    "a red circle left of a blue square on a white background",
    "a large yellow star above a small purple ring on a black background",
    "three green triangles on a pink background",
    "two orange squares below a black cross on a gray background",
]
SEEDS = [1, 2, 3, 4]


def main(path: Path) -> None:
    pipe = pydiff.load()
    rows = [pipe.generate([prompt] * len(SEEDS), seed=SEEDS, size=256).images for prompt in PROMPTS]
    contact_sheet(rows, PROMPTS, cell=192).save(path)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "gallery.png"))
