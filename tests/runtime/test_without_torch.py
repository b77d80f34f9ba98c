"""In an interpreter that has no torch, exported models do everything; and it is what torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pydiff
from tests.runtime import bare
from tests.runtime.every_task import RED

RUN = 5e-4
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare.bare_python(tmp_path_factory.mktemp("bare") / "environment")


def test_there_is_no_torch(python: Path) -> None:
    made = bare.run(python, "-c", "import torch")
    assert made.returncode == 1
    assert made.stderr.rstrip().endswith("ModuleNotFoundError: No module named 'torch'")


def test_every_task_makes_the_picture_of_torch(
    python: Path, exported: Path, instructed: Path, by_torch: dict[str, np.ndarray], tmp_path: Path
) -> None:
    program, results = str(HERE / "every_task.py"), tmp_path / "made.npz"
    made = bare.run(python, program, str(exported), str(instructed), str(results), OMP_NUM_THREADS="1")
    assert (made.returncode, made.stderr) == (0, "")
    arrays = dict(np.load(results))
    assert set(arrays) == set(by_torch)
    for name, array in arrays.items():
        assert np.abs(array - by_torch[name]).max() <= RUN, name


def test_the_command(python: Path, exported: Path, ours: pydiff.Pipeline, tmp_path: Path) -> None:
    path, heat = tmp_path / "a.png", tmp_path / "a-heat.png"
    given = [
        "generate",
        RED,
        "--model",
        str(exported),
        "--seed",
        "7",
        "--steps",
        "3",
        "--size",
        "64",
        "--heat",
        "circle",
    ]
    made = bare.run(python, "-m", "pydiff.cli", *given, "-o", str(path), OMP_NUM_THREADS="1")
    assert (made.returncode, made.stdout, made.stderr) == (0, f"{path}\n{heat}\n", "")
    expected = ours.generate(RED, seed=7, num_inference_steps=3, size=64).images[0]
    difference = np.abs(np.asarray(Image.open(path), int) - np.asarray(expected, int))
    assert difference.max() <= 1  # of 255, where rounding falls to the other side


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["export", "out"], "pydiff: exporting a model needs the package pydiff-engine[export]"),
        (["generate", RED, "--model", "."], "which is no folder that `pydiff export` wrote, needs the package"),
        (["generate", RED, "--model", "{exported}", "--dtype", "float16"], "dtype is 'float16', which is torch's"),
        (["generate", RED, "--model", "{exported}", "--provider", "cuda"], "provider is 'cuda', which"),
    ],
)
def test_what_it_cannot_do_is_said_in_a_line(
    python: Path, exported: Path, tmp_path: Path, given: list[str], message: str
) -> None:
    made = bare.run(python, "-m", "pydiff.cli", *(one.format(exported=exported) for one in given))
    assert (made.returncode, made.stdout) == (2, "")
    assert message in made.stderr
    assert made.stderr.count("\n") == 1
