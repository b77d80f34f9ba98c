"""Classifier guidance on a mixture of Gaussians, whose classifier and whose conditional networks are known exactly."""

from __future__ import annotations

import math

import pytest
import torch

from pydiff.diffusion import (
    SAMPLERS,
    EDMSchedule,
    Noise,
    NoiseSchedule,
    Row,
    classifier_free,
    make_guidance,
    make_threshold,
    resampled,
    sample,
    step_table,
    unguided,
)
from pydiff.diffusion.classifier import class_gradient, shift, with_gradient
from pydiff.diffusion.loop import Known
from pydiff.ops.guided_step import Step

SCHEDULE = NoiseSchedule.make()
SHAPE = (2, 1, 3)
KINDS = ["epsilon", "v_prediction", "sample"]
LABELS = [2, 0, 1]
SEEDS = [5, 6, 7]


def noise(seeds=SEEDS):
    drawn = Noise(seeds)
    return lambda shape, like=torch.empty(0, dtype=torch.float64): drawn(shape, like=like)


class Mixture:
    """Components of unequal weights, means and variances, at the levels of a table: classifier(seen, t) is the exact
    posterior's logits, predict the exact network, of all components or of one per picture."""

    def __init__(self, table, kind="epsilon"):
        generator = torch.Generator().manual_seed(1)
        self.means = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64) * 1.5
        self.variances = torch.tensor([0.3, 0.05, 0.8], dtype=torch.float64)
        self.weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
        self.kind = kind
        self.levels = {row.t: (row.step.alpha, row.step.sigma, row.input_scale) for row in table.rows if row.evaluate}
        assert all(self.levels[row.t][1] == row.step.sigma for row in table.rows if row.evaluate)

    def of(self, seen, t):
        alpha, sigma, scale = self.levels[float(t)]
        x = seen / scale
        return x, alpha, sigma, (alpha**2 * self.variances + sigma**2).view(3, 1, 1, 1)

    def classifier(self, seen, t):
        assert t.shape == (len(seen),)
        x, alpha, _, spread = self.of(seen, t[0])
        squares = ((x[:, None] - alpha * self.means) ** 2 / spread).flatten(2).sum(2)
        return self.weights.log() - squares / 2 - math.prod(SHAPE) / 2 * spread.flatten().log()

    def scores(self, seen, t):
        """grad_x log p(x | k) (B, 3, C, H, W)."""
        x, alpha, _, spread = self.of(seen, t)
        return -(x[:, None] - alpha * self.means) / spread

    def posterior(self, seen, t):
        return self.classifier(seen, torch.full((len(seen),), t, dtype=seen.dtype)).softmax(1)[:, :, None, None, None]

    def gradient(self, seen, t, labels=LABELS):
        scores = self.scores(seen, t)
        return scores[range(len(seen)), labels] - (self.posterior(seen, t) * scores).sum(1)

    def prediction(self, seen, t, labels=None):
        x, alpha, sigma, _ = self.of(seen, t)
        scores = self.scores(seen, t)
        every = (self.posterior(seen, t) * scores).sum(1)
        score = every if labels is None else scores[range(len(x)), labels]
        eps, denoised = -sigma * score, (x + sigma**2 * score) / alpha
        return {"epsilon": eps, "v_prediction": alpha * eps - sigma * denoised, "sample": denoised}[self.kind]

    def guide(self, labels=LABELS, scale=1.0):
        return lambda x, row: scale * class_gradient(self.classifier, labels, x, row)


def run(table, predict, guidance=None, *, kind="epsilon", gradient=None, seeds=SEEDS, **how):
    draw = noise(seeds)
    x = draw(SHAPE) * table.initial_scale
    guidance = unguided(table.levels) if guidance is None else guidance
    with torch.inference_mode():
        states = sample(predict, table, guidance, x=x, noise=draw, prediction_type=kind, gradient=gradient, **how)
        return list(states)[-1].x


TABLES = {
    "ddim": lambda: step_table("ddim", SCHEDULE, 6, eta=0.5),
    "euler": lambda: step_table("euler", SCHEDULE, 6),
    "karras": lambda: step_table("edm", EDMSchedule(), 6),
}


LEVELS = [(name, kind) for name in TABLES for kind in KINDS if (name, kind) != ("karras", "v_prediction")]


