"""The walk through the stages of a cascade, each from the picture of the one before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydiff.arrays import Array, inference, namespace
from pydiff.cascade import Leg, StagePlan, Start, State
from pydiff.diffusion import loop
from pydiff.heat import HeatMaps
from pydiff.networks import Denoiser, foresees, laid_out
from pydiff.nn.cond import Cond, together
from pydiff.nn.edit import AttentionEdit
from pydiff.step_cache import Reusing, StepCache

ELEMENTS_PER_CALL = 1 << 23  # a network call takes as many rows as keep its widest tensor under this, at least one


def run(legs: Sequence[Leg], *, decode: bool = True) -> Iterator[State]:
    """Walk the legs, each from the picture of the one before. Without decode, the last one's latents stay latents."""
    before: Array | None = None
    heat: HeatMaps | None = None
    for index, leg in enumerate(legs):
        picture: Array | None = None
        last = index == len(legs) - 1
        walk = _walk(index, len(legs), leg, before, decode or not last)
        while (state := _next(walk, leg.plan.stage.unet.like)) is not None:
            heat = heat if state.heat is None else state.heat
            yield state._replace(heat=heat)
            picture = state.picture
            if state.done:
                return
        before = picture


def _next(walk: Iterator[State], like: Array) -> State | None:
    """The state after the next step, which is taken without gradients, where `like` is; None after the last."""
    with inference(like):
        return next(walk, None)


def _walk(index: int, stages: int, leg: Leg, before: Array | None, decode: bool) -> Iterator[State]:
    plan, start = leg.plan, leg.begin(before)
    walk = loop.sample(
        Network(plan, start),
        plan.table,
        plan.guidance,
        x=start.x,
        noise=start.noise,
        prediction_type=plan.stage.sampling.prediction_type,
        threshold=plan.threshold,
        adjust=start.adjust,
        known=start.known,
        gradient=start.gradient,
    )
    steps = len(plan.table.rows)
    for state in walk:
        if start.ended():
            steps, stages = state.index + 1, index + 1
        done, picture = state.index == steps - 1, None
        if done:
            picture = plan.decoded(state.x) if decode else state.x
            if start.finish is not None and (decode or plan.stage.codec is None):
                picture = start.finish(picture)
        denoised = start.x if state.denoised is None else state.denoised
        yield State(index, stages, state.index, steps, state.t, state.x, denoised, state.elapsed, picture, start.heat)
        if done:
            return


class Network:
    """A stage's network as the loop sees it: x, t and branches in, predictions out. What stays is computed once."""

    def __init__(self, plan: StagePlan, start: Start) -> None:
        self.stage, self.start, self.low_memory = plan.stage, start, plan.low_memory
        self.merge = plan.merge_tokens
        self.windows = None if plan.windows is None else plan.windows.beside(start.x)
        self.cache = StepCache(plan.cache_steps) if plan.cache_steps > 1 else None
        self.last_t = plan.table.rows[-1].t
        self.levels = {row.t: row.level for row in plan.table.rows if row.evaluate}
        self.prepared: dict[tuple[Any, ...], list[tuple[slice, Any]]] = {}

    def __call__(self, x: Array, t: float, branches: tuple[int, ...]) -> Array:
        unet = self.stage.unet if self.stage.last is None or t != self.last_t else self.stage.last
        active = [self.start.branches[branch] for branch in branches]
        xp = namespace(x)
        rows = [x if branch.beside is None else xp.concat([x, branch.beside], axis=1) for branch in active]
        if self.windows is not None:
            rows = [self.windows.split(row) for row in rows]
        given = laid_out(_one(rows), unet)  # (R B, C, h, w), branch by branch; in each window by window
        time = xp.full((), t, dtype=xp.float32, device=x.device)
        level = self.levels[t]
        edit = None if self.start.edit is None else self.start.edit(level, branches)
        varies = any(branch.texts is not None for branch in active)
        key = (unet is self.stage.last, edit is None, level if varies else None, *branches)
        if key not in self.prepared:
            kept = {} if varies else self.prepared  # of levels that differ, none comes twice
            each = 1 if self.windows is None else len(self.windows)
            cond = together([branch.at(level).repeated(each) for branch in active])
            times = [t] if varies else list(self.levels)
            self.prepared = {**kept, key: list(self._prepare(unet, cond, given, edit, times))}
        conds = self.prepared[key]
        calls = [(given[rows], cond if edit is None else cond._replace(edit=edit)) for rows, cond in conds]
        if self.cache is None:
            parts = [unet(part, time, cond) for part, cond in calls]
        else:
            assert isinstance(unet, Reusing)  # as the plan is checked
            parts = self.cache(unet, calls, time, branches)
        made = _one(parts).reshape((len(branches), -1, *parts[0].shape[1:]))
        return made if self.windows is None else self.windows.merged(made)

    def _prepare(
        self, unet: Denoiser, cond: Cond, given: Array, edit: AttentionEdit | None, times: Sequence[float]
    ) -> Iterator[tuple[slice, Any]]:
        """The conditioning of each network call at these times: as many rows as fit, at least one; all of them where
        rows borrow."""
        widest = unet.config.block_out_channels[0] * given.shape[-1] * given.shape[-2]
        each = 1 if self.low_memory else max(1, ELEMENTS_PER_CALL // widest)
        each = each if edit is None else len(given)
        for start in range(0, len(given), each):
            rows = slice(start, min(start + each, len(given)))
            prepared = unet.prepare(cond.of(rows))
            prepared = prepared._replace(merge=self.merge) if self.merge else prepared
            yield rows, unet.foreseen(prepared, times) if foresees(unet) else prepared


def _one(parts: Sequence[Array]) -> Array:
    """The rows of all parts; those of one part alone are not copied."""
    return parts[0] if len(parts) == 1 else namespace(*parts).concat(parts)
