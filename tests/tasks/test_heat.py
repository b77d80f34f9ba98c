"""The laws of capturing attention, and what is refused."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pydiff
from pydiff.tasks.generate import generate
from pydiff.tasks.heat import capturing
from pydiff.tasks.request import Call
from pydiff.tasks.run import finish
from pydiff.tasks.words import make_words
from tests.checkpoints import makers
from tests.tasks.test_heat_peer import BOTH, JOINT

PROMPT = "a red circle left of a blue square on a white background"
SMALL: dict[str, Any] = {"size": 64, "num_inference_steps": 2, "seed": 7, "output_type": "np"}


def test_capturing_changes_no_picture(pipe: pydiff.Pipeline) -> None:
    plain, one, all_ = (pipe.generate(PROMPT, capture=words, **SMALL) for words in (None, ["red"], True))
    assert np.abs(plain.images - one.images).max() <= 1e-5  # another operator runs where nothing is captured
    assert np.array_equal(one.images, all_.images)
    assert np.array_equal(one.heat["red"], all_.heat["red"])
    assert (len(plain.heat), list(one.heat), one.settings) == (0, ["red"], plain.settings)
    assert list(all_.heat) == ["a", "red", "circle", "left", "of", "blue", "square", "on", "white", "background"]


def test_capturing_changes_no_edit(pipe: pydiff.Pipeline) -> None:
    edit: dict[str, Any] = {"local_blend": ["circle"], "self_replace": 0.5, **SMALL}
    targets = [PROMPT.replace("red", "green"), PROMPT.replace("circle", "ring")]
    plain, made = (pipe.edit(PROMPT, targets, capture=words, **edit) for words in (None, ["circle", "ring"]))
    assert np.abs(plain.images - made.images).max() <= 1e-5
    assert made.heat["circle"].shape == (3, 16, 16)
    assert (made.heat["circle"].max((1, 2)) > 0).tolist() == [True, True, False]
    assert (made.heat["ring"].max((1, 2)) > 0).tolist() == [False, False, True]


def test_a_batch_is_its_pictures_alone(pipe: pydiff.Pipeline) -> None:
    prompts, call = [PROMPT, "three green stars and a red ring"], {**SMALL, "capture": ["red", "stars"]}
    batch = pipe.generate(prompts, **{**call, "seed": [5, 9]}).heat
    for index, (prompt, seed) in enumerate(zip(prompts, [5, 9], strict=True)):
        alone = pipe.generate(prompt, **{**call, "seed": seed, "capture": "red"}).heat
        assert alone["red"].shape == (16, 16)
        assert np.allclose(batch["red"][index], alone["red"], rtol=0, atol=1e-5)
    assert batch["stars"][0].max() == 0
    assert batch["stars"][1].max() == 1


def test_streaming_is_generating(pipe: pydiff.Pipeline) -> None:
    call = {"seed": 7, "size": 256, "num_inference_steps": [3, 1], "capture": ["circle"], "heat_every_step": True}
    made = pipe.generate(PROMPT, **call)
    seen = [preview.heat["circle"] for preview in pipe.stream(PROMPT, **call)]
    assert len(seen) == 4
    assert np.array_equal(seen[-1], made.heat["circle"])
    assert np.array_equal(seen[2], seen[3])  # the second stage reads no words
    assert not np.array_equal(seen[0], seen[1])
    steps = made.heat.steps("circle")
    assert (steps.shape, steps.max()) == ((3, 16, 16), 1)
    assert np.allclose(steps[0] / steps[0].max(), seen[0], rtol=0, atol=1e-6)
    assert np.allclose(steps.mean(0) / steps.mean(0).max(), seen[-1], rtol=0, atol=1e-6)
    first = pipe.stream(PROMPT, **{**call, "heat_steps": (0.5, 1.0)})
    assert next(first).heat["circle"].max() == 0  # not captured yet
    first.close()


def test_neither_order_nor_number_of_words_matters(pipe: pydiff.Pipeline) -> None:
    words: list[Any] = ["red circle", "circle", ("a", 1), "RED"]
    one, other = (pipe.generate(PROMPT, capture=given, **SMALL).heat for given in (words, [*words[::-1], "circle"]))
    assert list(other) == words[::-1]
    assert all(np.allclose(one[word], other[word], rtol=0, atol=1e-6) for word in words)
    assert np.allclose(one.attention("red circle"), one.attention("RED") + one.attention("circle"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scales", [[3.0, 1.0], [1.0, 3.0]])
def test_levels_of_fewer_branches(pipe: pydiff.Pipeline, scales: list[float]) -> None:
    call = {**SMALL, "guidance_scale": [scales], "capture": "circle", "seed": [3, 4], "num_images_per_prompt": 2}
    made, steps = (pipe.generate(PROMPT, heat_every_step=every, **call) for every in (False, True))
    assert np.array_equal(made.images, steps.images)
    assert np.allclose(made.heat["circle"], steps.heat["circle"], rtol=0, atol=1e-6)
    alone = pipe.generate(PROMPT, **{**call, "seed": 3, "num_images_per_prompt": 1}).heat["circle"]
    assert np.allclose(made.heat["circle"][0], alone, rtol=0, atol=1e-5)


def test_which_layers_and_steps(pipe: pydiff.Pipeline) -> None:
    call = {**SMALL, "capture": "circle"}
    every = pipe.generate(PROMPT, heat_every_step=True, **call).heat.steps("circle")
    part = pipe.generate(PROMPT, heat_steps=0.5, **call).heat["circle"]
    assert np.allclose(part, every[0] / every[0].max(), rtol=0, atol=1e-5)
    small = pipe.generate(PROMPT, heat_size=8, heat_heads=True, **call).heat
    assert (small["circle"].shape, small["circle"].max()) == ((4, 8, 8), 1)
    mid = pipe.generate(PROMPT, heat_layers=["mid_block.*", "up_blocks.1.*"], **call).heat.attention("circle")
    parts = {name: pipe.generate(PROMPT, heat_layers=name, **call).heat for name in ("mid_block.*", "up_blocks.1.*")}
    own, low = parts["up_blocks.1.*"].attention("circle"), parts["mid_block.*"].attention("circle")
    enlarged = F.interpolate(torch.tensor(low)[None, None], scale_factor=2, mode="bilinear")[0, 0].numpy()
    assert np.allclose(mid, (2 * own + enlarged) / 3, rtol=0, atol=1e-6)  # up_blocks.1 has two layers


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> pydiff.Pipeline:
    folder = tmp_path_factory.mktemp("diffusion")
    makers.stable_diffusion(folder, unet=BOTH)
    return pydiff.load(folder)


TINY: dict[str, Any] = {"num_inference_steps": 2, "seed": 3, "output_type": "np"}


def test_all_columns_sum_to_one(diffusion: pydiff.Pipeline) -> None:
    wanted = generate(
        diffusion.cascade, Call("the red cat", seed=3, options={"num_inference_steps": 2, "capture": "cat"})
    )
    (change,) = wanted.changes
    assert isinstance(change, partial)
    plan = change.keywords["wanted"]
    everything = plan._replace(probe=np.ones_like(plan.probe))
    made = finish(dataclasses.replace(wanted, changes=(partial(change.func, wanted=everything),)))
    assert np.allclose(made.heat.attention("cat"), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "small"), [(26, 38, (7, 10)), (22, 34, (6, 9))])
def test_sides_that_do_not_halve(diffusion: pydiff.Pipeline, height: int, width: int, small: tuple[int, int]) -> None:
    call = {**TINY, "height": height, "width": width, "capture": "cat"}
    assert diffusion.generate("the red cat", **call).heat["cat"].shape == (height // 2, width // 2)
    assert diffusion.generate("the red cat", heat_size=max(small), **call).heat["cat"].shape == small


def test_sides_that_residual_blocks_halve(tmp_path: Path) -> None:
    makers.deepfloyd(tmp_path, **JOINT)
    call = {**TINY, "height": 11, "width": 7, "capture": "cat"}
    pipe = pydiff.load(tmp_path)
    assert pipe.generate("the red cat", **call).heat["cat"].shape == (11, 7)
    assert pipe.generate("the red cat", heat_size=5, **call).heat["cat"].shape == (5, 3)


def test_other_tasks_capture_too(diffusion: pydiff.Pipeline, tmp_path: Path) -> None:
    image, mask = np.full((32, 32, 3), 0.5), np.eye(32, dtype=bool)
    call = {**TINY, "capture": ["cat"], "num_images_per_prompt": 2}
    made = [
        diffusion.image_to_image(image, "the red cat", heat_steps=(0, 0.5), strength=1.0, **call),
        diffusion.image_to_image(image, "the red cat", **{**call, "strength": 0.5}),
        diffusion.inpaint(image, mask, "the red cat", **call),
    ]
    makers.stable_diffusion(tmp_path / "b", "StableDiffusionInstructPix2PixPipeline", unet={"in_channels": 8})
    made.append(pydiff.load(tmp_path / "b").instruct(image, "the red cat", **call))
    makers.upscaler(tmp_path / "c")
    made.append(pydiff.load(tmp_path / "c").upscale(image[:8, :8], "the red cat", **call))
    for result in made:
        assert result.heat["cat"].shape[0] == 2
        assert result.heat["cat"].max((1, 2)).tolist() == [1, 1]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"capture": "dragon"}, "capture names the word 'dragon', which is not in 'a red circle left"),
    ({"capture": ["red", ("circle", 1)]}, "capture names occurrence 1 of the word 'circle'"),
    ({"capture": []}, r"capture is not understood: \[\] names no words; .* or True for all words"),
    ({"capture": 3}, "capture is not understood: 3 names no words"),
    ({"capture": False}, "capture is not understood: False"),
    ({"capture": {"red": 1}}, "capture is not understood"),
    ({"capture": ""}, "the word '' is empty"),
    ({"capture": True, "prompt": ""}, "capture is True, but the prompts hold no words"),
    ({"heat_size": 12}, "heat_size is 12, which no layer has; expected some of 8, 16"),
    ({"heat_size": "8"}, "heat_size is '8'; expected an integer"),
    ({"heat_size": []}, "heat_size is empty; expected some of 8, 16"),
    ({"heat_size": 16, "heat_layers": "mid_block.*"}, "heat_size is 16, which no layer has; expected some of 8"),
    ({"heat_layers": "conv"}, "heat_layers has 'conv', which fits no layer; the 9 layers are down_blocks.2"),
    ({"heat_layers": 3}, "heat_layers is 3"),
    ({"heat_steps": 2}, "heat_steps is 2; expected shares of the run"),
    ({"heat_steps": (0.5, 0.5)}, r"heat_steps is \(0.5, 0.5\), which holds none of the run's 2 steps"),
    ({"heat_steps": "all"}, "heat_steps is 'all'; expected a number"),
    ({"heat_heads": 1}, "heat_heads is 1; expected True or False"),
    ({"heat_heads": True}, "heat_heads is True, but layers have 2 and 4 heads; choose some by heat_size"),
    ({"heat_every_step": "yes"}, "heat_every_step is 'yes'"),
    ({"capture": None, "heat_size": 8}, "heat_size is given, but no words are captured; name them: capture="),
    ({"capture": None, "heat_heads": True}, "heat_heads is given, but no words are captured"),
    ({"weighting": True}, "weighting is given, but words are found in plain prompts alone"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 128), "negative_prompt_embeds": torch.zeros(1, 77, 128)},
     "prompt_embeds is given, but words are found in plain prompts alone"),
]  # fmt: skip


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("call", "message"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_refused_before_any_work(pipe: pydiff.Pipeline, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.generate(**{"prompt": PROMPT, "capture": ["circle"], **SMALL, **call})


@pytest.mark.usefixtures("idle")
def test_models_that_attend_to_no_words(pipe: pydiff.Pipeline) -> None:
    with pytest.raises(ValueError, match="the first stage of this run attends to no words"):
        pipe.upscale(np.zeros((64, 64, 3)), capture="red", size=256)
    plan = generate(pipe.cascade, Call("a red circle"), size=64).plans[0]
    unclip = plan._replace(stage=dataclasses.replace(plan.stage, traits={"unclip": None}))
    with pytest.raises(ValueError, match="unCLIP reads more than words"):
        capturing({"capture": "red"}, unclip, make_words("a red circle"), False)


@pytest.mark.usefixtures("idle")
def test_a_second_prompt_is_refused(tmp_path: Path) -> None:
    makers.xl(tmp_path)
    with pytest.raises(ValueError, match="prompt_2 is given, but words are found in plain prompts alone"):
        pydiff.load(tmp_path).generate("the red cat", capture="cat", prompt_2="a dog", **TINY)


def test_words_of_several_windows(diffusion: pydiff.Pipeline) -> None:
    negative = "a dog " * 40
    for scale in (1.0, 3.0):  # the negative prompt is read, and makes two windows of the prompt, where it is used
        call = {**TINY, "chunks": True, "guidance_scale": scale, "negative_prompt": negative}
        assert diffusion.generate("the red cat", capture="cat", **call).heat["cat"].max() == 1