@pytest.mark.parametrize(("name", "kind"), LEVELS)
def test_the_gradient_and_the_guided_prediction_are_exact(name, kind):
    table = TABLES[name]()
    mixture = Mixture(table, kind)
    for row in [row for row in table.rows if row.evaluate]:
        x = row.step.alpha * mixture.means[[0, 1, 1]] + row.step.sigma * noise()(SHAPE)
        seen = x * row.input_scale
        gradient = class_gradient(mixture.classifier, LABELS, x, row)
        exact = mixture.gradient(seen, row.t)
        assert (gradient - exact).abs().max() < 1e-10 * max(1, exact.abs().max())
        both = with_gradient(mixture.prediction(seen, row.t)[None], gradient, row.step, kind).sum(0)
        wanted = mixture.prediction(seen, row.t, LABELS)
        assert (both - wanted).abs().max() < 1e-10 * max(1, wanted.abs().max())
        assert (wanted - mixture.prediction(seen, row.t)).abs().max() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_guided_run_is_a_run_of_the_conditional_network(sampler, kind):
    table = step_table(sampler, SCHEDULE, 12, **({"eta": 0.0} if sampler == "ddim" else {}))
    mixture = Mixture(table, kind)
    made = run(table, lambda x, t, b: mixture.prediction(x, t)[None], kind=kind, gradient=mixture.guide())
    wanted = run(table, lambda x, t, b: mixture.prediction(x, t, LABELS)[None], kind=kind)
    assert (made - wanted).abs().max() < 1e-8
    assert (made - run(table, lambda x, t, b: mixture.prediction(x, t)[None], kind=kind)).abs().max() > 0.1


def test_a_run_of_edm_levels_too():
    table = step_table("edm", EDMSchedule(), 12)
    mixture = Mixture(table, "sample")
    made = run(table, lambda x, t, b: mixture.prediction(x, t)[None], kind="sample", gradient=mixture.guide())
    wanted = run(table, lambda x, t, b: mixture.prediction(x, t, LABELS)[None], kind="sample")
    assert (made - wanted).abs().max() < 1e-8


def test_the_mean_of_ddpm_moves_by_its_variance_in_small_steps():
    """Algorithm 1 of the paper: mu + Sigma g, with Sigma = beta."""
    table = step_table("ddpm", SCHEDULE, 1000)
    for index in (100, 500, 900):
        row = table.rows[index]
        beta = 1 - (row.step.alpha / table.rows[index + 1].step.alpha) ** 2
        moved = row.step.c_denoised * shift(torch.ones(()), row.step, "sample")
        assert float(moved) == pytest.approx(beta, rel=beta)


