"""The models that pydiff carries, on ONNX Runtime: graphs over the weights that torch reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import pydiff
from pydiff.pipeline import SHIPPED
from pydiff.runtime.manifest import file_record, read_manifest
from pydiff.runtime.shipped import SHIPPED as HOME

PROMPT = "a red circle left of a blue square on a white background"
BARE = """
import sys
sys.modules["torch"] = None
import pydiff
made = pydiff.load().generate("a red circle", seed=7, size=64, num_inference_steps=2)
made.images[0].save(sys.argv[1])
"""


def test_the_manifest_is_of_the_files_that_are_there() -> None:
    manifest = read_manifest(HOME)
    assert set(manifest.stages) == {stage for stages in SHIPPED.values() for stage in stages}
    for name, record in manifest.files.items():
        assert file_record(HOME / name) == record, f"{name}: run `python -m pydiff.export.shipped`"


def test_graphs_hold_no_weights() -> None:
    for name in read_manifest(HOME).graphs:
        graph = onnx.load(HOME / name, load_external_data=False).graph
        held = sum(len(tensor.raw_data) for tensor in graph.initializer)
        assert held < 64 << 10
        assert any(tensor.external_data for tensor in graph.initializer)


@pytest.mark.parametrize("size", [64, 256])
def test_the_cascade_makes_the_picture_that_torch_makes(size: int) -> None:
    exported, torch = (
        pydiff.load(provider=provider)
        .generate(PROMPT, seed=7, size=size, num_inference_steps=[4, 2][: size // 128 + 1], output_type="np")
        .images
        for provider in ("cpu", None)
    )
    assert np.abs(exported - torch).max() < 5e-4


def test_instructions_and_restoration() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("red", (10, 10, 40, 40))
    calls = {
        "pydiff-instruct": lambda pipe: pipe.instruct(
            picture, "make the square green", seed=1, num_inference_steps=2, size=64, output_type="np"
        ),
        "pydiff-palette": lambda pipe: pipe.restore(
            picture, "colorize", seed=1, num_inference_steps=2, output_type="np"
        ),
    }
    for name, call in calls.items():
        exported, torch = (call(pydiff.load(name, provider=provider)).images for provider in ("cpu", None))
        assert np.abs(exported - torch).max() < 5e-4


def test_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    subprocess.run([sys.executable, "-c", BARE, str(path)], check=True, timeout=120)
    with_torch = pydiff.load().generate("a red circle", seed=7, size=64, num_inference_steps=2).images[0]
    assert np.abs(np.asarray(Image.open(path), int) - np.asarray(with_torch, int)).max() <= 1
