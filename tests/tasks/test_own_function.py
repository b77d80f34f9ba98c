"""A user's own edit of maps: Prompt-to-Prompt typed by hand is Prompt-to-Prompt from tables, a function that returns
what it got changes nothing, and what it does wrong is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pydiff
from pydiff.arrays import like
from pydiff.diffusion.edits import EditTable
from pydiff.tasks.columns import prompt_columns
from pydiff.tasks.edit import borrowing
from pydiff.tasks.edit_options import EditOptions
from pydiff.tasks.words import make_words
from tests.checkpoints import makers

SOURCE, TARGET = "the red cat on a table", "the red dog on a small table"
STEPS = 5
Function = Callable[[Tensor, Tensor, float], Tensor]


def by_hand(table: EditTable) -> Function:
    """Words refined and re-weighted, and what is left of a joint map rescaled."""

    def function(source: Tensor, own: Tensor, progress: float) -> Tensor:
        assert progress * STEPS == pytest.approx(round(progress * STEPS))
        row = table.at(round(progress * STEPS))
        text = row.keep.shape[1]
        transfer, keep = like(row.transfer[1], own), like(row.keep[1], own)
        made = source[..., :text] @ transfer + own[..., :text] * keep
        rest = own[..., text:]
        if rest.shape[-1]:
            rest = rest * (1 - made.sum(-1, keepdim=True)) / rest.sum(-1, keepdim=True)
        return torch.cat([made, rest], dim=-1)

    return function


def table_of(pipe: pydiff.Pipeline, options: EditOptions) -> EditTable:
    text = pipe.cascade.stages[0].text
    assert text is not None
    return borrowing(prompt_columns(text, make_words([SOURCE, TARGET]), True), STEPS, [options]).table


@pytest.mark.parametrize("family", ["separate", "joint"])
@pytest.mark.parametrize(
    "edit",
    [
        {"self_replace": 0.0},
        {"cross_replace": {"default_": 0.6, "dog": 0.2}, "reweight": {"red": 2.0}, "self_replace": 0.0},
        {"function_layers": "mid_block.*", "self_replace": 0.0},
        {"local_blend": ["cat", "dog"], "self_replace": 0.0},
    ],
    ids=str,
)
def test_by_hand_is_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, edit: dict[str, Any]
) -> None:
    """In named layers, while the tables rule all others."""
    makers.stable_diffusion(tmp_path) if family == "separate" else makers.deepfloyd(tmp_path)
    ours = pydiff.load(tmp_path, dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    tables = {name: value for name, value in edit.items() if name != "function_layers"}
    if family == "separate" and "function_layers" in edit:
        edit = {**edit, "function_layers": "mid_block.*.attn2"}
    call: dict[str, Any] = {"seed": 3, "num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "latent"}
    expected = ours.edit(SOURCE, TARGET, **call, **tables).images
    function = by_hand(table_of(ours, EditOptions(**{**tables, "local_blend": None})))
    made = ours.edit(SOURCE, TARGET, function=function, **call, **edit).images
    assert (made - expected).abs().max() < 1e-6
    plain = ours.generate([SOURCE, TARGET], **{**call, "seed": [3, 3]}).images
    assert (expected[1] - plain[1]).abs().max() > 1e-4


def test_pixels_borrow_where_no_function_is_named(tmp_path: Path) -> None:
    """The self-attention of separate networks is the tables', unless it is named: then the function alone rules it."""
    makers.stable_diffusion(tmp_path)
    ours = pydiff.load(tmp_path, dtype=torch.float64)
    call: dict[str, Any] = {"seed": 3, "num_inference_steps": STEPS, "output_type": "latent", "cross_replace": 0.0}
    expected = ours.edit(SOURCE, TARGET, self_replace=1.0, **call).images
    made = ours.edit(SOURCE, TARGET, function=lambda source, own, at: own, self_replace=1.0, **call).images
    assert (made - expected).abs().max() < 1e-6
    sources = {"function": lambda source, own, at: source, "function_layers": "*.attn1", "self_replace": 0.0}
    assert (ours.edit(SOURCE, TARGET, **sources, **call).images - expected).abs().max() < 1e-6


