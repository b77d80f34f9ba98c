"""Exported models by ONNX Runtime: each call and each task makes what torch makes of the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pydiff
from pydiff import cli
from pydiff.images import read_settings
from pydiff.nn.cond import Cond
from pydiff.nn.edit import AttentionEdit, Heat, MapEdit, PixelEdit, RowsIn
from pydiff.runtime.denoisers import OnnxUNet
from tests.idle import WorkBeganError
from tests.runtime.every_task import FAST, GREEN, RED, made_by, picture

CALL, RUN = 1e-4, 5e-4


@pytest.fixture(scope="module")
def pipe(exported: Path) -> pydiff.Pipeline:
    return pydiff.load(exported)


@pytest.fixture(scope="module")
def unet(pipe: pydiff.Pipeline) -> OnnxUNet:
    network = pipe.cascade.stages[0].unet
    assert isinstance(network, OnnxUNet)
    return network


@pytest.fixture(scope="module")
def made(pipe: pydiff.Pipeline, instructed: Path) -> dict[str, np.ndarray]:
    return made_by(pipe, pydiff.load(instructed))


@pytest.mark.parametrize(
    "task", ["generate", "batch", "edit", "blend", "inpaint", "image_to_image", "upscale", "instruct"]
)
def test_a_task_makes_the_picture_of_torch(
    made: dict[str, np.ndarray], by_torch: dict[str, np.ndarray], task: str
) -> None:
    assert set(made) == set(by_torch)
    for name in (name for name in made if name.split()[0] == task):
        assert made[name].shape == by_torch[name].shape
        assert np.abs(made[name] - by_torch[name]).max() <= RUN
        assert made[name].std() > 0


@pytest.mark.parametrize("stage", [0, 1])
def test_a_call_of_a_network(pipe: pydiff.Pipeline, ours: pydiff.Pipeline, stage: int) -> None:
    """Of three rows, on a picture that is not square, with tokens that are not attended to."""
    random = np.random.default_rng(stage)
    networks = [one.cascade.stages[stage].unet for one in (ours, pipe)]
    x = random.standard_normal((3, networks[0].config.in_channels, 40, 56)).astype(np.float32)
    parts: dict[str, Any] = {}
    if networks[0].reads_text:
        width = networks[0].config.text_dim  # type: ignore[union-attr]
        parts["text"] = random.standard_normal((3, 5, width)).astype(np.float32)
        parts["mask"] = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
    else:
        parts["labels"] = np.array([60, 0, 249])
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(part) for name, part in parts.items()}
        prepared = networks[0].prepare(Cond(**{"text": None, **tensors}))
        expected = networks[0](torch.from_numpy(x), torch.tensor(431.5), prepared)
    prepared = networks[1].prepare(Cond(**{"text": None, **parts}))
    assert np.abs(networks[1](x, np.float32(431.5), prepared) - expected.numpy()).max() <= CALL


def test_the_text_encoder(pipe: pydiff.Pipeline, ours: pydiff.Pipeline) -> None:
    prompts = [RED, "", "three green stars on a black background"]
    expected, states = (one.cascade.stages[0].text.encode(prompts) for one in (ours, pipe))
    assert np.abs(states.states - expected.states.numpy()).max() <= CALL
    with pytest.raises(ValueError, match="an exported model runs where it was opened"):
        pipe.cascade.stages[0].text.to("cuda")


def test_an_exported_model_says_of_itself_what_torch_does(pipe: pydiff.Pipeline, ours: pydiff.Pipeline) -> None:
    assert pipe.sizes == ours.sizes
    assert pipe.cascade.default_size == ours.cascade.default_size
    assert pipe.attention_layers == ours.attention_layers
    for own, other in zip(pipe.cascade.stages, ours.cascade.stages, strict=True):
        assert (own.kind, own.size, own.defaults) == (other.kind, other.size, other.defaults)
        assert own.sampling.sampler == other.sampling.sampler
        assert own.sampling.options == other.sampling.options


def test_the_same_picture_alone_in_a_batch_and_streamed(pipe: pydiff.Pipeline) -> None:
    fast: dict[str, Any] = {**FAST, "size": 64}
    both = pipe.generate([RED, GREEN], **{**fast, "seed": [7, 8]}).images
    alone = pipe.generate(GREEN, **{**fast, "seed": 8}).images[0]
    assert np.abs(both[1] - alone).max() <= 1e-5
    fast.pop("output_type")
    *_, last = pipe.stream(GREEN, **{**fast, "seed": 8})
    assert np.abs(np.asarray(last.image, np.float32) / 255 - alone).max() <= 0.5 / 255 + 1e-6


def test_capturing_changes_nothing(pipe: pydiff.Pipeline) -> None:
    fast: dict[str, Any] = {**FAST, "size": 64}
    plain, captured = (pipe.generate(RED, **fast, capture=words).images for words in (None, ["circle"]))
    assert np.abs(plain - captured).max() <= 1e-5


def test_options_of_heat(pipe: pydiff.Pipeline, ours: pydiff.Pipeline) -> None:
    how: dict[str, Any] = {**FAST, "size": 64, "capture": True, "heat_size": 8, "heat_every_step": True}
    expected, heat = (one.generate(RED, **how, heat_steps=(0.3, 1.0)).heat for one in (ours, pipe))
    assert set(heat) == set(expected)
    for word in heat:
        assert np.abs(heat.steps(word) - expected.steps(word)).max() <= CALL


@pytest.mark.parametrize(
    ("option", "call"),
    [
        ("pag_scale", {"pag_scale": 2.0}),
        ("heat_heads", {"capture": ["circle"], "heat_heads": True}),
        ("cross_frame", {"cross_frame": True, "num_images_per_prompt": 2}),
    ],
)
def test_options_that_only_torch_runs(pipe: pydiff.Pipeline, idle: None, option: str, call: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{option} is not in an exported model"):
        pipe.generate(RED, seed=7, size=64, **call)


@pytest.mark.parametrize(
    ("option", "call"),
    [
        ("method='masactrl'", {"method": "masactrl"}),
        ("method='plug_and_play'", {"method": "plug_and_play"}),
        ("function", {"function": lambda source, own, progress: own}),
    ],
)
def test_edits_that_only_torch_runs(pipe: pydiff.Pipeline, idle: None, option: str, call: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{option} is not in an exported model"):
        pipe.edit(RED, GREEN, seed=7, size=64, **call)


def test_what_it_refuses_is_among_its_choices(pipe: pydiff.Pipeline) -> None:
    assert any(choice.task == "generate" and choice.runs for choice in pipe.choices())


ROWS = np.zeros(2, np.int64)
EDIT = AttentionEdit(5, source=ROWS, transfer=np.zeros((2, 5, 5)), keep=np.ones((2, 5)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (EDIT._replace(perturbed=RowsIn(ROWS == 0)), "perturbed"),  # type: ignore[arg-type]
        (EDIT._replace(features=RowsIn(ROWS)), "features"),  # type: ignore[arg-type]
        (EDIT._replace(map_edit=MapEdit(lambda *maps: maps[0], ROWS, 0.0)), "map_edit"),  # type: ignore[arg-type]
        (EDIT._replace(pixel_edit=PixelEdit(ROWS, "content")), "pixel_edit of content"),  # type: ignore[arg-type]
        (EDIT.capturing(np.ones((2, 5, 1)), Heat(heads=True)), "capture of heads"),  # type: ignore[arg-type]
    ],
)
def test_edits_that_the_graph_has_no_inputs_for(unet: OnnxUNet, edit: AttentionEdit, message: str) -> None:
    x, text = np.zeros((2, 3, 64, 64), np.float32), np.zeros((2, 5, unet.config.text_dim), np.float32)  # type: ignore
    prepared = unet.prepare(Cond(text))._replace(edit=edit)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{message}, which is not in an exported graph"):
        unet(x, np.float32(1), prepared)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(65, 83), (24, 120)])
def test_other_sizes_than_those_of_training(
    pipe: pydiff.Pipeline, ours: pydiff.Pipeline, size: tuple[int, int]
) -> None:
    how: dict[str, Any] = {**FAST, "height": size[0], "width": size[1], "size": 64}
    expected, image = (one.generate(RED, **how).images for one in (ours, pipe))
    assert image.shape == (1, *size, 3)
    assert np.abs(image - expected).max() <= RUN


def test_sizes_that_no_network_takes(unet: OnnxUNet) -> None:
    told = unet.prepare(Cond(np.zeros((1, 5, 128), np.float32)))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"x is float32 \(1, 3, 4, 64\); expected floats \(B, 3, H, W\), H and W at least 8"
    ):
        unet(np.zeros((1, 3, 4, 64), np.float32), np.float32(1), told)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["dtype", "device", "variant", "tokenizer"])
def test_options_of_folders_with_weights(exported: Path, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is 'x', which is torch's, but ONNX Runtime runs"):
        pydiff.load(exported, **{option: "x"})  # type: ignore[arg-type]


def test_a_provider_that_is_not_there(exported: Path) -> None:
    with pytest.raises(ValueError, match="provider is 'tensorrt'"):
        pydiff.load(exported, provider="tensorrt")


def test_graphs_for_edits_are_opened_when_something_is_edited(exported: Path) -> None:
    pipe = pydiff.load(exported)
    network: Any = pipe.cascade.stages[0].unet
    pipe.generate(RED, **FAST, size=64)
    assert network.plain._opened is not None
    assert network.edited._opened is None


def test_the_command_makes_the_picture_of_the_api(
    exported: Path, pipe: pydiff.Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    given = [RED, "--model", str(exported), "--seed", "7", "--steps", "3", "--size", "64", "-o", str(path)]
    assert cli.main(["generate", *given]) == 0
    assert capsys.readouterr() == (f"{path}\n", "")
    result = pipe.generate(RED, seed=7, num_inference_steps=3, size=64)
    assert np.array_equal(Image.open(path), result.images[0])
    assert read_settings(path) == result.settings[0]


def test_a_picture_is_an_input_too(pipe: pydiff.Pipeline, idle: None) -> None:
    with pytest.raises(WorkBeganError):
        pipe.inpaint(picture(), np.ones((64, 64), bool), RED, seed=7, size=64)
