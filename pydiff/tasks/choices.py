"""Which choices of task, condition, algorithm, thresholding and sampling a model runs, and why it refuses the others.

Nothing here knows the answers: every choice is asked of the task itself, whose request is made and checked, not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import mode
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.cascade import EXAMPLE, PLAIN, UPSCALE, Cascade
from pydiff.diffusion.samplers import SAMPLERS
from pydiff.ops.guided_step import THRESHOLDS
from pydiff.tasks.edit import edit
from pydiff.tasks.generate import generate, upscale
from pydiff.tasks.image_to_image import image_to_image
from pydiff.tasks.inpaint import inpaint
from pydiff.tasks.instruct import instruct
from pydiff.tasks.outpaint import outpaint
from pydiff.tasks.paint_by_example import paint_by_example
from pydiff.tasks.request import Call, make_call
from pydiff.tasks.restore import MASKED, restore
from pydiff.tasks.restore import TASKS as RESTORATIONS
from pydiff.tasks.run import Request
from pydiff.tasks.unclip import variations

CONDITIONS = ("none", "class", "text", "image")
SAMPLINGS: dict[str, dict[str, Any]] = {
    "reverse": {},
    "resampling": {"method": "repaint", "jump_length": 1, "jump_n_sample": 2},
}
STEPS = 4  # the fewest that every sampler takes
WORDS = ("a red circle", "a blue circle")


class Choice(NamedTuple):
    """One task and one way of sampling, "reverse" or "resampling" (RePaint).

    conditions: those of CONDITIONS that its first network can be told of; algorithms: samplers; thresholdings: those of
    THRESHOLDS. Every combination of the three runs; all are empty where the task does not run so. refused: why not, by
    what was asked for: "task", or "condition text", "algorithm pndm", "thresholding dynamic" and so on.
    """

    task: str
    sampling: str
    conditions: tuple[str, ...]
    algorithms: tuple[str, ...]
    thresholdings: tuple[str, ...]
    refused: Mapping[str, str]

    @property
    def runs(self) -> bool:
        return bool(self.conditions)


class Example(NamedTuple):
    """Of what the tasks are asked: a picture (H, W, 3) in [0, 1], and a mask (H, W), white on its right half."""

    picture: NDArray[np.float32]
    mask: NDArray[np.float32]


def _restored(kind: str, cascade: Cascade, of: Example, call: Call) -> Request:
    return restore(cascade, of.picture, kind, of.mask if kind in MASKED else None, call)


Asked = Callable[[Cascade, Example, Call], Request]
TASKS: dict[str, Asked] = {
    "generate": lambda cascade, of, call: generate(cascade, call),
    "edit": lambda cascade, of, call: edit(cascade, *WORDS, call),
    "image_to_image": lambda cascade, of, call: image_to_image(cascade, of.picture, call),
    "inpaint": lambda cascade, of, call: (
        paint_by_example(cascade, of.picture, of.mask, of.picture, call)
        if cascade.stages[0].kind == EXAMPLE
        else inpaint(cascade, of.picture, of.mask, call)
    ),
    "outpaint": lambda cascade, of, call: outpaint(cascade, of.picture, call, {"left": of.picture.shape[1]}),
    "instruct": lambda cascade, of, call: instruct(cascade, of.picture, call),
    "upscale": lambda cascade, of, call: upscale(cascade, of.picture, call),
    "variations": lambda cascade, of, call: variations(cascade, of.picture, call),
    **{f"restore {kind}": partial(_restored, kind) for kind in RESTORATIONS},
}
HOLES = ("inpaint", "outpaint")
WORDLESS = [task for task, asked in TASKS.items() if task == "variations" or isinstance(asked, partial)]


def choices(cascade: Cascade) -> list[Choice]:
    """A row for every task and way of sampling."""
    return [_choice(cascade, task, sampling) for task in TASKS for sampling in SAMPLINGS]


def example(cascade: Cascade) -> Example:
    """Of a size that the cascade's first stage takes; of a super-resolution stage, half its own."""
    first = cascade.stages[0]
    height, width = (side // 2 if first.kind == UPSCALE else side for side in first.size)
    mask = np.zeros((height, width), np.float32)
    mask[:, width // 2 :] = 1
    grays = np.linspace(0, 1, width, dtype=np.float32)
    return Example(np.broadcast_to(grays[:, None], (height, width, 3)), mask)


def arguments(cascade: Cascade, task: str, sampling: str, condition: str, **options: Any) -> dict[str, Any]:
    """Of a call with these choices: the prompt, and all others but the picture."""
    given: dict[str, Any] = {} if task in (*WORDLESS, "edit") else {"prompt": ""}
    if condition == "class":
        given["class_labels"] = 0
    elif condition == "text" and task != "edit":  # which has its words anyway
        given["prompt"] = WORDS[0]
    if sampling == "reverse" and task in HOLES and cascade.stages[0].kind == PLAIN:  # some resample unless told not to
        given["method"] = "blend"
    return {**given, **SAMPLINGS[sampling], "num_inference_steps": STEPS, **options}


def _reason(cascade: Cascade, task: str, given: Mapping[str, Any]) -> str | None:
    """Why the task refuses a call; None where it would run."""
    others = dict(given)
    prompt = "" if task in WORDLESS else others.pop("prompt", None)
    try:
        TASKS[task](cascade, example(cascade), make_call(prompt, others))
    except ValueError as error:
        return str(error)
    return None


def _choice(cascade: Cascade, task: str, sampling: str) -> Choice:
    def reason(condition: str, **options: Any) -> str | None:
        return _reason(cascade, task, arguments(cascade, task, sampling, condition, **options))

    found = {condition: reason(condition) for condition in ("none", "class", "text")}
    if all(found.values()):
        return Choice(task, sampling, (), (), (), {"task": str(mode(found.values()))})
    base = next(condition for condition, why in found.items() if why is None)
    sees = cascade.stages[0].kind != PLAIN or task in ("upscale", "variations")
    found["image"] = None if sees else f"{task} tells the network of no picture"
    if sees:
        found["none"] = "the network is always told of the picture"
    elif task == "edit":
        found["none"] = "an edit is of words"
    axes = {
        "condition": {name: found[name] for name in CONDITIONS},
        "algorithm": {name: reason(base, sampler=name) for name in SAMPLERS},
        "thresholding": {kind: reason(base, thresholding=kind) for kind in THRESHOLDS},
    }
    refused = {f"{axis} {name}": why for axis, of in axes.items() for name, why in of.items() if why is not None}
    conditions, algorithms, thresholdings = (
        tuple(name for name, why in of.items() if why is None) for of in axes.values()
    )
    return Choice(task, sampling, conditions, algorithms, thresholdings, refused)