def test_what_returns_the_targets_map_changes_nothing(pipe: pydiff.Pipeline) -> None:
    seen: list[tuple[tuple[int, ...], float]] = []

    def own(source: Tensor, target: Tensor, progress: float) -> Tensor:
        seen.append((tuple(target.shape), progress))
        assert source.shape == target.shape
        return target

    words = ["a red circle", "a blue ring", "a green star"]
    how: dict[str, Any] = {"size": 64, "num_inference_steps": 4, "output_type": "pt", "guidance_scale": 3.0}
    others = {"self_replace": 0.0, "pooled_replace": 0.0, "spatial_replace": 0.0}
    made = pipe.edit(words[0], words[1:], function=own, **others, seed=5, **how)
    plain = pipe.generate(words, seed=[5] * 3, **how).images
    torch.testing.assert_close(made.images, plain, atol=1e-4, rtol=0)
    reading = [name for name, what in pipe.attention_layers.items() if "text" in what]
    assert len(seen) == 2 * 4 * len(reading)  # two targets, in the branch of the prompts alone
    assert sorted({at for _, at in seen}) == [0.0, 0.25, 0.5, 0.75]
    assert all(len(shape) == 3 for shape, _ in seen)
    assert made.settings[1]["function"].endswith("own")


def test_attention_layers_are_named_with_what_they_attend_to(tmp_path: Path, pipe: pydiff.Pipeline) -> None:
    assert pipe.attention_layers["mid_block.attentions.0"] == "text and pixels"
    makers.stable_diffusion(tmp_path)
    named = pydiff.load(tmp_path).attention_layers
    block = "mid_block.attentions.0.transformer_blocks.0"
    assert (named[f"{block}.attn1"], named[f"{block}.attn2"]) == ("pixels", "text")
    assert len(named) == 8


WRONG: list[tuple[Function, str]] = [
    (lambda source, own, at: None, "edit function returned NoneType in down_blocks.2.attentions.0; expected a map of"),  # type: ignore[arg-type,return-value]
    (lambda source, own, at: own[..., :3], r"returned torch.float32 \(.*, 3\) in .*; expected a map of floats \("),
    (lambda source, own, at: own.tolist(), "returned list in"),
    (lambda source, own, at: own / 0, "returned NaN or infinity in down_blocks.2.attentions.0"),
    (lambda source, own, at: own > 0, "returned torch.bool"),
]


@pytest.mark.parametrize(("function", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_map_is_said_with_its_layer(pipe: pydiff.Pipeline, function: Function, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.edit("a red circle", "a blue ring", size=64, num_inference_steps=1, function=function)


def test_what_a_function_raises_reaches_its_user(pipe: pydiff.Pipeline) -> None:
    class OwnError(Exception):
        pass

    error = OwnError("mine")

    def fails(source: Tensor, own: Tensor, progress: float) -> Tensor:
        raise error

    with pytest.raises(OwnError) as raised:
        pipe.edit("a red circle", "a blue ring", size=64, num_inference_steps=1, function=fails)
    assert raised.value is error
    assert raised.value.__cause__ is None


BAD: list[tuple[dict[str, Any], str]] = [
    ({"function": "own"}, "function is 'own'; expected one of \\(source_map, target_map, progress\\) -> map"),
    ({"function": 3}, "function is 3"),
    ({"function_layers": "mid*"}, "function_layers are given without a function"),
    ({"function": max, "function_layers": "middle"}, "function_layers has 'middle', which fits no layer"),
    ({"function": max, "function_layers": []}, r"function_layers is \[\]"),
    ({"function": max, "function_layers": ["mid*", 3]}, "function_layers is "),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=str)
def test_what_does_not_fit_is_refused_before_work(
    pipe: pydiff.Pipeline, idle: None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.edit("a red circle", "a blue circle", **options)
