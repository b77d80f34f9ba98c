"""Cross-frame attention (Khachatryan et al. 2023, Text2Video-Zero): in every branch the pixels of all pictures attend
to those of the first, which so lends the others its looks."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydiff.cascade import Start
from pydiff.nn.edit import AttentionEdit, PixelEdit
from pydiff.tasks.changes import first_rows, with_edit
from pydiff.tasks.layers import attending, check_open, check_unmerged
from pydiff.tasks.run import Request, settings_of
from pydiff.tasks.words import SECOND

OF_EACH = (
    "prompt",
    "negative_prompt",
    *SECOND,
    "class_labels",
    "classifier_labels",
    "seed",
)  # settings that a list gives picture by picture


def cross_frame(start: Start) -> Start:
    """The start whose rows take the keys and values of pixels from the first row of their branch."""

    def change(edit: AttentionEdit, level: int, branches: tuple[int, ...]) -> AttentionEdit:
        return edit._replace(pixel_edit=PixelEdit(first_rows(start, len(branches)), "content"))

    return with_edit(start, change)


def across_frames(wanted: Request) -> Request:
    """The request with the first stage's pictures attending to the first of them, which is as it would be alone. No
    other can be made alone: its settings ask for two pictures, the first one and then its own. Raises ValueError for a
    model in whose first stage no pixel attends to others."""
    if not attending(wanted.plans[0].stage.unet, "pixels"):
        raise ValueError(f"cross_frame is True, but in {wanted.cascade.name} no layer attends to pixels; leave it out")
    check_open(wanted.plans[0].stage.unet, "cross_frame")
    check_unmerged(wanted.plans[0].merge_tokens, "cross_frame is given")
    first = settings_of(wanted, 0)
    said: list[dict[str, Any]] = [dict(wanted.said_of[0]) if wanted.said_of else {}]
    for index in range(1, len(wanted.seeds)):
        own = settings_of(wanted, index)
        pairs = {name: [first[name], own[name]] for name in OF_EACH if own.get(name) is not None}
        said.append({"task": "cross_frame", **pairs, "cross_frame": True})
    return dataclasses.replace(wanted, changes=(*wanted.changes, cross_frame), said_of=tuple(said))
