"""Rows of guidance weights."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from hypothesis import given
from hypothesis import strategies as st

from pydiff.diffusion import (
    NoiseSchedule,
    classifier_free,
    instruct,
    limited,
    make_guidance,
    oscillating,
    sample,
    step_table,
    unguided,
)

SCALES = st.floats(-20, 20)


@given(SCALES, st.integers(1, 30))
def test_classifier_free_weights(scale, levels):
    guidance = classifier_free(scale, levels)
    assert len(guidance.weights) == levels
    for row in guidance.weights:
        assert row == (scale, 1 - scale)
        assert math.isclose(sum(row), 1, abs_tol=1e-12)


@given(SCALES, SCALES)
def test_instruct_weights(text, image):
    (row,) = instruct(text, image, 1).weights
    assert math.isclose(sum(row), 1, abs_tol=1e-9)
    eps = torch.tensor([0.3, -1.1, 2.0], dtype=torch.float64)  # with text and image, with image, with neither
    expected = eps[2] + text * (eps[0] - eps[1]) + image * (eps[1] - eps[2])
    assert math.isclose(sum(w * e for w, e in zip(row, eps.tolist(), strict=True)), expected, abs_tol=1e-9)


def test_a_branch_of_weight_zero_is_not_evaluated():
    guidance = classifier_free([3.0, 1.0, 0.0], 3)
    assert [guidance.active(level) for level in range(3)] == [(0, 1), (0,), (1,)]
    assert guidance.active(2, first=True) == (0, 1)
    assert classifier_free([3.0, 1.0, 0.0], 3, rescale=0.5).active(2) == (0, 1)
    assert instruct(5.0, 1.0, 1).active(0) == (0, 1)
    assert instruct(1.0, 1.0, 1).active(0) == (0,)
    assert unguided(2).active(1) == (0,)


def test_the_loop_asks_only_for_active_branches():
    asked = []

    def predict(x, t, branches):
        asked.append(branches)
        return torch.stack([0.1 * (b + 1) * x for b in branches])

    x = torch.ones(1, 1, 2, 2)
    table = step_table("ddim", NoiseSchedule.make(), 4)
    ends = {}
    for name, guidance in {
        "interval": classifier_free(limited(3.0, 0.25, 0.75), 4),
        "list": classifier_free([1.0, 3.0, 3.0, 1.0], 4),
    }.items():
        asked.clear()
        *_, last = sample(predict, table, guidance, x=x)
        assert asked == [(0,), (0, 1), (0, 1), (0,)]
        ends[name] = last.x
    torch.testing.assert_close(ends["interval"], ends["list"], rtol=0, atol=0)


def test_oscillating():
    scale = oscillating(15.0, 1.0, constant=0.3)
    assert [scale(level, 10) for level in range(10)] == [15, 15, 15, 1, 15, 1, 15, 1, 15, 1]
    assert classifier_free(scale, 10).weights[3] == (1.0, 0.0)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 50))
def test_limited_interval(start, stop, levels):
    start, stop = sorted((start, stop))
    scales = [row[0] for row in classifier_free(limited(7.0, start, stop), levels).weights]
    inside = range(int(start * levels), int(stop * levels))
    assert scales == [7.0 if level in inside else 1.0 for level in range(levels)]


def test_a_function_gets_level_and_levels():
    assert classifier_free(lambda level, levels: level / levels, 4).weights[3] == (0.75, 0.25)


@pytest.mark.parametrize("phi", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_rescale_is_that_of_diffusers(phi, kind):
    schedule = NoiseSchedule.make(prediction_type=kind)
    table = step_table("ddim", schedule, 3)
    text, null = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mixed = rescale_noise_cfg(null + 5 * (text - null), text, phi)
    guided = classifier_free(5.0, 3, rescale=phi)
    both = [
        next(sample(lambda x, t, b: torch.stack([text, null]), table, guided, x=x, prediction_type=kind)),
        next(sample(lambda x, t, b: mixed[None], table, unguided(3), x=x, prediction_type=kind)),
    ]
    torch.testing.assert_close(both[0].x, both[1].x, atol=1e-10, rtol=1e-10)


def test_bad_input_is_refused():
    for match, call in [
        ("guidance_scale is nan at level 0", lambda: classifier_free(math.nan, 3)),
        ("guidance_scale is inf at level 2", lambda: classifier_free([1.0, 1.0, math.inf], 3)),
        ("guidance_scale at level 0 is '7.5'; expected a number", lambda: classifier_free("7.5", 3)),
        ("guidance_scale at level 0 is None", lambda: classifier_free(None, 3)),
        ("guidance_scale at level 0 is True", lambda: classifier_free(True, 3)),
        ("guidance_scale at level 1 is 'low'", lambda: classifier_free([1.0, "low", 2.0], 3)),
        ("guidance_scale at level 0 is None", lambda: classifier_free(lambda level, levels: None, 3)),
        ("lists 2 numbers, but the run has 3", lambda: classifier_free([1.0, 1.0], 3)),
        ("image_guidance_scale is nan", lambda: instruct(1.0, math.nan, 3)),
        ("rescale is 1.5", lambda: classifier_free(2.0, 3, rescale=1.5)),
        ("rescale is nan", lambda: classifier_free(2.0, 3, rescale=math.nan)),
        ("one row per", lambda: make_guidance([])),
        ("one row per", lambda: make_guidance([[1.0], [0.5, 0.5]])),
        ("all 0", lambda: make_guidance([[0.0, 0.0]])),
        ("not finite", lambda: make_guidance([[math.nan]])),
        ("start 0.7 and stop 0.2", lambda: limited(2.0, 0.7, 0.2)),
        ("constant is 2", lambda: oscillating(2.0, constant=2)),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
