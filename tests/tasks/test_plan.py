"""Whatever does not fit is refused by name before any work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pydiff
from pydiff.tasks.plan import Options, make_options, plan_stages, prompt_pairs, seed_list

NAN, INF = float("nan"), float("inf")
BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt is None; expected a string"),
    ({"prompt": []}, r"prompt is \[\]"),
    ({"prompt": ["a", 3]}, "prompt is"),
    ({"prompt": b"a red ring"}, "prompt is b'a red ring'"),
    ({"prompt": {"a": 1}}, "prompt is"),
    ({"prompt": "red " * 100}, "tokens, but the text encoder takes 77; shorten it"),
    ({"prompt": "a\ud800"}, "is not Unicode"),
    ({"negative_prompt": "red " * 100}, "shorten it"),
    ({"negative_prompt": ["a", "b"]}, "negative_prompt lists 2 for 1 prompts"),
    ({"negative_prompt": 4}, "negative_prompt is 4"),
    ({"size": 128}, "size is 128, which no stage of pydiff-embedded makes; expected one of 64, 256, 1024"),
    ({"size": "64"}, "size is '64'"),
    ({"size": [64]}, "size is"),
    ({"num_inference_steps": 0}, "num_inference_steps is 0; expected an integer of at least 1"),
    ({"num_inference_steps": -3}, "num_inference_steps is -3"),
    ({"num_inference_steps": 1001}, "num_inference_steps is 1001"),
    ({"num_inference_steps": 2.0}, "num_inference_steps is 2.0"),
    ({"num_inference_steps": "2"}, "num_inference_steps is '2'"),
    ({"num_inference_steps": True}, "num_inference_steps is True"),
    ({"num_inference_steps": [2]}, "num_inference_steps lists 1 values, but 2 stages run"),
    ({"num_inference_steps": [2, 1, 1]}, "num_inference_steps lists 3 values"),
    ({"guidance_scale": NAN}, "guidance_scale is nan; expected a finite number"),
    ({"guidance_scale": INF}, "guidance_scale is inf"),
    ({"guidance_scale": "high"}, "guidance_scale is 'high'"),
    ({"guidance_scale": 10**400}, "guidance_scale is 1000"),
    ({"guidance_scale": [[1.0, NAN], 1.0], "num_inference_steps": 2}, "guidance_scale is nan"),
    ({"guidance_scale": [[1.0, None], 1.0], "num_inference_steps": 2}, "guidance_scale is None"),
    ({"guidance_scale": [[1.0], 1.0], "num_inference_steps": 2}, "lists 1 numbers, but the run has 2 noise levels"),
    ({"guidance_scale": lambda level, levels: None}, "guidance_scale is None"),
    ({"guidance_scale": lambda level, levels: INF}, "guidance_scale is inf"),
    ({"guidance_scale": [1.0, 2.0, 3.0]}, "guidance_scale lists 3 values"),
    ({"guidance_rescale": 1.5}, "guidance_rescale is 1.5; expected a number from 0 to 1"),
    ({"guidance_rescale": NAN}, "guidance_rescale is nan"),
    ({"sampler": "plms"}, "sampler 'plms' is unknown; expected one of ddpm, "),
    ({"sampler": 3}, "sampler is 3; expected a name"),
    ({"sampler": [["ddim"], None]}, "sampler is"),
    ({"sampler": ["ddim"]}, "sampler lists 1 values"),
    ({"eta": 0.5}, "has no option 'eta'"),
    ({"eta": 2, "sampler": "ddim"}, "eta is 2; expected a number from 0 to 1"),
    ({"thresholding": "hard"}, "thresholding is 'hard'; expected one of none, static, dynamic"),
    ({"thresholding": {}}, "thresholding is"),
    ({"thresholding": "none", "percentile": 0.9}, "percentile is for dynamic"),
    ({"thresholding": "none", "max_value": 2}, "max_value is for static or dynamic"),
    ({"thresholding": "static", "max_value": 0}, "max_value is 0"),
    ({"thresholding": "dynamic", "max_value": 0.5}, "max_value is 0.5; expected at least 1"),
    ({"thresholding": "dynamic", "percentile": 1.5}, "percentile is 1.5"),
    ({"thresholding": "dynamic", "percentile": "most"}, "percentile is 'most'"),
    ({"max_value": NAN}, "max_value is nan"),
    ({"noise_level": -1}, "noise_level is -1; expected an integer from 0 to 999"),
    ({"noise_level": 1000}, "noise_level is 1000"),
    ({"noise_level": 2.5}, "noise_level is 2.5"),
    ({"noise_level": "low"}, "noise_level is 'low'"),
    ({"noise_level": 60, "size": 64}, "noise_level is for super-resolution stages, but none runs"),
    ({"noise_level": [60, 60]}, "noise_level is 60 for a base stage"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
    ({"num_images_per_prompt": 2.0}, "num_images_per_prompt is 2.0"),
    ({"num_images_per_prompt": True}, "num_images_per_prompt is True"),
    ({"seed": -1}, "seed is -1; expected an integer from 0 to"),
    ({"seed": 2**63}, "seed is 9223372036854775808"),
    ({"seed": True}, "seed is True"),
    ({"seed": 1.5}, "seed is 1.5"),
    ({"seed": "seven"}, "seed is 'seven'"),
    ({"seed": [1, 2]}, "seed lists 2 numbers for 1 pictures"),
    ({"seed": [1, None], "num_images_per_prompt": 2}, "seed is None"),
    ({"seed": [1.0]}, "seed is 1.0"),
    ({"seed": 1, "generator": torch.Generator()}, "seed and generator are both given"),
    ({"generator": 5}, "generator is 5"),
    ({"generator": [5]}, r"generator is \[5\]"),
    ({"generator": [torch.Generator()] * 2}, "generator lists 2 generators for 1 pictures"),
    ({"output_type": "jpeg"}, "output_type is 'jpeg'; expected one of pil, np, pt"),
    ({"steps": 5, "cfg": 2}, "unknown option cfg, steps; options are num_inference_steps"),
]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("call", "message"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_refused_before_any_work(pipe: pydiff.Pipeline, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.generate(**{"prompt": "a red ring", "size": 256, **call})
    if "output_type" not in call:
        with pytest.raises(ValueError, match=message):
            pipe.stream(**{"prompt": "a red ring", "size": 256, **call})


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*Options.__dataclass_fields__, "other"]), junk, max_size=4))
@settings(max_examples=150, deadline=None)
def test_junk_options_raise_nothing_but_value_errors(given_options: dict[str, Any]) -> None:
    stages = _stages()
    try:
        plans = plan_stages(stages, make_options(given_options))
    except ValueError:
        return
    assert len(plans) == len(stages)


@given(junk, junk, st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_junk_prompts_and_seeds_raise_nothing_but_value_errors(words: Any, seed: Any, count: int) -> None:
    for call in (lambda: prompt_pairs(words, seed, count), lambda: seed_list(seed, count)):
        try:
            call()
        except ValueError:
            continue


def _stages() -> Any:
    if not _opened:
        _opened.append(pydiff.load().cascade.stages[:2])
    return _opened[0]


_opened: list[Any] = []


def test_an_option_is_for_the_first_stage_and_the_others_do_as_their_folders_say(pipe: pydiff.Pipeline) -> None:
    first, second = plan_stages(
        pipe.cascade.stages[:2], Options(num_inference_steps=3, guidance_scale=2.0, sampler="ddim", noise_level=5)
    )
    own = pipe.cascade.stages[1].defaults
    assert (first.said["num_inference_steps"], first.said["guidance_scale"], first.said["sampler"]) == (3, 2.0, "ddim")
    assert second.said["num_inference_steps"] == own.num_inference_steps
    assert second.said["guidance_scale"] == own.guidance_scale
    assert (first.noise_level, second.noise_level) == (None, 5)
    repeated = plan_stages(
        pipe.cascade.stages[:2], Options(**{name: [first.said[name], second.said[name]] for name in first.said})
    )
    assert [plan.said for plan in repeated] == [first.said, second.said]


def test_seeds() -> None:
    assert seed_list(5, 3) == [5, 6, 7]
    assert seed_list((9, 2), 2) == [9, 2]
    assert seed_list(2**63 - 2, 2) == [2**63 - 2, 2**63 - 1]
    assert len(set(seed_list(None, 8))) == 8
    with pytest.raises(ValueError, match="seed is"):
        seed_list(2**63 - 2, 3)


def test_prompt_pairs() -> None:
    assert prompt_pairs(["a", "b"], "c", 2) == (["a", "a", "b", "b"], ["c"] * 4)
    assert prompt_pairs(("a", "b"), ["c", "d"], 1) == (["a", "b"], ["c", "d"])
    assert prompt_pairs("a", None, 1) == (["a"], [""])
