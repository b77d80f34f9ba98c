"""How a caller wants each stage run: whatever does not fit is refused by name, whatever fits is said back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pydiff
from pydiff.cascade import StagePlan
from pydiff.diffusion.guidance import classifier_free, instruct
from pydiff.tasks.guided import make_guidance
from pydiff.tasks.plan import PARTS, Options, make_options, plan_stages, sizes_of, stages_to
from tests.tasks.junk import junk

ALL = dict.fromkeys(PARTS)


def plans(pipe: pydiff.Pipeline, stages: int = 1, parts: Any = ALL, **options: Any) -> tuple[StagePlan, ...]:
    return plan_stages(pipe.cascade.stages[:stages], make_options(options), parts=parts)


@given(st.dictionaries(st.sampled_from([*Options.__dataclass_fields__, "other"]), junk, max_size=4), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_options_raise_nothing_but_value_errors(
    pipe: pydiff.Pipeline, given_options: dict[str, Any], taken: bool
) -> None:
    try:
        made = plans(pipe, 2, ALL if taken else {}, **given_options)
    except ValueError:
        return
    assert len(made) == 2
    json.dumps([dict(plan.said) for plan in made], allow_nan=False)


def test_an_option_is_for_the_first_stage_and_the_others_do_as_their_folders_say(pipe: pydiff.Pipeline) -> None:
    first, second = plans(pipe, 2, num_inference_steps=3, guidance_scale=2.0, sampler="ddim", noise_level=5)
    own = pipe.cascade.stages[1].defaults
    assert (first.said["num_inference_steps"], first.said["guidance_scale"], first.said["sampler"]) == (3, 2.0, "ddim")
    assert second.said["num_inference_steps"] == own.num_inference_steps
    assert second.said["guidance_scale"] == own.guidance_scale
    assert (first.noise_level, second.noise_level) == (None, 5)
    repeated = plans(pipe, 2, **{name: [first.said[name], second.said[name]] for name in first.said})
    assert [plan.said for plan in repeated] == [first.said, second.said]


WAYS: list[dict[str, Any]] = [
    {},
    {"num_inference_steps": [3, 2], "guidance_scale": [[3.0, 0.5, 2.0], None], "guidance_rescale": 0.3},
    {"sampler": ["ddim", "euler"], "eta": [np.float32(0.25), None], "noise_level": 7},
    {"thresholding": ["dynamic", "static"], "percentile": [0.9, None], "max_value": [2.0, 0.5]},
    {"timesteps": ["smart27", None]},
    {"timesteps": [np.array([900, 20]), (np.int64(500), 3)]},
    {"strength": [0.5, 0.25], "num_inference_steps": [4, 4]},
    {"denoising_start": 0.3, "denoising_end": np.float64(0.8), "num_inference_steps": 10},
]


@pytest.mark.parametrize("options", WAYS, ids=lambda options: "-".join(options))
def test_what_is_said_repeats_the_plan(pipe: pydiff.Pipeline, options: dict[str, Any]) -> None:
    made = plans(pipe, 2, **options)
    said = json.loads(json.dumps({name: [plan.said[name] for plan in made] for name in made[0].said}, allow_nan=False))
    again = plans(pipe, 2, **said)
    assert set(said) == set(Options.__dataclass_fields__)
    for mine, other in zip(made, again, strict=True):
        assert mine._replace(said={}) == other._replace(said={})
        assert mine.said == other.said


def test_timesteps_of_one_stage_are_a_list_too(pipe: pydiff.Pipeline) -> None:
    ways: list[Any] = [[900, 500, 20], (900, 500, 20), np.array([900, 500, 20]), torch.tensor([900, 500, 20])]
    ways += [[way] for way in ways]
    for timesteps in ways:
        (plan,) = plans(pipe, timesteps=timesteps)
        assert [round(row.t) for row in plan.table.rows] == [900, 500, 20]
        assert (plan.said["timesteps"], plan.said["num_inference_steps"]) == ([900, 500, 20], None)
    assert len(plans(pipe, timesteps="smart27")[0].table.rows) == 27
    assert len(plans(pipe, timesteps="3,2")[0].table.rows) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timesteps": []}, r"timesteps \[\] are not a list of integers"),
        ({"timesteps": [20, 500]}, "do not descend"),
        ({"timesteps": [500.5, 3]}, "timesteps lists 2 values, but 1 stages run"),
        ({"timesteps": np.array([500.5, 3])}, "are not a list of integers"),
        ({"timesteps": torch.tensor(3)}, "timesteps 3 are not a list"),
        ({"timesteps": [1000, 3]}, r"timesteps run from 1000 to 3; expected \[0, 1000\)"),
        ({"timesteps": "smart"}, "respacing 'smart' is unknown"),
        ({"timesteps": 7}, "timesteps 7 are not a list"),
        ({"timesteps": [900, 20], "num_inference_steps": 2}, "num_inference_steps is 2 and timesteps are given too"),
        ({"strength": 0}, r"strength is 0.0; expected a number in \(0, 1\]"),
        ({"strength": 1.5}, "strength is 1.5; expected a number from 0 to 1"),
        ({"strength": 0.1, "num_inference_steps": 5}, "strength 0.1 of 5 steps leaves none"),
        ({"strength": "half"}, "strength is 'half'"),
        ({"denoising_start": 0.0}, "expected a number between 0 and 1"),
        ({"denoising_end": 1.0}, "expected a number between 0 and 1"),
        ({"denoising_start": 0.5, "denoising_end": 0.5}, "denoising_start is 0.5 and denoising_end 0.5; expected the"),
        ({"denoising_end": NotImplemented}, "denoising_end is NotImplemented"),
        ({"image_guidance_scale": 1.5}, "image_guidance_scale is 1.5, but this model follows no instructions"),
        ({"guidance_scale": torch.tensor(2.0)}, "guidance_scale is tensor"),
        ({"guidance_scale": np.array([1.0, 2.0])}, "guidance_scale is array"),
        ({3: 4, "a": 5}, "unknown option 3, a; options are"),
    ],
)
def test_refused(pipe: pydiff.Pipeline, options: dict[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_stages(pipe.cascade.stages[:1], make_options(options), parts=ALL)


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_for_the_tasks_that_take_them(pipe: pydiff.Pipeline, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0.5 for stage 1 of a task that takes none there"):
        plans(pipe, parts={}, **{name: 0.5})
    assert plans(pipe, parts={name: None}, **{name: 0.5})[0].said[name] == 0.5
    if name != "strength":
        with pytest.raises(ValueError, match=f"{name} is 0.5 for stage 2 of a task"):
            plans(pipe, 2, **{name: [None, 0.5]})


def test_a_tasks_own_strength(pipe: pydiff.Pipeline) -> None:
    parts = {**ALL, "strength": 0.8}
    told = [
        plans(pipe, 2, parts, num_inference_steps=[10, 5], **options)
        for options in ({}, {"strength": [None, 0.4]}, {"strength": 0.3}, {"denoising_start": 0.5})
    ]
    assert [[plan.said["strength"] for plan in made] for made in told] == [
        *([0.8, None], [0.8, 0.4], [0.3, None], [None, None])
    ]
    assert [[len(plan.table.rows) for plan in made] for made in told] == [[8, 5], [8, 2], [3, 5], [5, 5]]


@pytest.mark.parametrize("scale", [1.0, 0.5, 0, -3.0, [1.0, 0.0, -1.0]])
def test_a_scale_of_at_most_one_is_no_guidance(scale: Any) -> None:
    """As in diffusers; in a list too, level by level."""
    assert make_guidance(scale, None, 3, 0.0).weights == ((1.0,),) * 3


def test_guidance_level_by_level() -> None:
    assert make_guidance([2.0, 0.5, 3.0], None, 3, 0.1) == classifier_free([2.0, 1.0, 3.0], 3, rescale=0.1)
    mixed = make_guidance([6.0, 1.0, 6.0], [1.5, 1.5, 0.9], 3, 0.0)
    assert mixed == instruct([6.0, 1.0, 1.0], [1.5, 1.0, 1.0], 3)
    assert make_guidance(6.0, 0.5, 3, 0.0).weights == ((1.0,),) * 3


@pytest.mark.parametrize("size", [np.int64(64), 64, None])
def test_stages_to(pipe: pydiff.Pipeline, size: Any) -> None:
    assert len(stages_to(pipe.cascade, size)) == (2 if size is None else 1)


@given(st.integers(1, 64), st.integers(1, 64))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_stages_picture_has_the_shape_of_the_last(pipe: pydiff.Pipeline, rows: int, columns: int) -> None:
    sizes = sizes_of(pipe.cascade.stages, 16 * rows, 16 * columns)
    assert sizes == [(rows, columns), (4 * rows, 4 * columns), (16 * rows, 16 * columns)]
