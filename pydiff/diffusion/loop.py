"""The one loop: a generator that takes a step table row by row and yields the state after each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, Protocol

from pydiff.arrays import Array, cast, is_floating, namespace, wide
from pydiff.diffusion.classifier import with_gradient
from pydiff.diffusion.guidance import Guidance
from pydiff.diffusion.noise import Noise
from pydiff.diffusion.rows import Earlier, Row, StepTable
from pydiff.ops.guided_step import Paste, Threshold, guided_step

SMALLEST_VARIANCE = 1e-20
NO_THRESHOLD = Threshold()


class State(NamedTuple):
    """After row `index` of `total`: t it was taken at, x (B, C, H, W) after it, denoised its estimate of x0 (the last
    one where the row evaluates nothing; None before the first), elapsed the seconds the row took on the host, level
    the number of its noise level."""

    index: int  # type: ignore[assignment]  # a field here, not tuple.index
    total: int
    t: float
    x: Array
    denoised: Array | None
    elapsed: float
    level: int = 0


class Known(NamedTuple):
    """What of a picture is kept while the rest is made: after every evaluation x holds it at the level that x is at.

    x0 (B or 1, C, H, W); mask (B or 1, 1, H, W) in [0, 1], 1 = made, 0 = kept. noise (B, C, H, W): the noise of what is
    kept, always the same (Avrahami et al. 2022, Blended Latent Diffusion); None: the row's own draw (Lugmayr et al.
    2022, RePaint, equation 8a). clean: kept without noise, as networks expect it that were trained so.
    """

    x0: Array
    mask: Array
    noise: Array | None = None
    clean: bool = False

    def after(self, table: StepTable, index: int, drawn: Array | None) -> Paste:
        """What is put back after a row, whose draw is given: the level is that of the next row."""
        if self.clean or index == len(table.rows) - 1:
            return Paste(self.x0, self.mask)
        level = table.rows[index + 1].step
        return Paste(self.x0, self.mask, level.alpha, level.sigma, drawn if self.noise is None else self.noise)


class Predict(Protocol):
    """x (B, C, H, W) as the network sees it, t, branches: indices of the branches to evaluate, R of them; returns
    (R, B, C, H, W), or (R, B, 2 C, H, W) with variance channels."""

    def __call__(self, x: Array, t: float, branches: tuple[int, ...], /) -> Array: ...


# x (B, C, H, W) at the level of an evaluated row to s grad_x log p(y | x), of the same shape; None where s is 0
Gradient = Callable[[Array, Row], "Array | None"]


class Draw(Protocol):
    """shape of one picture (C, H, W) to noise (B, C, H, W) of the kind and type of `like`, where it is;
    `pydiff.diffusion.noise.Noise` is one."""

    def __call__(self, shape: tuple[int, ...], *, like: Array) -> Array: ...


def sample(
    predict: Predict,
    table: StepTable,
    guidance: Guidance,
    *,
    x: Array,
    noise: Draw | None = None,
    prediction_type: str = "epsilon",
    threshold: Threshold = NO_THRESHOLD,
    adjust: Callable[[State], Array] | None = None,
    known: Known | None = None,
    gradient: Gradient | None = None,
) -> Generator[State, None, None]:
    """Run `table` from x (B, C, H, W), which is at the level of its first row (`table.initial_scale` * noise).

    noise is needed when a row draws. adjust, when given, sees each state and returns the x to go on from (a local
    blend); the yielded state holds that x. known is what of x0 is kept, put back by the step itself. gradient is
    that of classifier guidance. Closing the generator ends the run; nothing is left behind.
    Raises ValueError, before any work, when table, guidance and noise do not fit.
    """
    _check(table, guidance, x, noise)
    if known is not None and known.noise is None and not known.clean and not _always_draws(table):
        raise ValueError("what is kept is noised by the rows' own draws, but not all rows draw; give it noise")
    return _run(predict, table, guidance, x, noise, prediction_type, threshold, adjust, known, gradient)


def _run(
    predict: Predict,
    table: StepTable,
    guidance: Guidance,
    x: Array,
    noise: Draw | None,
    prediction_type: str,
    threshold: Threshold,
    adjust: Callable[[State], Array] | None,
    known: Known | None,
    gradient: Gradient | None,
) -> Generator[State, None, None]:
    denoised: Array | None = None
    past: deque[tuple[Array, Array]] = deque(maxlen=table.memory)  # x and D of earlier evaluations, newest first
    for index, row in enumerate(table.rows):
        began = time.perf_counter()
        if row.evaluate:
            toward = None if gradient is None else gradient(x, row)
            predictions, weights = _predicted(predict, table, guidance, row, x)
            if toward is not None:
                predictions, weights = with_gradient(predictions, toward, row.step, prediction_type), [*weights, 1.0]
            drawn = _draw(noise, row, x)
            stepped = guided_step(
                x,
                predictions,
                weights,
                row.step,
                prediction_type=prediction_type,
                threshold=threshold,
                previous=recalled(row.history, past) if row.history else denoised,
                noise=drawn,
                paste=None if known is None else known.after(table, index, drawn),
                rescale=guidance.rescale,
            )
            past.appendleft((x, stepped[1]))
            x, denoised = stepped
        else:
            x = renoise(x, row, _draw(noise, row, x))
        state = State(index, len(table.rows), row.t, x, denoised, time.perf_counter() - began, row.level)
        if adjust is not None:
            x = adjust(state)
            state = state._replace(x=x, elapsed=time.perf_counter() - began)
        yield state


def _predicted(predict: Predict, table: StepTable, guidance: Guidance, row: Row, x: Array) -> tuple[Array, list[float]]:
    """The predictions of the branches that are evaluated in a row, and their weights."""
    active = guidance.active(row.level, first=row.step.log_variance is not None)
    predictions = predict(x if row.input_scale == 1 else x * row.input_scale, row.t, active)
    if table.linear_variance:
        predictions = _log_variance(predictions, x.shape[1])
    return predictions, [guidance.weights[row.level][branch] for branch in active]


def _always_draws(table: StepTable) -> bool:
    """In all rows that evaluate, but for the last one."""
    return all(row.draws for row in table.rows[:-1] if row.evaluate)


def renoise(x: Array, row: Row, noise: Array | None) -> Array:
    """A row that evaluates nothing: c_x x + c_noise noise, in float32 at least."""
    result = row.step.c_x * wide(x)
    if noise is not None:
        result = result + row.step.c_noise * cast(noise, result.dtype)
    return cast(result, x.dtype)


def recalled(history: Sequence[Earlier], past: Sequence[tuple[Array, Array]]) -> Array:
    """What a row takes of earlier evaluations, (x, D) newest first: sum c_x x + c_denoised D, in float32 at least."""
    total: Array | None = None
    for back, c_x, c_denoised in history:
        x, denoised = past[back - 1]
        x = wide(x)
        term = c_x * x + c_denoised * cast(denoised, x.dtype)
        total = term if total is None else total + term
    assert total is not None
    return total


def _draw(noise: Draw | None, row: Row, x: Array) -> Array | None:
    return noise(tuple(x.shape[1:]), like=x) if row.draws and noise is not None else None


def _log_variance(predictions: Array, channels: int) -> Array:
    """Variance channels in place of which their logarithm stands."""
    if predictions.shape[2] != 2 * channels:
        return predictions
    xp = namespace(predictions)
    variance = cast(predictions[:, :, channels:], xp.float32).clip(SMALLEST_VARIANCE, None)
    logarithm = cast(xp.log(variance), predictions.dtype)
    return xp.concat([predictions[:, :, :channels], logarithm], axis=2)


def _check(table: StepTable, guidance: Guidance, x: Array, noise: Draw | None) -> None:
    if not table.rows:
        raise ValueError("the step table has no rows")
    evaluated = 0
    for index, row in enumerate(table.rows):
        back = max((earlier.back for earlier in row.history), default=0)
        if back > evaluated:
            raise ValueError(f"row {index} looks back {back} evaluations, but only {evaluated} come before it")
        evaluated += row.evaluate
    if x.ndim != 4 or not is_floating(x):
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}; expected floats (B, C, H, W)")
    if len(guidance.weights) < table.levels:
        raise ValueError(
            f"guidance has {len(guidance.weights)} rows, but the step table has {table.levels} noise levels; "
            "make it for that many"
        )
    if noise is None and any(row.draws for row in table.rows):
        raise ValueError("this sampler draws noise; pass noise=Noise(seeds)")
    if isinstance(noise, Noise) and len(noise) != len(x):
        raise ValueError(f"noise is for {len(noise)} pictures, but x holds {len(x)}")
