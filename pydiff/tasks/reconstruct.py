"""Runs that begin from a picture that was inverted: the picture again, and edits of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydiff.arrays import Array, expand
from pydiff.cascade import Cascade, Start
from pydiff.nn.cond import Cond
from pydiff.tasks.begin import Begin, Now
from pydiff.tasks.checks import is_list
from pydiff.tasks.columns import prompt_columns
from pydiff.tasks.edit import edit
from pydiff.tasks.generate import generate
from pydiff.tasks.inverted import DDIM, Inverted
from pydiff.tasks.plan import OF_ONE, Options, stages_to
from pydiff.tasks.request import Call
from pydiff.tasks.run import Request

WALK: Mapping[str, Any] = {"sampler": "ddim", "eta": 0.0, "thresholding": "none"}  # of the first stage
CHOSEN = ("guidance_scale",)  # what whoever begins from an inversion may say otherwise


def reconstruct(cascade: Cascade, inverted: Inverted, call: Call, *, size: int | None = None) -> Request:
    """The picture again; stages after the first make it larger."""
    made = partial(generate, cascade, size=size)
    call = dataclasses.replace(call, prompt=inverted.prompt)
    return _from_inverted(made, cascade, inverted, call, size)


def edit_inverted(
    cascade: Cascade, inverted: Inverted, target: str | Sequence[str] | None, call: Call, *, size: int | None = None
) -> Request:
    """The picture again, and one of every target: see `pydiff.tasks.edit`, whose source is the inverted prompt."""
    made = partial(edit, cascade, inverted.prompt, target, size=size)
    return _from_inverted(made, cascade, inverted, call, size)


def check_no_sides(**sides: Any) -> None:
    """Raise ValueError where a caller says what an inverted picture has."""
    for name in (name for name, value in sides.items() if value is not None):
        raise ValueError(f"{name} is given, but an inverted picture has its own; leave it out")


def walked(options: Mapping[str, Any], fixed: Mapping[str, Any], stages: int) -> dict[str, Any]:
    """A caller's options with those that an inversion's first stage is run with. Raises ValueError for other ones."""
    merged = dict(options)
    for name, value in fixed.items():
        given, per_stage = options.get(name), name in Options.__dataclass_fields__
        listed = per_stage and is_list(given) and not _of_one(name, given)
        first, *later = given if listed and given else [given, *[None] * (stages - 1)]
        if first is not None and first != value:
            if name not in CHOSEN:
                raise ValueError(f"{name} is {first!r}, but an inverted picture is walked with {value!r}; leave it out")
            value = first
        nested = is_list(value) and not _of_one(name, value)  # one number per noise level
        merged[name] = [value, *later] if per_stage and (listed or later or nested) else value
    return merged


def _of_one(name: str, value: Sequence[Any]) -> bool:
    """Whether a list is one stage's option, rather than one value per stage."""
    return name in OF_ONE and all(isinstance(entry, OF_ONE[name]) for entry in value)


def _from_inverted(
    make: Callable[..., Request], cascade: Cascade, inverted: Inverted, call: Call, size: int | None
) -> Request:
    """The request that `make` makes of the call, from the inverted latents and with their null prompts."""
    if inverted.model != cascade.name:
        raise ValueError(f"the inversion is of the model {inverted.model!r}, but this one is {cascade.name!r}")
    if call.negative_prompt is not None and inverted.method != DDIM:
        came = call.negative_prompt
        raise ValueError(
            f"negative_prompt is {came!r}, but {inverted.method} has null prompts of its own; leave it out"
        )
    stages = stages_to(cascade, size)
    call = dataclasses.replace(call, options=walked(call.options, {**WALK, **inverted.settings}, len(stages)))
    sides: dict[str, Any] = {}
    if len(stages) == 1:
        sides = dict(zip(("height", "width"), (n * stages[0].factor for n in inverted.latents.shape[2:]), strict=True))
    wanted = make(call=call, latents=inverted.latents, **sides)
    _check_null(inverted, wanted)
    began: Begin = partial(_with_null, begin=wanted.begins[0], inverted=inverted)
    unseeded = {"seed": None, "inversion": inverted.method}
    said = wanted.said_of or ({},) * len(wanted.seeds)
    return dataclasses.replace(
        wanted,
        begins=(began, *wanted.begins[1:]),
        said_of=tuple({**one, "task": "edit" if "source" in one else "reconstruct", **unseeded} for one in said),
    )


def _check_null(inverted: Inverted, wanted: Request) -> None:
    """Raise ValueError unless there are null states for each of this model's levels and tokens."""
    null, plan = inverted.null, wanted.plans[0]
    if null is None:
        return
    assert plan.stage.text is not None
    assert wanted.words is not None
    tokens = prompt_columns(plan.stage.text, wanted.words, wanted.guided)[0].length
    expected = (plan.table.levels, 1, tokens, plan.stage.text.width)
    if tuple(null.shape) != expected:
        raise ValueError(f"null has shape {tuple(null.shape)}; expected {expected}, as this model reads the prompts")


def _with_null(now: Now, begin: Begin, inverted: Inverted) -> Start:
    """The task's own beginning with the null branch that the inversion is for."""
    start = begin(now)
    if inverted.method == DDIM or not now.plan.guided:
        return start
    text, null, *others = start.branches
    rows = len(start.x)
    if inverted.null is None:  # negative-prompt inversion: the source's prompt is the null prompt
        null = null._replace(cond=_repeated(text.cond, rows))
    else:
        null = null._replace(texts=[expand(now.as_weights(one), rows) for one in inverted.null])
    return start._replace(branches=[text, null, *others])


def _repeated(cond: Cond, rows: int) -> Cond:
    """The first row of a conditioning, as often."""

    def first(part: Array | None) -> Array | None:
        return None if part is None else expand(part[:1], rows)

    added = cond.added and {name: expand(value[:1], rows) for name, value in cond.added.items()}
    return Cond(first(cond.text), first(cond.mask), first(cond.labels), added)
