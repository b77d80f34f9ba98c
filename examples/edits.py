"""A picture, edits of it by editing its prompt, and where its words looked. `python examples/edits.py SHEET.png`"""

from __future__ import annotations

import sys
from pathlib import Path

import pydiff
from pydiff.images import contact_sheet

SOURCE = "a red circle left of a blue square on a white background"
TARGETS = [
    "a green circle left of a blue square on a white background",
    "a red star left of a blue square on a white background",
    "a red circle left of a pink square on a white background",
]
WORDS = ["circle", "square", "left", "background"]
SEED = 7


def main(path: Path) -> None:
    made = pydiff.load().edit(SOURCE, TARGETS, seed=SEED, size=256, capture=WORDS)
    heat = [made.heat.overlay(word) for word in WORDS]
    changed = ["green for red", "star for circle", "pink for blue"]
    contact_sheet([made.images, heat], [f"{SOURCE}; {', '.join(changed)}", f"where {', '.join(WORDS)} look"]).save(path)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "edits.png"))
