"""The README's sections on editing and on pictures run as they stand, in few steps."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from PIL import Image

import pydiff

README = Path(__file__).parents[1] / "README.md"


def snippet_of(section: str) -> str:
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text().split(section)[1].split("\n## ")[0], re.DOTALL)
    return str(snippet)


def quick(pipe: pydiff.Pipeline) -> pydiff.Pipeline:
    """The same, with two steps in every stage."""
    stages = [
        dataclasses.replace(stage, defaults=stage.defaults._replace(num_inference_steps=2))
        for stage in pipe.cascade.stages
    ]
    return pydiff.Pipeline(dataclasses.replace(pipe.cascade, stages=tuple(stages)))


def test_editing_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: pydiff.Pipeline) -> None:
    monkeypatch.setattr(pydiff, "load", lambda: quick(pipe))
    monkeypatch.setattr("pydiff.tasks.invert.STEPS", 2)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(snippet_of("## Editing by the prompt"), names)
    counts = {name: len(result.images) for name, result in names.items() if isinstance(result, pydiff.Result)}
    assert counts == {"edit": 2, "both": 3, "sizes": 4, "local": 2, "made": 1, "again": 2}
    assert {path.name for path in tmp_path.iterdir()} == {"heat.png", "circle.safetensors"}
    assert pydiff.Inverted.load(tmp_path / "circle.safetensors").prompt == names["red"]


def test_pictures_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = pydiff.load
    monkeypatch.setattr(pydiff, "load", lambda *model: quick(load(*model)))
    monkeypatch.chdir(tmp_path)
    mask = Image.new("L", (256, 256))
    mask.paste(255, (144, 72, 240, 184))
    mask.save("mask.png")
    Image.linear_gradient("L").resize((64, 64)).save("gray.png")
    names: dict[str, object] = {}
    exec(snippet_of("## From a picture"), names)
    sizes = {name: made.images[0].size for name, made in names.items() if isinstance(made, pydiff.Result)}
    assert sizes == {
        "ring": (256, 256), "slow": (256, 256), "wide": (384, 256), "green": (256, 256), "colours": (64, 64)
    }  # fmt: skip


def test_without_torch_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    load = pydiff.load
    monkeypatch.setattr(pydiff, "load", lambda provider: quick(load(provider=provider)))
    names: dict[str, object] = {}
    exec(snippet_of("## Without torch"), names)
    counts = {name: len(result.images) for name, result in names.items() if isinstance(result, pydiff.Result)}
    assert counts == {"made": 1, "edit": 2}
