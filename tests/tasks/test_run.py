"""A run walks text, stages and steps in order; what it says of itself repeats it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pydiff
from pydiff.images import to_pil
from pydiff.tasks.generate import generate, upscale
from pydiff.tasks.plan import Options
from pydiff.tasks.request import Call
from pydiff.tasks.run import REPEATED, Request, Walk, finish, previews, settings_of
from pydiff.text.encoders import Encoded, TextEncoder

STEPS = {"num_inference_steps": 2}


def ask(
    pipe: pydiff.Pipeline, prompt: Any = "a red ring", size: int = 64, options: Any = STEPS, **call: Any
) -> Request:
    return generate(pipe.cascade, Call(prompt, **{"seed": 7, **call}, options=options), size=size)


@pytest.mark.parametrize(
    ("scale", "texts"),
    [(1.0, 1), (3.0, 2), (0.0, 1), (-2.0, 1), ([1.0, 2.0], 2), ([0.5, 1.0], 1), (lambda level, levels: 1.0, 1)],
)
def test_the_null_prompt_is_encoded_only_for_guidance(
    pipe: pydiff.Pipeline, monkeypatch: pytest.MonkeyPatch, scale: Any, texts: int
) -> None:
    encoded: list[list[str | None]] = []
    encode, encode_pair = TextEncoder.encode, TextEncoder.encode_pair

    def watch(self: TextEncoder, prompts: Any, *rest: Any) -> Encoded:
        encoded.append(list(prompts))
        return encode(self, prompts, *rest)

    def watch_pair(self: TextEncoder, prompts: Any, negatives: Any, *rest: Any) -> tuple[Encoded, Encoded]:
        encoded.extend([list(prompts), list(negatives)])
        return encode_pair(self, prompts, negatives, *rest)

    monkeypatch.setattr(TextEncoder, "encode", watch)
    monkeypatch.setattr(TextEncoder, "encode_pair", watch_pair)
    finish(ask(pipe, options={**STEPS, "guidance_scale": [scale]}))
    assert encoded == [["a red ring"], [None]][:texts]


def test_stages_that_read_no_words_encode_none(pipe: pydiff.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("encode", "encode_pair", "check"):
        monkeypatch.setattr(TextEncoder, name, None)
    wanted = upscale(
        pipe.cascade, Image.new("RGB", (64, 64)), Call(seed=1, options={"num_inference_steps": 1}), size=256
    )
    assert (wanted.words, wanted.encoders, wanted.guided) == (None, [], False)
    assert finish(wanted).images[0].size == (256, 256)


def test_states_and_timings(pipe: pydiff.Pipeline) -> None:
    seen: list[Any] = []
    made = finish(ask(pipe, size=256, options={"num_inference_steps": [2, 1]}), watch=seen.append)
    assert [(state.stage, state.step, state.stage_done, state.done) for state in seen] == [
        (0, 0, False, False),
        (0, 1, True, False),
        (1, 0, True, True),
    ]
    assert seen[0].t > seen[1].t
    assert all(state.x.shape == state.denoised.shape and state.seconds > 0 for state in seen)
    assert [state.picture is state.x for state in seen] == [False, True, True]
    assert made.timings["stages"] == pytest.approx([seen[0].seconds + seen[1].seconds, seen[2].seconds])
    assert np.array_equal(made.stages[0][0], to_pil(seen[1].x)[0])
    assert np.array_equal(made.images[0], to_pil(seen[2].x)[0])


def test_a_preview_shows_its_state(pipe: pydiff.Pipeline) -> None:
    walk = previews(ask(pipe, ["", ""]))
    preview = next(walk)
    assert [picture.size for picture in preview.images] == [(64, 64)] * 2
    assert np.array_equal(preview.image, to_pil(preview.state.denoised)[0])
    assert preview.t == preview.state.t
    assert not hasattr(preview, "nothing")
    assert copy.copy(preview).t == preview.t
    *_, last = walk
    assert np.array_equal(last.image, to_pil(last.x)[0])


def test_settings_name_everything_that_repeats(pipe: pydiff.Pipeline) -> None:
    told = settings_of(ask(pipe, ["a", "the"], 256, {}, seed=[5, 9], negative_prompt="in"), 1)
    assert (told["prompt"], told["negative_prompt"], told["seed"], told["size"]) == ("the", "in", 9, 256)
    assert (told["height"], told["width"]) == (256, 256)
    own = {"prompt", "negative_prompt", "seed", "size", "height", "width"}
    assert set(told) == {*own, *Options.__dataclass_fields__, "task", "model", "version"}
    assert own <= set(REPEATED)
    assert told["version"] == pydiff.__version__
    assert all(len(told[name]) == 2 for name in Options.__dataclass_fields__)


def test_settings_of_no_words_and_of_no_seed(pipe: pydiff.Pipeline) -> None:
    wanted = upscale(pipe.cascade, np.zeros((64, 64, 3)), Call(generator=torch.Generator()), size=256)
    told = settings_of(wanted, 0)
    assert (told["task"], told["prompt"], told["negative_prompt"], told["seed"]) == ("upscale", None, None, None)
    assert (told["num_inference_steps"], told["noise_level"], told["guidance_scale"]) == ([5], [60], [1.0])


def test_settings_hold_how_words_are_read(pipe: pydiff.Pipeline) -> None:
    told = settings_of(ask(pipe, options={"weighting": True, "chunks": False, "clean_caption": None}), 0)
    assert {name: told.get(name) for name in ("weighting", "chunks")} == {"weighting": True, "chunks": False}
    assert "clean_caption" not in told


def test_latents_are_no_seeds(pipe: pydiff.Pipeline) -> None:
    """What the caller gave in place of the first noise is not in the settings, which then name no seed."""
    drawn = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    call = {"size": 64, "num_inference_steps": 2, "output_type": "np", "sampler": "ddim"}
    given = pipe.generate("a red ring", latents=drawn, seed=1, **call)
    assert np.array_equal(given.images, pipe.generate("a red ring", seed=7, **call).images)
    assert (given.seeds, given.settings[0]["seed"]) == ([1], None)


def test_a_callback_after_each_step(pipe: pydiff.Pipeline) -> None:
    seen: list[tuple[int, float]] = []

    def halve(walk: Walk, step: int, t: float, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        seen.append((step, t))
        walk.interrupt = len(seen) == 4
        return {"latents": tensors["latents"] / 2} if step == 0 else None

    told: list[Any] = []
    options = {"num_inference_steps": [2, 3]}
    made = finish(ask(pipe, size=256, options=options, callback_on_step_end=halve), watch=told.append)
    assert [step for step, _ in seen] == [0, 1, 0, 1]
    assert [t for _, t in seen] == [state.t for state in told]
    assert [state.done for state in told] == [False, False, False, True]
    assert [pictures[0].size for pictures in made.stages] == [(64, 64), (256, 256)]
    plain = finish(ask(pipe, size=256, options=options))
    assert not np.array_equal(made.stages[0][0], plain.stages[0][0])


def test_a_run_that_ends_in_its_first_stage(pipe: pydiff.Pipeline) -> None:
    def end(walk: Walk, *_: Any) -> None:
        walk.interrupt = True

    made = finish(ask(pipe, size=256, options={"num_inference_steps": [2, 2]}, callback_on_step_end=end))
    assert [pictures[0].size for pictures in made.stages] == [(64, 64)]
    assert made.images is made.stages[0]
