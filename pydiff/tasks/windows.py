"""Pictures larger than a stage was trained at, in overlapping windows of its own size (MultiDiffusion)."""

from __future__ import annotations

import dataclasses

from pydiff.cascade import StagePlan
from pydiff.diffusion.windows import Windows, make_windows
from pydiff.tasks.layers import attending
from pydiff.tasks.run import Request

MOST_OVERLAP = 0.9


def windowed(wanted: Request, overlap: float) -> Request:
    """The same, its large stages in windows; overlap: the share of a window's side that the next one shares, in
    [0, MOST_OVERLAP]. Raises ValueError for a call that does to attention what only a whole picture lets it do."""
    plans = tuple(plan._replace(windows=_windows(plan, overlap)) for plan in wanted.plans)
    for index, plan in enumerate(plans):
        if plan.windows is None:
            continue
        given = "capture is given" if wanted.changes and index == 0 else ""
        given = f"pag_scale is {plan.said['pag_scale']}" if plan.perturbed is not None else given
        if given:
            (height, width), (high, wide) = plan.size, plan.windows.size
            at = plan.stage.factor
            raise ValueError(
                f"{given}, but a stage of {width}x{height} pixels is run in windows of {wide * at}x{high * at}, and "
                "attention reaches no further than each; leave it out"
            )
    return dataclasses.replace(wanted, plans=plans)


def _windows(plan: StagePlan, overlap: float) -> Windows | None:
    """None where all of x is seen at once: it is no larger than the stage's own, or no pixel attends to others, so that
    the network is as good at every size."""
    stage = plan.stage
    if not attending(stage.unet, "pixels"):
        return None
    return make_windows(stage.shape(plan.size)[1:], stage.shape(stage.size)[1:], overlap)
