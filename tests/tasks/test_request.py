"""Whatever does not fit is refused by name before any work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pydiff
from pydiff.cascade import Cascade
from pydiff.tasks.begin import Micro, from_noise
from pydiff.tasks.generate import generate, upscale
from pydiff.tasks.plan import PRIOR, Options
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request, settings_of
from pydiff.tasks.words import EMBEDDINGS, READING, SECOND
from tests.tasks.junk import junk

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


# The names that a caller may give.
NAMES = [
    *("negative_prompt", "seed", "generator", "num_images_per_prompt", "class_labels", "callback_on_step_end"),
    *(*Options.__dataclass_fields__, *Micro.__dataclass_fields__, *EMBEDDINGS, *SECOND, *READING, *PRIOR),
    *("size", "height", "width", "latents", "prompt", "options", "other"),
]
few = st.dictionaries(st.sampled_from(NAMES), junk, max_size=4)


@pytest.fixture(scope="module")
def opened(pipe: pydiff.Pipeline) -> pydiff.Pipeline:
    return pipe


@pytest.mark.filterwarnings("ignore::pydiff.UnknownWord")
@pytest.mark.usefixtures("idle")
@given(junk | st.just("a red ring"), few)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_raises_nothing_but_value_errors_before_work(
    opened: pydiff.Pipeline, prompt: Any, arguments: dict[str, Any]
) -> None:
    arguments = {"prompt": prompt, **arguments}
    with contextlib.suppress(ValueError):
        opened.stream(**arguments).close()
    with contextlib.suppress(ValueError, AssertionError):  # what is sound begins work
        opened.generate(**arguments)


@pytest.mark.filterwarnings("ignore::pydiff.UnknownWord")
@pytest.mark.usefixtures("idle")
@given(junk, few)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_raises_nothing_but_value_errors_in_every_task(
    opened: pydiff.Pipeline, image: Any, arguments: dict[str, Any]
) -> None:
    size = {"size": 256} if "size" not in arguments else {}
    tasks: list[Any] = [opened.upscale, opened.image_to_image, opened.variations, opened.instruct]
    for task in tasks:
        for given_image in (image, np.zeros((8, 8, 3))):
            with contextlib.suppress(ValueError, AssertionError):
                task(given_image, **size, **arguments)
    with contextlib.suppress(ValueError):
        opened.inpaint(image, image, **arguments)


def test_a_call_holds_what_is_said(pipe: pydiff.Pipeline) -> None:
    """Named arguments in their fields, everything else an option; a call of nothing but a prompt does."""
    wanted = generate(pipe.cascade, Call("a red ring"))
    assert len(wanted.seeds) == 1
    assert wanted.micro == Micro()
    for name in ("prompt", "options"):  # no options by accident
        with pytest.raises(ValueError, match=f"unknown option {name}"):
            pipe.variations_of = None if name else None  # type: ignore[attr-defined]
            generate(pipe.cascade, Call("a", options={name: {}}))