HOW = {
    "classifier-free": {"guidance": (3.0, 0.0)},
    "thresholded": {"threshold": make_threshold("dynamic", percentile=0.8, max_value=3.0)},
    "learned variance": {"variance": True},
    "known": {"known": True},
    "repaint": {"known": True, "resampled": True},
    "all": {"guidance": (3.0, 0.0), "threshold": make_threshold("static"), "variance": True, "known": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOW)
def test_it_composes(name, kind):
    """Weights of classifier-free guidance sum to 1: a gradient beside them is the gradient in every branch."""
    how = dict(HOW[name])
    learned = {"variance_type": "learned_range"} if how.pop("variance", False) else {}
    table = step_table("ddpm", SCHEDULE, 8, **learned)
    table = resampled(table, 2, 2) if how.pop("resampled", False) else table
    mixture = Mixture(table, kind)
    guidance = classifier_free(how.pop("guidance")[0], table.levels) if "guidance" in how else None
    if how.pop("known", False):
        mask = torch.tensor([0.0, 1, 1], dtype=torch.float64).view(1, 1, 1, 3)
        how["known"] = Known(noise([9, 10, 11])(SHAPE), mask)

    def predict(x, t, branches, inside=False):
        made = torch.stack([(1 - 0.1 * b) * mixture.prediction(x, t) + 0.2 * b for b in branches])
        if inside:
            alpha, sigma, _ = mixture.levels[t]
            made = made + shift(1.5 * mixture.gradient(x, t), Step(alpha, sigma, 0, 0), kind)
        return torch.cat([made, torch.sin(made + x)], dim=2) if learned else made

    def whole(x, t, branches):
        made = predict(x, t, branches, inside=True)
        if learned:
            made[:, :, SHAPE[0] :] = predict(x, t, branches)[:, :, SHAPE[0] :]
        return made

    made = run(table, predict, guidance, kind=kind, gradient=mixture.guide(scale=1.5), **how)
    wanted = run(table, whole, guidance, kind=kind, **how)
    assert (made - wanted).abs().max() < 1e-8
    assert (made - run(table, predict, guidance, kind=kind, **how)).abs().max() > 0.01
    if "known" in how:
        assert torch.equal(made[..., 0], how["known"].x0[..., 0])


def test_rescaling_is_of_the_whole_guided_sum():
    table = step_table("ddim", SCHEDULE, 6)
    mixture, row = Mixture(table), table.rows[2]
    table = table._replace(rows=(row._replace(level=0),), starts=(0,))
    x = noise()(SHAPE)
    weights = make_guidance([[1.0]], rescale=1.0)
    with torch.inference_mode():
        how = {"x": x, "gradient": mixture.guide(scale=4.0)}
        (state,) = sample(lambda x, t, b: mixture.prediction(x, t)[None], table, weights, **how)
    guided = (x - row.step.alpha * state.denoised) / row.step.sigma
    own = mixture.prediction(x, row.t)
    torch.testing.assert_close(guided.std((1, 2, 3)), own.std((1, 2, 3)), rtol=1e-10, atol=0)
    direction = own - 4 * row.step.sigma * mixture.gradient(x, row.t)
    assert torch.cosine_similarity(guided.flatten(1), direction.flatten(1)).min() > 1 - 1e-12


def test_no_gradient_is_none_given():
    table = step_table("ddim", SCHEDULE, 6)
    mixture = Mixture(table)
    plain = run(table, lambda x, t, b: mixture.prediction(x, t)[None])
    assert torch.equal(run(table, lambda x, t, b: mixture.prediction(x, t)[None], gradient=lambda x, row: None), plain)


def test_a_batch_equals_its_pictures_alone():
    table = step_table("ddim", SCHEDULE, 6)
    mixture = Mixture(table)
    how = {"table": table, "predict": lambda x, t, b: mixture.prediction(x, t)[None]}
    batch = run(**how, gradient=mixture.guide())
    for index, seed in enumerate(SEEDS):
        alone = run(**how, gradient=mixture.guide([LABELS[index]]), seeds=[seed])
        torch.testing.assert_close(batch[[index]], alone, rtol=1e-12, atol=1e-12)


def test_it_comes_before_the_network_and_once_per_evaluation():
    table, order = step_table("heun", SCHEDULE, 4), []
    mixture = Mixture(table)

    def gradient(x, row):
        order.append("classifier")
        return mixture.guide()(x, row)

    def predict(x, t, branches):
        order.append("network")
        return mixture.prediction(x, t)[None]

    run(table, predict, gradient=gradient)
    assert order == ["classifier", "network"] * table.evaluations


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_classifiers_get_float32_at_least(dtype):
    seen = []

    def classifier(x, t):
        seen.append((x.dtype, t.dtype))
        return x.flatten(1)

    x = torch.zeros(3, *SHAPE, dtype=dtype)
    row = Row(500.0, Step(0.6, 0.8, 0, 0), input_scale=0.5)
    assert class_gradient(classifier, LABELS, x, row).dtype == torch.float32
    assert seen == [(torch.float32, torch.float32)]
    branch = with_gradient(torch.ones(2, 3, 4, 1, 3, dtype=dtype), torch.ones(3, *SHAPE), row.step, "sample")
    assert (branch.shape, branch.dtype) == ((3, 3, 4, 1, 3), dtype)
    assert branch[2, :, 2:].count_nonzero() == 0


def test_logits_that_rule_out_a_class_are_fine():
    def classifier(x, t):
        return torch.cat([x.flatten(1), torch.full((3, 1), -torch.inf)], dim=1)

    gradient = class_gradient(classifier, LABELS, torch.zeros(3, *SHAPE), Row(1.0, Step(0.6, 0.8, 0, 0)))
    assert gradient.isfinite().all()


WEIGHT = torch.ones(6, 3, requires_grad=True)
BAD = {
    "returned list": lambda x, t: [1],
    r"returned torch.float32 \(3,\); expected floats \(3, classes\)": lambda x, t: x.sum((1, 2, 3)),
    r"returned torch.float32 \(1, 6\)": lambda x, t: x.flatten(1)[:1],
    r"returned torch.float32 \(3, 0\)": lambda x, t: x.flatten(1)[:, :0],
    "returned torch.int64": lambda x, t: x.flatten(1).argsort(1),
    "classifier_labels holds 2, but the classifier returned logits of 2 classes": lambda x, t: x.flatten(1)[:, :2],
    "without a gradient to x: they are detached": lambda x, t: x.flatten(1).detach(),
    "without a gradient to x: they do not depend on x": lambda x, t: x.detach().flatten(1) @ WEIGHT,
    "classifier at t = 7 gives a log probability or a gradient that is not finite": lambda x, t: x.flatten(1) / 0,
    "that is not finite": lambda x, t: x.flatten(1).abs().sqrt(),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_classifier_is_refused(message):
    with pytest.raises(ValueError, match=message):
        class_gradient(BAD[message], LABELS, torch.zeros(3, *SHAPE), Row(7.0, Step(0.6, 0.8, 0, 0)))


def test_pure_noise_has_no_class():
    with pytest.raises(ValueError, match="alpha is 0"):
        shift(torch.ones(1, *SHAPE), Step(0.0, 1.0, 0, 0), "v_prediction")
