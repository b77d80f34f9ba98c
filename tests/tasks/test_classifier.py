"""Classifier guidance through the pipeline: it leads pictures to a class in every task and kind of model, 0 is as if it
were absent, settings say it, and what does not fit is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pydiff
from pydiff.walk import Network
from tests.checkpoints import makers
from tests.checkpoints.test_pixels import unet2d
from tests.tasks.test_families import IMAGE, MAKERS, MASK, WORDS

CLASSES = 3
SMALL: dict[str, Any] = {"prompt": "a red ring", "size": 64, "num_inference_steps": 3, "output_type": "pt"}


class Classifier(nn.Module):
    """A smooth one of any channels and sizes: a fixed random direction of channel means and squares, and of t."""

    def __init__(self, channels: int = 3, scale: float = 10.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.weight = nn.Parameter(scale * torch.randn(2 * channels, CLASSES, dtype=torch.float64))
        self.calls: list[tuple[tuple[int, ...], list[float]]] = []
        self.eval()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append((tuple(x.shape), t.tolist()))
        parts = [x.mean((2, 3)), x.square().mean((2, 3))]
        return torch.cat(parts, dim=1).double() @ self.weight + torch.cos(t / 500)[:, None]


def test_pictures_are_led_to_their_class(pipe: pydiff.Pipeline) -> None:
    classifier = Classifier()
    how = {**SMALL, "num_inference_steps": 6, "seed": 1, "num_images_per_prompt": CLASSES, "classifier": classifier}
    chances = []
    for scale in (1, 0, -1):
        made = pipe.generate(**how, classifier_labels=range(CLASSES), classifier_scale=scale).images
        with torch.no_grad():
            chances.append(classifier(made * 2 - 1, torch.zeros(CLASSES)).softmax(1).diag())
    assert (chances[0] > chances[1]).all()
    assert (chances[1] > chances[2]).all()
    assert classifier.weight.grad is None


def test_only_the_first_stage_is_led_and_only_where_there_is_a_scale(pipe: pydiff.Pipeline) -> None:
    classifier = Classifier()
    call: dict[str, Any] = {**SMALL, "size": 256, "num_inference_steps": [4, 1], "seed": 1}
    call |= {"num_images_per_prompt": 2, "classifier": classifier, "classifier_labels": 1}
    pipe.generate(**call, classifier_scale=[0, 2.0, 0, 1.0])
    assert [shape for shape, _ in classifier.calls] == [(2, 3, 64, 64)] * 2
    assert all(len(set(t)) == 1 for _, t in classifier.calls)


def test_scales_of_levels_may_be_a_function(pipe: pydiff.Pipeline) -> None:
    how, scales = {**SMALL, "seed": 1, "classifier": Classifier(), "classifier_labels": 1}, [2.0, 0.0, 1.5]
    listed = pipe.generate(**how, classifier_scale=scales)
    made = pipe.generate(**how, classifier_scale=lambda level, levels: scales[level])
    assert torch.equal(made.images, listed.images)
    assert made.settings == listed.settings
    assert made.settings[0]["classifier_scale"] == scales


def test_a_scale_of_0_is_as_if_absent(pipe: pydiff.Pipeline) -> None:
    classifier = Classifier()
    off = pipe.generate(**SMALL, seed=3, classifier=classifier, classifier_labels=0, classifier_scale=0)
    assert torch.equal(off.images, pipe.generate(**SMALL, seed=3).images)
    assert not classifier.calls


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_callers_own_modes_change_nothing(pipe: pydiff.Pipeline, mode: Callable[[], Any]) -> None:
    how = {**SMALL, "seed": 3, "classifier": Classifier(), "classifier_labels": 2}
    with mode():
        made = pipe.generate(**how).images
    assert torch.equal(made, pipe.generate(**how).images)


def test_a_batch_is_its_pictures_alone_and_settings_repeat_them(pipe: pydiff.Pipeline) -> None:
    classifier = Classifier()
    how = {**SMALL, "prompt": ["a red ring", "a blue star"], "classifier": classifier, "classifier_scale": 1.5}
    made = pipe.generate(**how, seed=[4, 9], classifier_labels=[2, 0])
    for index, label in enumerate([2, 0]):
        told = json.loads(json.dumps(made.settings[index], allow_nan=False))
        said = {name: told[name] for name in told if name.startswith("classifier")}
        assert said == {"classifier": "Classifier", "classifier_scale": 1.5, "classifier_labels": label}
        repeat = {name: value for name, value in told.items() if name not in ("task", "model", "version")}
        with pytest.raises(ValueError, match="classifier is 'Classifier'; expected a module or a function"):
            pipe.generate(**repeat)
        alone = pipe.generate(**{**repeat, "classifier": classifier}, output_type="pt")
        torch.testing.assert_close(alone.images[0], made.images[index], rtol=0, atol=1e-4)
        assert alone.settings[0] == made.settings[index]


def test_labels_are_the_calls_classes(tmp_path: Path) -> None:
    MAKERS["pixels"](tmp_path)
    pipe, classifier = pydiff.load(tmp_path), Classifier()
    how: dict[str, Any] = {"seed": 1, "num_inference_steps": 3, "class_labels": [2, 0], "output_type": "pt"}
    made = pipe.generate(**how, num_images_per_prompt=2, classifier=classifier)
    assert [said["classifier_labels"] for said in made.settings] == [2, 2, 0, 0]
    other = pipe.generate(**how, num_images_per_prompt=2, classifier=classifier, classifier_labels=[2, 2, 0, 1])
    torch.testing.assert_close(other.images[:3], made.images[:3], rtol=0, atol=1e-5)
    assert (other.images[3] - made.images[3]).abs().max() > 1e-3


def test_a_model_without_classes_gets_some(tmp_path: Path) -> None:
    makers.saved(diffusers.DDIMPipeline(unet2d(), diffusers.DDIMScheduler()), tmp_path)
    pipe = pydiff.load(tmp_path)
    labels = torch.tensor([0, 2])
    how: dict[str, Any] = {"seed": 1, "num_inference_steps": 3, "num_images_per_prompt": 2, "output_type": "pt"}
    made = pipe.generate(**how, classifier=Classifier(), classifier_labels=labels)
    assert (made.images - pipe.generate(**how).images).flatten(1).abs().amax(1).min() > 1e-3
    with pytest.raises(ValueError, match="classifier is given without classifier_labels"):
        pipe.generate(**how, classifier=Classifier())


RUNS: list[tuple[str, str, tuple[Any, ...], int]] = [
    ("sd", "generate", (), 4),
    ("sd", "image_to_image", (IMAGE,), 4),
    ("sd", "inpaint", (IMAGE, MASK), 4),
    ("inpaint", "inpaint", (IMAGE, MASK), 4),
    ("instruct", "instruct", (IMAGE,), 4),
    ("if", "generate", (), 3),
    ("sd", "edit", ("a cat on a table", "a dog on a table"), 4),
]


@pytest.mark.parametrize(("folder", "task", "given", "channels"), RUNS, ids=[f"{run[0]}-{run[1]}" for run in RUNS])
def test_every_task(tmp_path: Path, folder: str, task: str, given: tuple[Any, ...], channels: int) -> None:
    MAKERS[folder](tmp_path)
    run, classifier = getattr(pydiff.load(tmp_path, dtype=torch.float64), task), Classifier(channels, 4.0)
    call: dict[str, Any] = {"num_inference_steps": 3, "seed": 3, "output_type": "np", "guidance_scale": 3.0}
    call |= {} if task == "edit" else {"prompt": WORDS}
    plain = run(*given, **call).images
    led = run(*given, **call, classifier=classifier, classifier_labels=[1, 2])
    assert classifier.calls[0][0][:2] == (2, channels)
    assert np.abs(led.images - plain).reshape(2, -1).max(1).min() > 1e-6
    assert [said["classifier_labels"] for said in led.settings] == [1, 2]
    call |= {"pag_scale": 2.0, "guidance_rescale": 0.5, "sampler": "dpmpp_2m"} if folder == "sd" else {}
    both = run(*given, **call, classifier=classifier, classifier_labels=[1, 2]).images
    assert np.isfinite(both).all()


def test_pure_noise_is_left_alone(tmp_path: Path) -> None:
    """Zero terminal SNR: at the first level alpha is 0."""
    config = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    scheduler = diffusers.DDIMScheduler(**config, clip_sample=False)
    makers.saved(diffusers.DDIMPipeline(unet2d(), scheduler), tmp_path)
    classifier = Classifier()
    how: dict[str, Any] = {"seed": 1, "num_inference_steps": 3, "output_type": "pt"}
    made = pydiff.load(tmp_path).generate(**how, classifier=classifier, classifier_labels=1)
    assert len(classifier.calls) == 2
    assert made.images.isfinite().all()


def logits(x: Tensor, t: Tensor) -> Tensor:
    return x.flatten(1)[:, :CLASSES]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"classifier": "resnet"}, "classifier is 'resnet'; expected a module or a function"),
    ({"classifier": logits}, "classifier is given without classifier_labels"),
    ({"classifier": Classifier().train(), "classifier_labels": 0}, "classifier is in training mode"),
    ({"classifier": logits, "classifier_labels": -1}, "classifier_labels is -1; expected an integer from 0"),
    ({"classifier": logits, "classifier_labels": [0, 1]}, "classifier_labels lists 2 for 1 pictures"),
    ({"classifier": logits, "classifier_labels": []}, "classifier_labels lists 0 for 1 pictures"),
    ({"classifier": logits, "classifier_labels": 1.5}, "classifier_labels is 1.5"),
    ({"classifier": logits, "classifier_labels": True}, "classifier_labels is True"),
    ({"classifier": logits, "classifier_labels": 10**30}, "classifier_labels is 1000"),
    ({"classifier": logits, "classifier_labels": "cat"}, "classifier_labels is 'cat'"),
    (
        {"classifier": logits, "classifier_labels": 1, "classifier_scale": "high"},
        "classifier_scale at level 0 is 'high'",
    ),
    ({"classifier": logits, "classifier_labels": 1, "classifier_scale": float("nan")}, "classifier_scale is nan"),
    ({"classifier": logits, "classifier_labels": 1, "classifier_scale": [1, 2]}, "classifier_scale lists 2 numbers"),
    ({"classifier_labels": 1}, "classifier_labels is given without a classifier"),
    ({"classifier_scale": 1.0}, "classifier_scale is given without a classifier"),
    ({"classifier": logits, "class_labels": 1}, "this model knows no classes"),
]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("call", "message"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_refused_before_any_work(pipe: pydiff.Pipeline, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.generate(**SMALL, **call)
    with pytest.raises(ValueError, match=message):
        pipe.stream("a red ring", **{name: call[name] for name in call})


@pytest.mark.usefixtures("idle")
def test_an_inversion_takes_none(pipe: pydiff.Pipeline) -> None:
    with pytest.raises(ValueError, match="classifier is given, but an inversion has no use for it"):
        pipe.invert(IMAGE, "a red ring", size=64, classifier=logits, classifier_labels=1)


WRONG: list[tuple[Callable[[Tensor, Tensor], Any], str]] = [
    (lambda x, t: x.mean(), "classifier returned torch.float32"),
    (lambda x, t: logits(x, t).detach(), "logits without a gradient to x"),
    (torch.no_grad()(logits), "logits without a gradient to x"),
    (lambda x, t: logits(x, t) * torch.nan, "not finite"),
    (lambda x, t: logits(x, t)[:, :1], "classifier_labels holds 2, but the classifier returned logits of 1 classes"),
]


@pytest.mark.parametrize(("classifier", "message"), WRONG, ids=[str(index) for index in range(len(WRONG))])
def test_refused_before_the_network_is_called(
    pipe: pydiff.Pipeline, monkeypatch: pytest.MonkeyPatch, classifier: Any, message: str
) -> None:
    monkeypatch.setattr(Network, "__call__", None)
    with pytest.raises(ValueError, match=message):
        pipe.generate(**SMALL, classifier=classifier, classifier_labels=2)
