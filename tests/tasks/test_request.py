"""Whatever does not fit is refused by name before any work."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pydiff
from pydiff.cascade import Cascade, StageDefaults
from pydiff.models.unet2d import UNet2D, UNet2DConfig
from pydiff.tasks.begin import Micro, from_noise
from pydiff.tasks.classifier import CLASSIFIER
from pydiff.tasks.generate import generate
from pydiff.tasks.heat import HEAT
from pydiff.tasks.plan import PRIOR, Options
from pydiff.tasks.request import Call, make_call, make_request
from pydiff.tasks.run import Request, settings_of
from pydiff.tasks.words import EMBEDDINGS, READING, SECOND
from tests.idle import WorkBeganError
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
    *(*Options.__dataclass_fields__, *Micro.__dataclass_fields__, *EMBEDDINGS, *SECOND, *READING, *PRIOR, *HEAT),
    *CLASSIFIER,
    *("size", "options", "self", "other"),
]
few = st.dictionaries(st.sampled_from(NAMES), junk, max_size=4)
sound = st.just("a red ring")
QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.mark.filterwarnings("ignore::pydiff.UnknownWord")
@pytest.mark.usefixtures("idle")
@given(junk | sound, few, st.dictionaries(st.sampled_from(["height", "width", "latents"]), junk, max_size=2))
@settings(max_examples=300, **QUIET)
def test_junk_raises_nothing_but_value_errors_before_work(
    pipe: pydiff.Pipeline, prompt: Any, arguments: dict[str, Any], more: dict[str, Any]
) -> None:
    arguments = {name: value for name, value in {**arguments, **more}.items() if name != "self"}
    with contextlib.suppress(ValueError):
        pipe.stream(prompt, **arguments).close()
    with contextlib.suppress(ValueError, WorkBeganError):  # what is sound begins work
        pipe.generate(prompt, **arguments)


@pytest.mark.filterwarnings("ignore::pydiff.UnknownWord")
@pytest.mark.usefixtures("idle")
@given(st.sampled_from(["upscale", "image_to_image", "variations", "instruct"]), junk, junk | sound, few)
@settings(max_examples=300, **QUIET)
def test_junk_raises_nothing_but_value_errors_in_every_task(
    pipe: pydiff.Pipeline, task: str, image: Any, prompt: Any, arguments: dict[str, Any]
) -> None:
    arguments = {name: value for name, value in arguments.items() if name != "self"}
    if task != "variations":
        arguments["prompt"] = prompt
    for given_image in (image, np.zeros((64, 64, 3))):
        with contextlib.suppress(ValueError, WorkBeganError):
            getattr(pipe, task)(given_image, **{"size": 256, **arguments})
    with contextlib.suppress(ValueError):
        pipe.inpaint(image, image, **{"prompt": prompt, **arguments})


def request(pipe: pydiff.Pipeline, call: Call, said: dict[str, Any] | None = None, **changes: Any) -> Request:
    """A request of the first stage as if it were another one."""
    stage = dataclasses.replace(pipe.cascade.stages[0], **changes)
    return make_request("generate", Cascade("other", (stage,), 64), [stage], [from_noise], call, said=said)


def classes() -> dict[str, Any]:
    config = UNet2DConfig(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, num_class_embeds=10,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    return {"unet": UNet2D(config), "text": None, "size": (8, 8), "defaults": StageDefaults(2, 1.0)}


KINDS: dict[str, dict[str, Any]] = {"plain": {}, "xl": {"traits": {"micro": "sizes"}}, "classes": classes()}


@pytest.mark.filterwarnings("ignore::pydiff.UnknownWord")
@pytest.mark.usefixtures("idle")
@given(st.sampled_from(list(KINDS)), junk | sound, few)
@settings(max_examples=300, **QUIET)
def test_a_call_of_junk_raises_nothing_but_value_errors(
    pipe: pydiff.Pipeline, kind: str, prompt: Any, arguments: dict[str, Any]
) -> None:
    fields = {name: value for name, value in arguments.items() if name in Call.__dataclass_fields__}
    options = {name: value for name, value in arguments.items() if name not in fields}
    try:
        wanted = request(pipe, Call(**{"prompt": prompt, **fields, "options": options}), **KINDS[kind])
    except ValueError:
        return
    for index in range(len(wanted.seeds)):
        json.dumps(settings_of(wanted, index), allow_nan=False)


def test_a_call_of_nothing_but_a_prompt(pipe: pydiff.Pipeline) -> None:
    wanted = generate(pipe.cascade, Call("a red ring"))
    assert (len(wanted.seeds), wanted.micro, wanted.labels, wanted.said) == (1, Micro(), None, {})


@pytest.mark.parametrize("name", ["prompt", "options", "stages", "text"])
def test_what_is_no_option(pipe: pydiff.Pipeline, name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown option {name}"):
        generate(pipe.cascade, Call("a", options={name: {}}))
    with pytest.raises(ValueError, match=f"unknown option {name}"):
        generate(pipe.cascade, make_call("a", {name: "a"}))


def test_classes(pipe: pydiff.Pipeline) -> None:
    wanted = request(pipe, Call(class_labels=[3, 9], num_images_per_prompt=2, seed=1), **classes())
    assert wanted.labels is not None
    assert (wanted.words, wanted.labels.tolist(), wanted.seeds) == (None, [3, 3, 9, 9], [1, 2, 3, 4])
    assert settings_of(wanted, 2)["class_labels"] == 9
    for labels in (4, (4,), np.int64(4), torch.tensor(4), torch.tensor([4])):
        assert request(pipe, Call(class_labels=labels), **classes()).labels.tolist() == [4]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "this model makes pictures of 10 classes; give class_labels, an int or a list of them"),
        ([], "give class_labels"),
        (10, "class_labels is 10; expected an integer from 0 to 9"),
        ([3, -1], "class_labels is -1"),
        (torch.tensor([0.5]), "class_labels is 0.5"),
        (torch.tensor([[1]]), r"class_labels is \[1\]"),
        ("3", "class_labels is '3'"),
        (True, "class_labels is True"),
    ],
)
def test_classes_that_are_none(pipe: pydiff.Pipeline, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request(pipe, Call(class_labels=labels), **classes())


def test_sizes_and_crops(pipe: pydiff.Pipeline) -> None:
    given_ = {"original_size": (np.int64(64), 48), "crops_coords_top_left": [0, 7], "aesthetic_score": np.float32(6.5)}
    wanted = request(pipe, Call("a", options=given_), **KINDS["xl"])
    assert wanted.micro.original_size == [64, 48]
    assert json.loads(json.dumps(settings_of(wanted, 0)))["crops_coords_top_left"] == [0, 7]
    repeated = {name: settings_of(wanted, 0)[name] for name in given_}
    assert request(pipe, Call("a", options=repeated), **KINDS["xl"]).micro == wanted.micro


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("original_size", 64, r"original_size is 64; expected two ints, \(height, width\) or \(top, left\)"),
        ("target_size", (1, 2, 3), r"target_size is \(1, 2, 3\)"),
        ("target_size", "ab", "target_size is 'a'|target_size is 'ab'"),
        ("crops_coords_top_left", (0, -1), "crops_coords_top_left is -1"),
        ("negative_original_size", (1.5, 2), "negative_original_size is 1.5"),
        ("negative_target_size", (10**30, 2), "negative_target_size is 1000"),
        ("aesthetic_score", NAN, "aesthetic_score is nan; expected a finite number"),
        ("negative_aesthetic_score", "high", "negative_aesthetic_score is 'high'"),
    ],
)
def test_sizes_and_crops_that_are_none(pipe: pydiff.Pipeline, name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request(pipe, Call("a", options={name: value}), **KINDS["xl"])
    with pytest.raises(ValueError, match=f"{name} is for Stable Diffusion XL; leave it out"):
        request(pipe, Call("a", options={name: value}))


def test_embeddings_in_place_of_words(pipe: pydiff.Pipeline, idle: None) -> None:
    states = torch.zeros(2, 3, 128)
    wanted = request(pipe, Call(options={"prompt_embeds": states, "negative_prompt_embeds": states}, seed=1))
    assert (len(wanted.seeds), wanted.guided) == (2, True)
    for changes, options, message in [
        ({}, {"prompt_embeds": states}, "given without negative_prompt_embeds"),
        ({}, {"negative_prompt_embeds": states}, "negative_prompt_embeds is given without prompt_embeds; give both"),
        ({}, {"prompt_embeds": states[..., :7], "guidance_scale": 1}, "reads embeddings of width 128"),
        (KINDS["xl"], {"prompt_embeds": states, "guidance_scale": 1}, "given without pooled_prompt_embeds"),
        ({"traits": {"unclip": None}}, {"prompt_embeds": states}, "unCLIP reads more than those; give a prompt"),
    ]:
        with pytest.raises(ValueError, match=message):
            request(pipe, Call(options=options), **changes)


def test_a_task_that_steers_reads_the_negative_prompt(pipe: pydiff.Pipeline) -> None:
    stage, call = pipe.cascade.stages[0], Call("a", options={"guidance_scale": 1.0})
    for steers in (False, True):
        wanted = make_request("generate", pipe.cascade, [stage], [from_noise], call, steers=steers)
        assert wanted.guided is steers
