"""examples/embed: the C++ program is built, and makes Python's picture of an exported model."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pydiff
from pydiff.export.steps import default_plans, steps_json

EXAMPLE = Path(__file__).parents[2] / "examples" / "embed"
HEADER = "onnxruntime_cxx_api.h"
USUAL = [Path(root) / "include" / ending for root in ("/usr", "/usr/local") for ending in ("onnxruntime", "")]
PROMPT, SEED = "a red circle left of a blue square on a white background", 7

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="built with a Unix compiler's flags"),
    pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")), reason="needs cmake and a C++ compiler"),
]


def headers() -> Path | None:
    said = os.environ.get("ORT_INCLUDE")
    return next((place for place in ([Path(said)] if said else USUAL) if (place / HEADER).is_file()), None)


def library() -> Path | None:
    """The one of ORT_LIB, or the one in the wheel that Python runs."""
    if "ORT_LIB" in os.environ:
        return Path(os.environ["ORT_LIB"])
    wheel = importlib.util.find_spec("onnxruntime")
    places = [] if wheel is None or wheel.origin is None else Path(wheel.origin).parent.glob("capi/libonnxruntime.so.*")
    return next(iter(places), None)


def run(*command: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the build."""
    folder = tmp_path_factory.mktemp("embed")
    found = {"ORT_INCLUDE": headers(), "ORT_LIB": library()}
    made = run("cmake", "-S", EXAMPLE, "-B", folder, *(f"-D{name}={place or ''}" for name, place in found.items()))
    assert made.returncode == 0, made.stderr
    made = run("cmake", "--build", folder)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "warning" not in made.stderr
    return folder


@pytest.fixture(scope="module")
def embed(built: Path) -> Path:
    if headers() is None:
        pytest.skip(f"{HEADER} is in none of the usual places; install ONNX Runtime's C++ headers, or set ORT_INCLUDE")
    if library() is None:
        pytest.skip("onnxruntime is not installed; install it, or set ORT_LIB")
    return built / "embed"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    export = pytest.importorskip("pydiff.export", reason="needs pydiff-engine[export]").export
    folder = tmp_path_factory.mktemp("exported") / "model"
    export("pydiff-embedded", folder)
    return folder


def test_the_core_and_the_loop_are_libraries(built: Path) -> None:
    for name in ("libpydiff_core.a", "libembed_loop.a"):
        assert (built / name).stat().st_size > 0


@pytest.mark.parametrize("number", [0, 1])
def test_reads_what_the_export_writes(built: Path, tmp_path: Path, number: int) -> None:
    """Without ONNX Runtime too, which the loop does not need."""
    program, path = tmp_path / "read_steps", tmp_path / "steps.json"
    sources = [Path(__file__).with_name("read_steps.cpp"), built / "libembed_loop.a", built / "libpydiff_core.a"]
    flags = ("-std=c++17", "-fopenmp", f"-I{EXAMPLE}", f"-I{EXAMPLE.parents[1] / 'csrc'}")
    made = run("c++", *flags, *sources, "-o", program)
    assert made.returncode == 0, made.stderr
    (plan,) = default_plans([pydiff.load().cascade.stages[number]])
    path.write_text(json.dumps(steps_json(plan)))
    made = run(program, path)
    assert made.returncode == 0, made.stderr
    rows, evaluated, denoised, *others = map(float, made.stdout.split())
    table = plan.table
    assert (rows, evaluated) == (len(table.rows), table.evaluations)
    assert denoised == pytest.approx(sum(row.step.c_denoised for row in table.rows), abs=1e-3)
    level = -1 if plan.noise_level is None else plan.noise_level
    assert others == pytest.approx([*plan.guidance.weights[0], level])


def test_makes_the_picture_of_python(embed: Path, model: Path, tmp_path: Path) -> None:
    tokens, path = tmp_path / "tokens.json", tmp_path / "picture.ppm"
    made = run(sys.executable, EXAMPLE / "tokens.py", model, PROMPT)
    assert made.returncode == 0, made.stderr
    tokens.write_text(made.stdout)
    made = run(embed, model, tokens, path, "--seed", SEED, "--size", 256, "--threads", 1)
    assert made.returncode == 0, made.stderr
    expected = pydiff.load(model).generate(PROMPT, seed=SEED, size=256).images[0]
    difference = np.abs(np.asarray(Image.open(path), np.int64) - np.asarray(expected, np.int64))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def test_says_what_does_not_fit(embed: Path, model: Path, tmp_path: Path) -> None:
    tokens, path = tmp_path / "tokens.json", tmp_path / "picture.ppm"
    tokens.write_text(json.dumps({"input_ids": [[1, 0]], "attention_mask": [[1, 0]]}))
    refusals = {
        "usage: embed MODEL": [model],
        "--seed is x; expected a number": [model, tokens, path, "--seed", "x"],
        "--what is not expected here": [model, tokens, path, "--what", "x"],
        "manifest.json cannot be read": [tmp_path, tokens, path],
        "expected two rows of tokens": [model, tokens, path],
    }
    for message, words in refusals.items():
        made = run(embed, *words)
        assert made.returncode == 1
        assert message in made.stderr
    assert not path.exists()
