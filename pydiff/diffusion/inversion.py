"""From a picture to the noise it would be made of: DDIM backwards, and null prompts that lead forward again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pydiff.arrays import Array, namespace
from pydiff.diffusion.checks import whole
from pydiff.diffusion.ddim import ddim_row
from pydiff.diffusion.guidance import Guidance
from pydiff.diffusion.levels import Level
from pydiff.diffusion.rows import Earlier, Row, StepTable, make_row, make_table
from pydiff.ops.guided_step import Step, guided_step

LEAST_TURN = 1e-6  # cosine of the angle between two levels; 0 is a right angle
LEARNING_RATE = 1e-2
SLOWEST = 0.01  # share of the learning rate that is left after 99 levels
LOOSER = 2e-5  # how much more loss is good enough at every further level

Predict = Callable[[Array, float, "Array | None"], Array]  # (x, t, null states; None: the prompt) -> prediction
OnInner = Callable[[int, int, float], object]  # (level, inner step, its loss)


def inverted(table: StepTable, prediction_type: str, *, refinements: int = 0) -> StepTable:
    """The table of a DDIM run of eta 0, backwards: from a picture to the level of the run's first row.

    DDIM inversion (Dhariwal and Nichol 2021, appendix F; Mokady et al. 2023, section 3.1). A row that led from level
    (alpha, sigma, t) to (alpha', sigma') leads back, x = alpha D + sigma eps, with D and eps as they follow from the
    network's output for x' at (alpha', sigma'). The network is told t, where the row leads to and not where x' is, as
    in Google's code and in diffusers' DDIMInverseScheduler: so an eps that does not depend on x is the one that the way
    forward meets, and the run gives the picture back. Where x' is clean (sigma' = 0), a prediction of x0 says nothing
    of eps; there its eps is (x' - alpha D) / sigma.

    refinements: how often what a row found is put into the network in place of x' and found again (fixed-point
    iteration, Pan et al. 2023, AIDI, section 3.2), here so that an output v that does not change is met forward. Each
    costs one more row, and many times the accuracy comes back.

    Rows keep the numbers of their noise levels. No estimate may be thresholded. Raises ValueError for the table of
    another sampler, and for steps so large that they cannot be refined.
    """
    whole("refinements", refinements, 0)
    steps = []
    for row in reversed(table.rows):
        told, below = _levels(row)
        again = [_refined(row, told, below, back) for back in range(1, refinements + 1)]
        steps.append([_guessed(row, told, below, prediction_type), *again])
    return make_table(steps, 1.0)


def _levels(row: Row) -> tuple[Level, Level]:
    """Where a row of DDIM leads from and to."""
    step = row.step
    if not row.evaluate or row.draws or step.c_noise or step.c_previous or row.history:
        raise ValueError("only a table of ddim with eta 0 can be inverted; this one has other rows")
    told = Level(step.alpha, step.sigma, row.t, row.input_scale)
    return told, told._replace(alpha=step.c_x * step.alpha + step.c_denoised + step.c_raw, sigma=step.c_x * step.sigma)


def _guessed(row: Row, told: Level, below: Level, prediction_type: str) -> Row:
    """From `below` to `told`, by the network's output below."""
    if below.sigma > 0:
        return ddim_row(row.level, below, told, 0.0, clipped=False)
    if prediction_type == "v_prediction":  # v is eps where there is no noise: alpha x + sigma v
        return make_row(row.level, told, Step(told.alpha, told.sigma, 2 * told.alpha, -1.0))
    return make_row(row.level, told, Step(told.alpha, told.sigma, 1 + told.alpha, -told.alpha))  # alpha x + sigma eps


