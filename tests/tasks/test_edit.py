"""Prompt editing as a caller meets it: laws, settings that repeat it, and what is refused by name before any work."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pydiff
from pydiff.diffusion.local_blend import LocalBlend
from pydiff.tasks.edit import METHODS
from pydiff.tasks.edit_options import SHARES, EditOptions
from pydiff.tasks.run import REPEATED
from tests.checkpoints import makers
from tests.idle import WorkBeganError
from tests.tasks.junk import junk

SOURCE, TARGET = "a red circle left of a blue square", "a green circle left of a blue square"
LONGER = "a large red circle left of a small blue square"
FAST: dict[str, Any] = {"num_inference_steps": 3, "size": 64, "output_type": "pt"}
# Each changes other rows, layers or steps.
EDITS: list[dict[str, Any]] = [
    {},
    {"cross_replace": {"circle": (0.0, 0.5), "default_": 1.0}, "self_replace": (0.3, 1.0), "pixels": "keep"},
    {"pooled_replace": 0.7, "spatial_replace": 0.5},
    {"local_blend": ["circle"], "excluded": ["square"], "blend": {"threshold": 0.5}},
    {"reweight": {("a", 1): 2.0}, "mode": "refine", "compat": "google"},
]


def edited(pipe: pydiff.Pipeline, targets: Any = TARGET, source: str = SOURCE, **options: Any) -> Tensor:
    made: Tensor = pipe.edit(source, targets, **{"seed": 7, **FAST, **options}).images
    return made


@pytest.fixture(scope="module")
def plain(pipe: pydiff.Pipeline) -> Tensor:
    """Source and target from the same seed, unedited."""
    made: Tensor = pipe.generate([SOURCE, TARGET], seed=[7, 7], **FAST).images
    return made


@pytest.mark.parametrize("options", EDITS, ids=str)
def test_the_source_is_as_it_is_alone(pipe: pydiff.Pipeline, plain: Tensor, options: dict[str, Any]) -> None:
    made = edited(pipe, **options)
    assert (made[0] - plain[0]).abs().max() < 1e-5
    assert (made[1] - made[0]).abs().max() > 0.1


def test_an_edit_of_nothing_is_the_source(pipe: pydiff.Pipeline) -> None:
    for options in EDITS[:4]:
        made = edited(pipe, SOURCE, **options)
        assert (made[1] - made[0]).abs().max() < 1e-5


def test_an_edit_that_borrows_nothing_is_plain(pipe: pydiff.Pipeline, plain: Tensor) -> None:
    nothing = dict.fromkeys(SHARES, 0.0)
    assert (edited(pipe, **nothing) - plain).abs().max() < 1e-5
    weighted = edited(pipe, reweight={"circle": 1.0}, **nothing)
    assert (weighted - plain).abs().max() < 1e-5


def test_steps_begin_from_the_source_for_a_share_of_the_run(pipe: pydiff.Pipeline) -> None:
    states = list[Any]()
    made = pipe.edit(SOURCE, TARGET, seed=7, spatial_replace=0.7, num_inference_steps=10, size=64, watch=states.append)
    equal = [torch.equal(state.x[0], state.x[1]) for state in states]
    assert equal == [True] * 6 + [False] * 4  # x after step k is what step k + 1 begins from
    assert made.settings[1]["spatial_replace"] == 0.7


def test_pooled_text_is_borrowed_alone(pipe: pydiff.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list[Any]()
    kind = type(pipe.cascade.stages[0].unet)
    forward = kind.forward

    def recorded(self: Any, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        rows.append(None if cond.edit is None or cond.edit.pooled is None else cond.edit.pooled.tolist())
        return forward(self, x, t, cond)

    monkeypatch.setattr(kind, "forward", recorded)
    edited(
        pipe, pooled_replace=(0.2, 0.7), cross_replace=0.0, self_replace=0.0, spatial_replace=0.0, num_inference_steps=5
    )
    assert rows == [None, [0, 0, 2, 3], [0, 0, 2, 3], [0, 0, 2, 3], None]  # of the prompts' branch, not the null one


def test_targets_do_not_know_of_each_other(pipe: pydiff.Pipeline) -> None:
    for options in EDITS:
        alone = {target: edited(pipe, target, **options)[1] for target in (TARGET, LONGER)}
        for targets in ([TARGET, LONGER], [LONGER, TARGET]):
            for target, made in zip(targets, edited(pipe, targets, **options)[1:], strict=True):
                assert (made - alone[target]).abs().max() < 1e-5


def test_outside_the_words_the_source_stays(pipe: pydiff.Pipeline) -> None:
    made = edited(pipe, local_blend="circle", blend=LocalBlend(threshold=0.6), num_inference_steps=8)
    same = (made[1] == made[0]).all(0)
    assert 0.2 < same.float().mean() < 0.99
    everywhere = edited(pipe, local_blend="circle", blend=LocalBlend(threshold=0.0), num_inference_steps=8)
    assert (everywhere[1] - edited(pipe, num_inference_steps=8)[1]).abs().max() < 1e-5


def test_only_the_first_stage_is_edited(pipe: pydiff.Pipeline) -> None:
    made = pipe.edit(SOURCE, TARGET, seed=7, num_inference_steps=[3, 2], size=256, output_type="pt")
    assert [tuple(stage.shape) for stage in made.stages] == [(2, 3, 64, 64), (2, 3, 256, 256)]
    assert torch.equal(made.stages[0], edited(pipe))
    assert (made.images[1] - made.images[0]).abs().max() > 0.1


def test_a_sweep_is_its_edits_and_a_chain_is_both(pipe: pydiff.Pipeline) -> None:
    sweep = edited(pipe, None, reweight={"circle": [-1.0, 2.0], "red": 0.5})
    for index, weight in enumerate((-1.0, 2.0)):
        one = edited(pipe, None, reweight={"circle": weight, "red": 0.5})
        assert (sweep[1 + index] - one[1]).abs().max() < 1e-5
    refined, weighted = edited(pipe, LONGER), edited(pipe, LONGER, reweight={"large": 2.0})
    assert (refined[1] - weighted[1]).abs().max() > 1e-3


def test_sides_latents_and_a_drawn_seed(pipe: pydiff.Pipeline) -> None:
    wide = pipe.edit(SOURCE, TARGET, seed=7, num_inference_steps=1, height=64, width=96, output_type="np")
    assert wide.images.shape == (2, 64, 96, 3)
    latents = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    given = pipe.edit(SOURCE, TARGET, latents=latents, sampler="dpmpp_2m", **FAST)
    assert (given.images - edited(pipe, sampler="dpmpp_2m")).abs().max() < 1e-5
    assert given.settings[1]["seed"] is None
    drawn = pipe.edit(SOURCE, TARGET, num_inference_steps=1, size=64)
    assert drawn.seeds[0] == drawn.seeds[1] is not None


@pytest.mark.parametrize("options", [*EDITS, {"blend": LocalBlend(start=0.5), "local_blend": ("circle", 0)}], ids=str)
def test_settings_repeat_an_edit(pipe: pydiff.Pipeline, options: dict[str, Any]) -> None:
    made = pipe.edit(SOURCE, [TARGET, LONGER], seed=7, num_inference_steps=2, size=64, **options)
    said = json.loads(json.dumps(made.settings))
    assert said[0]["task"] == "generate"
    assert "source" not in said[0]
    names = {field.name for kind in METHODS.values() for field in dataclasses.fields(kind)}
    for index in (1, 2):
        assert (said[index]["task"], said[index]["source"]) == ("edit", SOURCE)
        call = {name: value for name, value in said[index].items() if name in {*REPEATED, *names}}
        again = pipe.edit(SOURCE, call.pop("prompt"), **call)
        difference = torch.tensor(list(again.images[1].tobytes()), dtype=torch.int16)
        assert (difference - torch.tensor(list(made.images[index].tobytes()), dtype=torch.int16)).abs().max() <= 1


BAD: list[tuple[dict[str, Any], str]] = [
    ({"target": None}, "re-weights words of its source; give reweight, or a target"),
    ({"target": []}, r"the edit is of .* to \[\]; expected a prompt"),
    ({"target": ["a", 3]}, "the edit is of"),
    ({"source": None}, "the edit is of None"),
    ({"source": ["a"]}, r"the edit is of \['a'\]"),
    ({"target": "red " * 100}, "shorten it"),
    ({"target": LONGER, "mode": "replace"}, "small"),
    ({"cross_replace": 1.5}, "cross_replace is 1.5; expected shares of the run"),
    ({"cross_replace": (0.5, 0.2)}, "cross_replace is"),
    ({"cross_replace": "all"}, "cross_replace is 'all'"),
    ({"cross_replace": {"dog": 0.5}}, "cross_replace names the word 'dog', which is not in"),
    ({"cross_replace": {"circle": 2}}, "cross_replace of 'circle' is 2"),
    ({"cross_replace": {5: 0.2}}, "5 names no word"),
    ({"self_replace": -0.1}, "self_replace is -0.1"),
    ({"self_replace_max_size": 2.5}, "self_replace_max_size is 2.5"),
    ({"pooled_replace": 2}, "pooled_replace is 2"),
    ({"spatial_replace": "x"}, "spatial_replace is 'x'"),
    ({"reweight": 5}, "reweight is 5; expected a word's weight"),
    ({"reweight": {"dog": 2}}, "reweight names the word 'dog'"),
    ({"reweight": {"circle": "much"}}, "reweight of 'circle' is 'much'"),
    ({"reweight": {"circle": [1, 2]}}, "reweight of 'circle' lists 2 values for 1 targets"),
    ({"reweight": {"circle": float("nan")}}, "expected"),
    ({"target": None, "reweight": {"circle": []}}, "the edit is of"),
    ({"local_blend": "dog"}, "names the word 'dog'"),
    ({"local_blend": 5}, "5 names no words"),
    ({"local_blend": []}, r"\[\] names no words"),
    ({"local_blend": ("circle", 4)}, "occurrence 4 of the word 'circle'"),
    ({"excluded": "circle"}, "excluded words are given without local_blend"),
    ({"blend": "soft"}, "blend is 'soft'; expected one of stable, null_text"),
    ({"local_blend": "circle", "blend": LocalBlend(threshold=1.0)}, "threshold of the local blend is 1.0"),
    ({"local_blend": "circle", "blend": {"treshold": 0.2}}, "blend has treshold; expected threshold"),
    ({"mode": "swap"}, "mode is 'swap'; expected one of"),
    ({"mode": {}}, "mode is {}"),
    ({"pixels": "borrow"}, "pixels is 'borrow'; expected one of rescale, keep"),
    ({"compat": "apple"}, "compat is 'apple'"),
    ({"method": "magic"}, "method is 'magic'; expected one of prompt_to_prompt"),
    ({"replace": 0.3}, "unknown option replace"),
    ({"generator": torch.Generator()}, "an edit draws one noise for all its pictures; give seed or latents"),
    ({"seed": [1, 2]}, r"seed is \[1, 2\]"),
    ({"num_images_per_prompt": 2}, "num_images_per_prompt is 2"),
    ({"prompt_embeds": torch.zeros(2, 77, 128)}, "prompt_embeds"),
    ({"latents": torch.zeros(2, 3, 64, 64)}, r"latents are torch.float32 \(2, 3, 64, 64\); expected floats \(1, 3"),
    ({"size": 65}, "size is 65"),
    ({"strength": 0.5}, "strength is 0.5"),
]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("wrong", "message"), BAD, ids=lambda value: str(value)[:50])
def test_refused(pipe: pydiff.Pipeline, wrong: dict[str, Any], message: str) -> None:
    call = {"source": SOURCE, "target": TARGET, **wrong}
    with pytest.raises(ValueError, match=message):
        pipe.edit(call.pop("source"), call.pop("target"), **call)


@pytest.mark.usefixtures("idle")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([field.name for field in dataclasses.fields(EditOptions)]), value=junk)
def test_junk_is_refused_or_fits(pipe: pydiff.Pipeline, name: str, value: Any) -> None:
    with contextlib.suppress(ValueError, WorkBeganError):
        pipe.edit(SOURCE, TARGET, **{name: value})


@pytest.mark.usefixtures("idle")
def test_models_that_make_nothing_of_prompts_alone(tmp_path: Path) -> None:
    makers.upscaler(tmp_path)
    with pytest.raises(ValueError, match=r"it makes pictures larger: pipe.upscale"):
        pydiff.load(tmp_path).edit(SOURCE, TARGET)
