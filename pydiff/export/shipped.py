"""The graphs of the models that pydiff carries, beside their weights: `python -m pydiff.export.shipped`.

They hold no weights of their own: ONNX lets a tensor lie in another file, and theirs are pieces of the safetensors
files that torch reads. `python -m pydiff.embedded.export` writes those, and then does this.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir

from pydiff.export.graphs import networks_of
from pydiff.export.model import write_graphs
from pydiff.export.stages import HOME, sources_of
from pydiff.export.write import OPSET
from pydiff.folders import open_indexes
from pydiff.folders.torch_networks import torch_networks
from pydiff.pipeline import EMBEDDED_NAME, SHIPPED
from pydiff.runtime.manifest import Graph, Manifest, file_record

FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
FEW_BYTES = 256  # of a constant that stays in its graph


def write_shipped() -> None:
    """Graphs of every model that pydiff carries in the folders of its stages, and one manifest of all."""
    home, graphs, stages = HOME, dict[str, Graph](), dict[str, None]()
    for name in SHIPPED:
        _, sources = sources_of(name)
        cascade = open_indexes([source.index for source in sources], torch_networks(), name)
        for source, stage in zip(sources, cascade.stages, strict=True):
            if source.name in stages:
                continue
            stages[source.name] = None
            for network in networks_of(source.index, stage):
                refer = partial(without_weights, folder=home / source.name, component=network.name)
                for path, graph in write_graphs(network, home / source.name, refer):
                    graphs[path.relative_to(home).as_posix()] = graph
    paths = sorted(path for stage in stages for path in (home / stage).rglob("*") if path.is_file())
    files = {path.relative_to(home).as_posix(): file_record(path) for path in paths}
    versions = {"onnx": onnx.__version__}
    Manifest(EMBEDDED_NAME, "float32", OPSET, tuple(stages), files, graphs, versions=versions).write(home)


def without_weights(model: ir.Model, folder: Path, component: str) -> ir.Model:
    """The model, its weights being pieces of folder/component/*.safetensors, some of them transposed in the graph.
    Raises ValueError for a larger constant that is not there."""
    path = next(found for name in FILES if (found := folder / component / name).is_file())
    pieces = _pieces(path)
    for name, value in list(model.graph.initializers.items()):
        held = value.const_value
        if held is None or held.nbytes < FEW_BYTES:
            continue
        array = held.numpy()
        straight, turned = pieces.get(array.tobytes()), pieces.get(array.T.tobytes()) if array.ndim == 2 else None
        piece = turned if straight is None else straight
        if piece is None:
            raise ValueError(f"the graph of {folder / component} holds {name} {array.shape}, which {path} does not")
        external = ir.ExternalTensor(
            f"{component}/{path.name}", piece, array.nbytes, held.dtype,
            shape=ir.Shape(array.shape if straight is not None else array.shape[::-1]), name=name, base_dir=folder,
        )  # fmt: skip
        if straight is not None:
            value.const_value = external
        else:
            _turn(model, value, external)
    return model


def _turn(model: ir.Model, value: ir.Value, tensor: ir.ExternalTensor) -> None:
    """Let what takes a value have a tensor's transposed, which runtimes compute once, when they open the graph."""
    name = f"{value.name}_rows"
    tensor.name = name
    rows = ir.Value(name=name, type=value.type, shape=tensor.shape, const_value=tensor)
    node = ir.node("Transpose", [rows], {"perm": [1, 0]})
    node.outputs[0].name, node.outputs[0].type = f"{value.name}_columns", value.type
    ir.convenience.replace_all_uses_with(value, node.outputs[0])
    model.graph.initializers.pop(str(value.name))
    model.graph.register_initializer(rows)
    model.graph.insert_before(model.graph[0], node)


def _pieces(path: Path) -> dict[bytes, int]:
    """Where the tensors of a safetensors file begin in it, by their bytes."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    return {
        data[begin + start : begin + stop]: begin + start
        for said in header.values()
        for start, stop in [said["data_offsets"]]
    }


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m pydiff.export.shipped", description=(__doc__ or "").splitlines()[0]
    ).parse_args()
    write_shipped()


if __name__ == "__main__":
    main()