def _refined(row: Row, told: Level, below: Level, back: int) -> Row:
    """x of x' = cos x - sin v, the row forward as a turn, with v = (alpha x - D) / sigma of the x found so far; x' was
    met `back` evaluations ago."""
    cos = told.alpha * below.alpha + told.sigma * below.sigma
    turn = (told.sigma * below.alpha - told.alpha * below.sigma) / told.sigma
    if cos < LEAST_TURN:
        raise ValueError("a step from pure noise to the picture cannot be refined; use more steps, or no refinements")
    step = Step(told.alpha, told.sigma, turn * told.alpha / cos, -turn / cos, c_previous=1.0)
    return make_row(row.level, told, step)._replace(history=(Earlier(back, 1 / cos, 0.0),))


class Tuned(NamedTuple):
    """A noise level of `null_text`: t that the network was told, x (1, C, h, w) after its step and the estimate of x0,
    the null states (1, T, D) that were found, and the loss before the last change to them (nan where none was made)."""

    level: int
    t: float
    x: Array
    denoised: Array
    null: Array
    loss: float


class Tuning(NamedTuple):
    """How null states are optimised: up to inner_steps changes at every level, fewer once the loss at level i is under
    early_stop + i 2e-5. on_inner(level, inner step, loss) is called after each change."""

    inner_steps: int = 10
    early_stop: float = 1e-5
    on_inner: OnInner | None = None


def null_text(
    predict: Predict,
    table: StepTable,
    guidance: Guidance,
    trajectory: Sequence[Array],
    null: Array,
    *,
    prediction_type: str = "epsilon",
    tuning: Tuning = Tuning(),
) -> Iterator[Tuned]:
    """Null-text optimisation (Mokady et al. 2023, algorithm 1): null states per level with which a guided run of DDIM
    follows the trajectory of an inversion.

    predict: differentiable in its null states. table: of the run forward, guidance over [text, null]. trajectory: the
    x (1, C, h, w) of all levels, the picture first, one more than the table has rows. null (1, T, D): where the first
    level begins; every other begins with what the one before it found. At level i Adam changes them by a learning rate
    of 0.01 (1 - i / 100), never less than a hundredth of 0.01, so that the step from where the run is comes closer to
    the trajectory in mean square.
    """
    import torch

    x = trajectory[-1]
    for index, row in enumerate(table.rows):
        weights = guidance.weights[row.level]
        problem = _Level(predict, row, weights, x, trajectory[-2 - index], prediction_type)
        with torch.inference_mode(False):
            x, denoised, null, loss = _tuned(problem, null, index, tuning)
        yield Tuned(index, row.t, x, denoised, null, loss)


class _Level(NamedTuple):
    """One level: from x the guided step of this row should lead to target."""

    predict: Predict
    row: Row
    weights: Sequence[float]
    x: Array
    target: Array
    prediction_type: str

    def step(self, text: Array, null: Array) -> tuple[Array, Array]:
        """x after the step and the estimate of x0, where the prompt's prediction is `text`."""
        predictions = namespace(text).stack([text, self.predict(self.x, self.row.t, null)])
        return guided_step(self.x, predictions, self.weights, self.row.step, prediction_type=self.prediction_type)


def _tuned(problem: _Level, null: Array, index: int, tuning: Tuning) -> tuple[Array, Array, Array, float]:
    """x after the step, the estimate of x0, the null states and the loss."""
    import torch
    from torch.nn import functional as F

    with torch.no_grad():
        text = problem.predict(problem.x, problem.row.t, None)
    null, loss = null.detach().clone().requires_grad_(), float("nan")
    adam = torch.optim.Adam([null], lr=LEARNING_RATE * max(1 - index / 100, SLOWEST))
    for inner in range(tuning.inner_steps if problem.weights[1] else 0):
        with torch.enable_grad():
            error = F.mse_loss(problem.step(text, null)[0], problem.target)
        (null.grad,) = torch.autograd.grad(error, [null])  # of the null states alone, not of weights
        adam.step()
        loss = error.item()
        if tuning.on_inner is not None:
            tuning.on_inner(index, inner, loss)
        if loss < tuning.early_stop + index * LOOSER:
            break
    null = null.detach()
    with torch.no_grad():
        return *problem.step(text, null), null, loss
