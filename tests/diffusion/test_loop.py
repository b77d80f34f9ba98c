"""Laws of the one loop."""

from __future__ import annotations

import math

import pytest
import torch

from pydiff.diffusion import (
    SAMPLERS,
    Noise,
    NoiseSchedule,
    classifier_free,
    make_threshold,
    sample,
    step_table,
    unguided,
)

SCHEDULE = NoiseSchedule.make("squaredcos_cap_v2")
SHAPE = (3, 4, 6)
FLOATS = torch.empty(0)


def predict(x, t, branches):
    return torch.stack([(0.7 + 0.2 * b) * torch.sin(1.3 * x + math.cos(t / 150) + b) for b in branches])


def run(sampler, seeds, steps=6, **options):
    table = step_table(sampler, SCHEDULE, steps, **options)
    noise = Noise(seeds)
    x = noise(SHAPE, like=FLOATS) * table.initial_scale
    threshold = make_threshold("dynamic", percentile=0.9, max_value=1.5)
    return sample(predict, table, classifier_free(3.0, table.levels), x=x, noise=noise, threshold=threshold)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_equals_its_pictures_alone(sampler):
    options = {"ddim": {"eta": 0.7}, "edm": {"s_churn": 3.0}}.get(sampler, {})
    *_, batch = run(sampler, [5, 6, 7], **options)
    for i, seed in enumerate([5, 6, 7]):
        *_, alone = run(sampler, [seed], **options)
        torch.testing.assert_close(batch.x[i : i + 1], alone.x, rtol=1e-6, atol=1e-6)


def test_streaming_equals_not_streaming():
    streamed = [state.x.clone() for state in run("ddpm", [1, 2])]
    kept = [state.x for state in list(run("ddpm", [1, 2]))]
    assert len(kept) == 6
    for a, b in zip(streamed, kept, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_states_tell_where_the_run_is():
    table = step_table("edm", SCHEDULE, 4, s_churn=1.0)
    states = list(run("edm", [1], steps=4, s_churn=1.0))
    assert [state.index for state in states] == list(range(len(table.rows)))
    assert {state.total for state in states} == {len(table.rows)}
    assert [(state.t, state.level) for state in states] == [(row.t, row.level) for row in table.rows]
    assert all(state.elapsed >= 0 for state in states)
    assert states[0].denoised is None  # the first row only adds noise
    assert states[1].denoised.abs().max() <= 1
    assert states[1].x.shape == (1, *SHAPE)


def test_closing_early_leaves_nothing_behind():
    noise, calls = Noise([3]), []
    table = step_table("euler_ancestral", SCHEDULE, 6)

    def counted(x, t, branches):
        calls.append(t)
        return predict(x, t, branches)

    x = noise(SHAPE, like=FLOATS)
    states = sample(counted, table, unguided(6), x=x, noise=noise)
    before = x.clone()
    next(states)
    next(states)
    states.close()
    with pytest.raises(StopIteration):
        next(states)
    assert len(calls) == 2
    assert torch.is_grad_enabled()
    torch.testing.assert_close(x, before, rtol=0, atol=0)
    fresh = Noise([3])
    for _ in range(3):  # x and two rows
        fresh(SHAPE, like=FLOATS)
    torch.testing.assert_close(noise(SHAPE, like=FLOATS), fresh(SHAPE, like=FLOATS), rtol=0, atol=0)


def test_an_error_of_the_network_passes_through():
    def broken(x, t, branches):
        raise RuntimeError("out of memory")

    table = step_table("ddim", SCHEDULE, 3)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(sample(broken, table, unguided(3), x=torch.zeros(1, *SHAPE)))


def test_adjust_decides_where_the_run_goes_on():
    table = step_table("ddim", SCHEDULE, 5)
    x = torch.ones(1, *SHAPE)
    seen = []

    def paste(state):
        seen.append(state.index)
        return torch.where(torch.arange(6) < 3, torch.full_like(state.x, state.index), state.x)

    states = list(sample(predict, table, unguided(5), x=x, adjust=paste))
    assert seen == [0, 1, 2, 3, 4]
    assert all((state.x[..., :3] == state.index).all() for state in states)
    same = list(sample(predict, table, unguided(5), x=x, adjust=lambda state: state.x))
    plain = list(sample(predict, table, unguided(5), x=x))
    torch.testing.assert_close(same[-1].x, plain[-1].x, rtol=0, atol=0)


def test_draws_happen_also_where_the_coefficient_is_zero():
    """DDIM with eta > 0 draws in its last row too, whose noise has no weight: the stream stays that of diffusers."""
    noise = Noise([9])
    table = step_table("ddim", SCHEDULE, 4, eta=0.5)
    assert table.rows[-1].step.c_noise == 0
    list(sample(predict, table, unguided(4), x=noise(SHAPE, like=FLOATS), noise=noise))
    fresh = Noise([9])
    for _ in range(5):
        fresh(SHAPE, like=FLOATS)
    torch.testing.assert_close(noise(SHAPE, like=FLOATS), fresh(SHAPE, like=FLOATS), rtol=0, atol=0)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "pndm"])
def test_low_precision_is_kept_and_differentiable_runs_work(sampler):
    table = step_table(sampler, SCHEDULE, 8, spacing="leading", begin=6)
    x = torch.ones(1, *SHAPE, dtype=torch.bfloat16)
    *_, last = sample(predict, table, unguided(8), x=x)
    assert last.x.dtype == torch.bfloat16
    x = torch.ones(1, *SHAPE, requires_grad=True)
    *_, last = sample(predict, table, unguided(8), x=x)
    (gradient,) = torch.autograd.grad(last.x.sum(), x)
    assert gradient.abs().sum() > 0


def test_bad_input_is_refused_before_any_work():
    table, x = step_table("ddpm", SCHEDULE, 5), torch.zeros(2, *SHAPE)

    def never(x, t, branches):
        raise AssertionError("the network ran")

    for match, guidance, state, noise in [
        ("draws noise", unguided(5), x, None),
        ("guidance has 4 rows", unguided(4), x, Noise([1, 2])),
        ("noise is for 1 pictures", unguided(5), x, Noise([1])),
        (r"expected floats \(B, C, H, W\)", unguided(5), x[0], Noise([1, 2])),
        (r"expected floats \(B, C, H, W\)", unguided(5), x.long(), Noise([1, 2])),
    ]:
        with pytest.raises(ValueError, match=match):
            sample(never, table, guidance, x=state, noise=noise)
    with pytest.raises(ValueError, match="no rows"):
        sample(never, table._replace(rows=()), unguided(5), x=x, noise=Noise([1, 2]))
