"""The README's section on editing runs as it stands, in few steps."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import pydiff

README = Path(__file__).parents[1] / "README.md"
SECTION = README.read_text().split("## Editing by the prompt")[1].split("\n## ")[0]


def test_editing_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: pydiff.Pipeline) -> None:
    stages = [
        dataclasses.replace(stage, defaults=stage.defaults._replace(num_inference_steps=2))
        for stage in pipe.cascade.stages
    ]
    quick = pydiff.Pipeline(dataclasses.replace(pipe.cascade, stages=tuple(stages)))
    monkeypatch.setattr(pydiff, "load", lambda: quick)
    monkeypatch.setattr("pydiff.tasks.invert.STEPS", 2)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    (snippet,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    exec(snippet, names)
    counts = {name: len(result.images) for name, result in names.items() if isinstance(result, pydiff.Result)}
    assert counts == {"edit": 2, "both": 3, "sizes": 4, "local": 2, "made": 1, "again": 2}
    assert {path.name for path in tmp_path.iterdir()} == {"heat.png", "circle.safetensors"}
    assert pydiff.Inverted.load(tmp_path / "circle.safetensors").prompt == names["red"]
