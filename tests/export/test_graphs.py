"""What an exported folder holds: graphs of ONNX's own operators, of any size, that compute what torch does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxscript
import pytest
import torch

from pydiff.export import write
from pydiff.export.graphs import example_inputs, unet_network
from pydiff.export.parity import CALL_BOUNDS, RUN_BOUND
from pydiff.folders import open_indexes, read_index
from pydiff.folders.torch_networks import torch_networks
from pydiff.runtime.manifest import read_manifest
from tests.export.conftest import MAKERS, Pair

GRAPHS = {
    "xl": ["text_encoder", "text_encoder_2", "unet", "unet_edit", "vae_decoder", "vae_encoder"],
    "if": ["text_encoder", "unet", "unet_edit"],
    "classes": ["unet"],
}
SIZES = [(1, 1, 8, 8), (1, 4, 19, 13), (4, 9, 16, 26)]  # batch, tokens, height, width


@pytest.mark.parametrize("family", MAKERS)
def test_graphs_are_plain_onnx(pair: Callable[[str], Pair], family: str) -> None:
    folder = pair(family).folder
    manifest = read_manifest(folder)
    assert sorted(manifest.graphs) == [f"model/{name}.onnx" for name in GRAPHS[family]]
    for name, graph in manifest.graphs.items():
        onnx.checker.check_model(folder / name, full_check=True)
        model = onnx.load(folder / name)
        assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", write.OPSET)}
        assert {node.domain for node in model.graph.node} == {""}
        for values, said in ((model.graph.input, graph.inputs), (model.graph.output, graph.outputs)):
            assert {value.name: _shape(value) for value in values} == {key: one.shape for key, one in said.items()}


def _shape(value: Any) -> tuple[Any, ...]:
    return tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("size", SIZES)
def test_sizes_that_were_not_traced(pair: Callable[[str], Pair], family: str, size: tuple[int, int, int, int]) -> None:
    """One picture, one token, sides that do not halve evenly."""
    ours, _, folder = pair(family)
    network = unet_network(ours)
    inputs = example_inputs(network, dict(zip(("batch", "tokens", "height", "width"), size, strict=True)), 1)
    with torch.inference_mode():
        expected = network.module(**inputs).numpy()
    session = onnxruntime.InferenceSession(folder / "model" / "unet.onnx")
    taken = {value.name for value in session.get_inputs()}
    made = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in taken})[0]
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() <= CALL_BOUNDS["float32"] * max(1, np.abs(expected).max())


def test_as_simple_as_the_exporter_makes_them(pair: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """By all of onnxscript's rules, of which pydiff leaves out the slow one."""
    index = read_index(pair("if").folder.with_name("weights"))
    network = unet_network(open_indexes([index], torch_networks(), "if").stages[0])
    ours = Counter(node.op_type for node in write.trace(network).graph)
    monkeypatch.setattr(write, "optimize", onnxscript.optimizer.optimize_ir)
    assert ours == Counter(node.op_type for node in write.trace(network).graph)


@pytest.mark.parametrize("family", MAKERS)
def test_parity_report(pair: Callable[[str], Pair], family: str) -> None:
    folder = pair(family).folder
    report = json.loads((folder / "parity.json").read_text())
    checks = report["checks"]
    assert sorted({check["what"] for check in checks}) == sorted([*GRAPHS[family], "run"])
    assert all(len([one for one in checks if one["what"] == name]) == 2 for name in GRAPHS[family])
    calls = [check for check in checks if check["what"] != "run"]
    assert all(check["error"] <= check["bound"] == CALL_BOUNDS["float32"] for check in calls)
    assert all(check["error"] <= check["bound"] and check["bound"] >= RUN_BOUND for check in checks[len(calls) :])
    assert report["against"] == f"torch {torch.__version__} float32"
    assert "parity.json" in read_manifest(folder).files


def test_configurations_travel(pair: Callable[[str], Pair]) -> None:
    """And no weights do but the graphs'; a tokenizer of other files becomes a tokenizer.json."""
    folder = pair("xl").folder / "model"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json"} <= names
    assert {f"{part}/tokenizer.json" for part in ("tokenizer", "tokenizer_2")} <= names
    assert {Path(name).suffix for name in names} == {".json", ".onnx"}
    said = json.loads((folder / "tokenizer_2" / "tokenizer_config.json").read_text())
    assert said["model_max_length"] == 77
    assert said["pad_token"]
