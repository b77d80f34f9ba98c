"""What `pydiff.load` takes and refuses, before it opens anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pydiff


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_may_be_a_name(name: str) -> None:
    own = getattr(torch, name)
    weights = [pydiff.load("pydiff-palette", dtype=given).cascade.stages[0].unet.like for given in (name, own)]
    assert [weight.dtype for weight in weights] == [own, own]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "float8"}, "dtype is 'float8'; expected one of float32, bfloat16, float16, or torch's"),
        ({"model": "some/folder", "provider": "cpu"}, "provider is 'cpu', but some/folder is no exported folder"),
        (
            {"int8": True, "dtype": "float16"},
            "int8 is of networks that run as plans, but .*; leave it out",
        ),
        (
            {"int8": True, "provider": "cpu"},
            "int8 is True, which is torch's, but ONNX Runtime runs",
        ),
        ({"model": []}, r"model is \[\]; expected a folder"),
    ],
)
def test_loads_that_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pydiff.load(**given)


@pytest.mark.parametrize("option", ["dtype", "device", "variant", "tokenizer", "prediction_type"])
def test_an_exported_folder_takes_no_options_of_weights(option: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{option} is 'float32', which is torch's, but ONNX Runtime runs"):
        pydiff.load(tmp_path, **{option: "float32"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is an exported folder, which holds all stages of its model; give it alone"):
        pydiff.load([tmp_path, tmp_path])
