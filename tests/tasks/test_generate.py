"""A request is checked whole before any work; its run walks text, stages and steps in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pydiff
from pydiff.images import to_pil
from pydiff.tasks.generate import REPEATED, Preview, generate, request, settings_of, states
from pydiff.tasks.plan import Options
from pydiff.text.prompts import PromptEncoder


def test_a_request_does_no_work(pipe: pydiff.Pipeline, idle: None) -> None:
    wanted = request(pipe.cascade, "a red ring", seed=7, size=256)
    assert (wanted.prompts, wanted.negatives, wanted.seeds) == (["a red ring"], [""], [7])
    assert [plan.stage.size for plan in wanted.plans] == [64, 256]
    iterator = states(wanted)  # nor does asking for the run
    with pytest.raises(AssertionError, match="work was begun"):
        next(iterator)


def test_the_default_size_is_the_models_own(pipe: pydiff.Pipeline) -> None:
    assert request(pipe.cascade, "").plans[-1].stage.size == pipe.cascade.default_size


@pytest.mark.parametrize(("scale", "texts"), [(1.0, 1), (3.0, 2), ([1.0, 2.0], 2), (lambda level, levels: 1.0, 1)])
def test_the_null_prompt_is_encoded_only_for_guidance(
    pipe: pydiff.Pipeline, monkeypatch: pytest.MonkeyPatch, scale: Any, texts: int
) -> None:
    encoded: list[list[str]] = []
    encode = PromptEncoder.encode

    def watch(self: PromptEncoder, prompts: list[str]) -> torch.Tensor:
        encoded.append(prompts)
        return encode(self, prompts)

    monkeypatch.setattr(PromptEncoder, "encode", watch)
    options = Options(num_inference_steps=2, guidance_scale=[scale])
    generate(request(pipe.cascade, "a red ring", seed=7, size=64, options=options))
    assert encoded == [["a red ring"], [""]][:texts]


def test_states_and_timings(pipe: pydiff.Pipeline) -> None:
    options = Options(num_inference_steps=[2, 1])
    seen: list[Any] = []
    made = generate(request(pipe.cascade, "a red ring", seed=7, size=256, options=options), watch=seen.append)
    assert [(state.stage, state.step, state.stage_done, state.done) for state in seen] == [
        (0, 0, False, False),
        (0, 1, True, False),
        (1, 0, True, True),
    ]
    assert seen[0].t > seen[1].t
    assert all(state.x.shape == state.denoised.shape and state.seconds > 0 for state in seen)
    assert made.timings["stages"] == pytest.approx([seen[0].seconds + seen[1].seconds, seen[2].seconds])
    assert np.array_equal(made.stages[0][0], to_pil(seen[1].x)[0])
    assert np.array_equal(made.images[0], to_pil(seen[2].x)[0])


def test_a_preview_shows_its_state(pipe: pydiff.Pipeline) -> None:
    state = next(states(request(pipe.cascade, ["", ""], seed=7, size=64)))
    preview = Preview(state)
    assert [picture.size for picture in preview.images] == [(64, 64)] * 2
    assert isinstance(preview.image, Image.Image)
    assert preview.t == state.t
    assert not hasattr(preview, "nothing")


def test_settings_name_everything_that_repeats(pipe: pydiff.Pipeline) -> None:
    wanted = request(pipe.cascade, ["a", "the"], seed=[5, 9], negative_prompt="in", size=256)
    told = settings_of(wanted, 1)
    assert (told["prompt"], told["negative_prompt"], told["seed"], told["size"]) == ("the", "in", 9, 256)
    assert set(told) == {*REPEATED, "task", "model", "version"}
    assert told["version"] == pydiff.__version__
    assert all(len(told[name]) == 2 for name in Options.__dataclass_fields__)


def test_a_picture_is_repeated_for_each_prompt(pipe: pydiff.Pipeline) -> None:
    wanted = request(pipe.cascade, ["a", "the"], seed=1, size=256, image=Image.new("RGB", (64, 64)))
    assert wanted.low_res is not None
    assert wanted.low_res.shape == (2, 3, 64, 64)
