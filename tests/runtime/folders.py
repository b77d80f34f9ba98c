"""Tiny ONNX files, and folders with a manifest around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pydiff.runtime.manifest import Graph, Manifest, Value, file_records

GRAPH = "base/unet.onnx"
IMAGE = ("batch", 3, "height", "width")
DOUBLED = Graph({"sample": Value("float32", IMAGE)}, {"out_sample": Value("float32", IMAGE)}, 8)


def doubling(nodes: Sequence[onnx.NodeProto] = (), opset: int = 20, **fields: Any) -> onnx.ModelProto:
    """sample (batch, 3, height, width) -> out_sample, twice as much; after nodes that nobody asks for."""
    image = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, IMAGE) for name in ("sample", "out_sample")}
    two = numpy_helper.from_array(np.float32(2), "two")
    graph = helper.make_graph(
        [*nodes, helper.make_node("Mul", ["sample", "two"], ["out_sample"])],
        "doubling", [image["sample"]], [image["out_sample"]], [two],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **fields)


def outside(model: onnx.ModelProto, location: str = "unet.onnx.data", offset: int = 0, length: int | None = 4) -> bytes:
    """The model with its weights in another file."""
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    said = {"location": location, "offset": offset, "length": length}
    for key, value in said.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    data: bytes = model.SerializeToString()
    return data


def write(folder: Path, model: onnx.ModelProto | bytes, graph: Graph = DOUBLED, **changes: Any) -> Path:
    """A folder with one graph, and a manifest that tells of all that lies there."""
    (folder / "base").mkdir(parents=True, exist_ok=True)
    (folder / GRAPH).write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    said: dict[str, Any] = {"model": "tiny", "dtype": "float32", "opset": 20, "stages": ("base",)}
    Manifest(**{**said, "files": file_records(folder), "graphs": {GRAPH: graph}, **changes}).write(folder)
    return folder
