"""Which engine a command runs on: ONNX Runtime for the shipped models, torch for all else; the pictures are equal."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pydiff
from pydiff import cli
from pydiff.cli.engine import on_onnx_runtime
from pydiff.images import read_settings
from pydiff.networks import UnexportedError

PROMPT = "a red circle left of a blue square"
FAST = ["--size", "64", "--steps", "2", "--seed", "7"]
CUSTOM: dict[str, Any] = dict.fromkeys(
    ("model", "dtype", "int8", "device", "variant", "tokenizer", "compile", "provider")
)


def starts(call: dict[str, Any], default: str | None = None, **options: Any) -> bool:
    return on_onnx_runtime(argparse.Namespace(**CUSTOM | options), call, default)


@pytest.mark.parametrize("size", [None, 64, 256])
def test_one_picture_of_a_shipped_model_starts_on_onnx_runtime(size: int | None) -> None:
    call = {"prompt": PROMPT, "size": size, "num_images_per_prompt": 1}
    assert starts(call)
    assert starts(call, "pydiff-palette")
    assert starts(call, model=["pydiff-instruct"])


@pytest.mark.parametrize(
    "options",
    [
        {"model": ["a/folder"]},
        {"model": ["pydiff-embedded", "a/folder"]},
        {"dtype": "bfloat16"},
        {"device": "cpu"},
        {"variant": "fp16"},
        {"tokenizer": "a/folder"},
        {"compile": "default"},
        {"provider": "cpu"},
    ],
)
def test_what_is_torchs_or_is_decided_does_not(options: dict[str, Any]) -> None:
    assert not starts({"prompt": PROMPT}, **options)


@pytest.mark.parametrize(
    "call",
    [
        {"num_images_per_prompt": 3},
        {"size": 1024},
        {"height": 512, "width": 64},
        {"target": ["a green circle", "a blue circle"]},
        {"size": 1024, "num_images_per_prompt": []},
        {"image": Image.new("RGB", (64, 1024))},
    ],
)
def test_much_does_not(call: dict[str, Any]) -> None:
    assert not starts({"prompt": PROMPT, **call})


def test_without_onnx_runtime_nothing_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not starts({"prompt": PROMPT})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The providers that were asked for, by real loading."""
    load: Callable[..., pydiff.Pipeline] = pydiff.load
    asked: list[Any] = []

    def told(model: Any = None, **how: Any) -> pydiff.Pipeline:
        asked.append(how["provider"])
        return load(model, **how)

    monkeypatch.setattr("pydiff.pipeline.load", told)
    monkeypatch.chdir(tmp_path)
    return asked


def test_the_picture_and_its_settings_are_torchs(opened: list[Any]) -> None:
    assert cli.main(["generate", PROMPT, *FAST, "-o", "a.png"]) == 0
    assert cli.main(["generate", PROMPT, *FAST, "--device", "cpu", "-o", "b.png"]) == 0
    assert opened == ["cpu", None]
    first, second = (np.asarray(Image.open(name), np.int16) for name in ("a.png", "b.png"))
    assert np.abs(first - second).max() <= 1
    assert read_settings(Path("a.png")) == read_settings(Path("b.png"))
    assert cli.main(["generate", "--from", "a.png", "-o", "c.png"]) == 0
    assert Path("c.png").read_bytes() == Path("a.png").read_bytes()


def test_what_exported_models_refuse_runs_on_torch(opened: list[Any]) -> None:
    call = ["edit", PROMPT, "a green circle left of a blue square", *FAST, "--method", "masactrl", "-o", "a.png"]
    assert cli.main(call) == 0
    assert opened == ["cpu", None]
    assert read_settings(Path("a.png"))["method"] == "masactrl"


def test_what_all_refuse_is_refused_once(opened: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", PROMPT, *FAST, "--sampler", "none", "-o", "a.png"]) == 2
    assert opened == ["cpu"]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_mode_of_torch_compile_is_torchs(opened: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", PROMPT, *FAST, "--compile", "fast", "-o", "a.png"]) == 2
    assert opened == [None]
    assert "compile is 'fast'; expected True, False or a mode of torch's: default" in capsys.readouterr().err


def test_the_refusal_has_a_name() -> None:
    with pytest.raises(UnexportedError, match="cross_frame is not in an exported model"):
        pydiff.load(provider="cpu").generate([PROMPT] * 2, size=64, num_inference_steps=1, cross_frame=True)


def test_graphs_opened_ahead_are_those_that_a_run_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydiff.runtime import sessions

    for thread in threading.enumerate():  # of other tests' calls
        if thread.name == "pydiff-ahead":
            thread.join()
    made: list[str] = []
    opening = sessions._open
    monkeypatch.setattr(sessions, "_open", lambda path, provider: made.append(path.name) or opening(path, provider))
    pipe = pydiff.load(provider="cpu", ahead=True)
    pipe.generate(PROMPT, size=64, num_inference_steps=1, seed=7)
    assert sorted(made) == ["text_encoder.onnx", "unet.onnx"]


def test_a_graph_that_is_refused_ahead_is_refused_by_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydiff.runtime import sessions

    def refuse(path: Path, provider: Any) -> Any:
        raise ValueError(f"{path.name} is refused")

    monkeypatch.setattr(sessions, "_open", refuse)
    pipe = pydiff.load(provider="cpu", ahead=True)
    with pytest.raises(ValueError, match=r"text_encoder\.onnx is refused"):
        pipe.generate(PROMPT, size=64, num_inference_steps=1, seed=7)


def test_the_command_imports_no_torch(tmp_path: Path) -> None:
    call = ["generate", PROMPT, *FAST, "-q", "-o", str(tmp_path / "a.png")]
    code = f"import sys; from pydiff.cli import main; assert main({call!r}) == 0; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
