"""The README's section on checkpoints: its snippet and its command run as they stand, on tiny folders."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import pydiff
from pydiff.cli import main
from pydiff.folders.index import FAMILIES
from tests.checkpoints import makers

README = Path(__file__).parents[2] / "README.md"
SECTION = README.read_text().split("## Your own checkpoint")[1].split("\n## ")[0]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    makers.stable_diffusion(tmp_path / "stable-diffusion-v1-5")
    makers.deepfloyd(tmp_path / "IF-I")
    makers.deepfloyd(tmp_path / "IF-II", "IFSuperResolutionPipeline", upscales=True)
    makers.upscaler(tmp_path / "x4-upscaler")
    Image.new("L", (32, 32), 255).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_checkpoints_of_the_readme(folders: Path) -> None:
    names: dict[str, object] = {}
    (snippet,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    exec(snippet, names)
    large = names["large"]
    assert isinstance(large, pydiff.Result)
    assert [pictures[0].size for pictures in large.stages] == [(16, 16), (32, 32), (64, 64)]
    (folders / "cat.png").unlink()
    (command,) = re.findall(r"^    pydiff (.*)$", SECTION, re.MULTILINE)
    assert main(shlex.split(command)) == 0
    assert Image.open(folders / "cat.png").size == (32, 32)


def test_checkpoints_in_the_readme_are_those_that_open() -> None:
    table = " ".join(line for line in SECTION.splitlines() if line.startswith("|"))
    for pipeline in FAMILIES:
        if not pipeline.startswith("IF"):  # whose kin are named together
            short = pipeline.replace("StableDiffusion", "...") if "StableDiffusion" in pipeline else pipeline
            assert pipeline in table or short in table, pipeline
