"""Every task that an exported model runs, a few steps of each; also a program, for an interpreter without torch:

python every_task.py MODEL INSTRUCTED OUT.npz
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

import pydiff

RED, GREEN = "a red circle left of a blue square", "a green circle left of a blue square"
FAST: Mapping[str, Any] = {"seed": 7, "num_inference_steps": 3, "output_type": "np"}


def picture() -> np.ndarray:
    """(64, 64, 3) uint8: a disk."""
    rows, columns = np.mgrid[:64, :64]
    disk = (rows - 30) ** 2 + (columns - 26) ** 2 < 300
    return np.where(disk[..., None], np.uint8([230, 30, 30]), np.uint8(255))


def made_by(pipe: pydiff.Pipeline, instructed: pydiff.Pipeline) -> dict[str, np.ndarray]:
    """Pictures (B, H, W, 3) in [0, 1], and heat, by task. pipe: a cascade to 256x256; instructed: one that follows
    instructions."""
    image, mask = picture(), np.zeros((64, 64), bool)
    mask[10:40, 8:44] = True
    results: dict[str, Any] = {
        "generate": pipe.generate(RED, **{**FAST, "num_inference_steps": [3, 2]}, size=256, capture=["circle", "blue"]),
        "batch": pipe.generate([RED, "three stars"], **{**FAST, "sampler": "dpmpp_2m"}, size=64, capture=["circle"]),
        "edit": pipe.edit(RED, GREEN, **FAST, size=64, capture=["circle", "square"]),
        "blend": pipe.edit(RED, [GREEN, "a red star"], **FAST, size=64, local_blend=["circle"], reweight={"blue": 2.0}),
        "inpaint": pipe.inpaint(image, mask, "a yellow ring", **FAST, size=64),
        "image_to_image": pipe.image_to_image(image, GREEN, **FAST, size=64),
        "upscale": pipe.upscale(image, **{**FAST, "num_inference_steps": 2}),
        "instruct": instructed.instruct(image, "make the circle green", **FAST, size=64),
    }
    made = {name: np.asarray(result.images) for name, result in results.items()}
    for name in ("generate", "batch", "edit"):
        heat = results[name].heat
        made |= {f"{name} heat {word}": heat.attention(word) for word in heat}
    return made


if __name__ == "__main__":
    np.savez(sys.argv[3], **made_by(pydiff.load(sys.argv[1]), pydiff.load(sys.argv[2])))
