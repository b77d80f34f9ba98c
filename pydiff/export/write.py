"""Networks to ONNX: torch's exporter, with every size that may vary left open."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import opset18
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from pydiff.export.graphs import POOLED, Network, example_inputs
from pydiff.export.passes import optimize
from pydiff.runtime.manifest import Graph

OPSET = 18
MOST_BYTES = 2**31 - (1 << 20)  # of a file that holds its weights itself: protocol buffers end at 2 GiB
TRACED = {"batch": 2, "tokens": 7}  # sizes; none is 1, nor as large as another

_ATEN = torch.ops.aten
_NOTHING = (_ATEN.dropout.default, _ATEN.alias.default, _ATEN.contiguous.default, _ATEN.to.device)
_CHECKS = (_ATEN._assert_tensor_metadata.default, _ATEN._assert_scalar.default)


def trace(network: Network) -> ir.Model:
    """The network's graph, its inputs, outputs and axes named as the network has them."""
    sizes = {**TRACED, "height": 5 * network.least, "width": 6 * network.least}
    inputs = example_inputs(network, sizes)
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            network.module.eval(),
            (),
            inputs,
            dynamic_shapes=_dynamic(network),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        model = _translated(program, inputs)
    name_values(model, network.graph)
    return model


def plain(model: ir.Model, graph: Graph) -> ir.Model:
    """The same without the input that says whose pooled text a row is told: its own."""
    inputs = {value.name: value for value in model.graph.inputs}
    pooled = inputs.get(POOLED)
    if pooled is not None:
        for node in list(pooled.consumers()):
            if node.op_type == "Shape":
                node.replace_input_with(0, inputs["timestep"])  # of the same batch
        for gather in _gathers(pooled):
            ir.convenience.replace_all_uses_with(gather.outputs[0], cast(ir.Value, gather.inputs[0]))
        common.RemoveUnusedNodesPass()(model)
        model.graph.inputs.remove(pooled)
    name_values(model, plain_graph(graph))
    return model


def _gathers(rows: ir.Value) -> list[ir.Node]:
    """What takes such rows of something, the exporter's change of the index's shape passed over."""
    nodes = list(rows.consumers())
    between = [_gathers(node.outputs[0]) for node in nodes if node.op_type == "Reshape"]
    return [node for node in nodes if node.op_type == "Gather"] + [node for some in between for node in some]


def plain_graph(graph: Graph) -> Graph:
    inputs = {name: value for name, value in graph.inputs.items() if name != POOLED}
    return Graph(inputs, graph.outputs, graph.divides, graph.layers)


def save(model: ir.Model, path: Path, beside: Path | None = None) -> None:
    """Write a graph; its weights beside it, in NAME.onnx.data, where one file cannot hold them. beside: a graph written
    before, whose weights this one takes where they lie in such a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    common.ClearMetadataAndDocStringPass()(model)
    model.producer_name, model.producer_version = "pydiff", None
    data = None if beside is None else beside.with_name(f"{beside.name}.data")
    if data is not None and data.exists():
        _share(model, ir.load(beside))  # type: ignore[arg-type]
    held = [value.const_value for value in model.graph.initializers.values()]
    size = sum(one.nbytes for one in held if one is not None and not isinstance(one, ir.ExternalTensor))
    ir.save(model, path, external_data=f"{path.name}.data" if size > MOST_BYTES else None)


def _share(model: ir.Model, written: ir.Model) -> None:
    """Take from a file what a written model has in it under the same name."""
    own = model.graph.initializers
    for name, value in written.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor) and name in own and own[name].shape == value.shape:
            own[name].const_value = value.const_value


def _dynamic(network: Network) -> dict[str, dict[int, Any]]:
    """Per input its axes that vary. Sizes of 1 would be taken for constants, so the smallest ones are larger."""
    smallest = {"batch": 1, "tokens": 2, "height": 2 * network.least, "width": 2 * network.least}
    dims = {
        name: Dim(name, min=size, max=network.most_tokens if name == "tokens" else None)
        for name, size in smallest.items()
    }
    return {
        name: {place: dims[axis] for place, axis in enumerate(value.shape) if isinstance(axis, str)}
        for name, value in network.graph.inputs.items()
    }


def _translated(program: ExportedProgram, inputs: Mapping[str, Tensor]) -> ir.Model:
    """The program in ONNX. The exporter's first step traces it anew to break down its operators, which takes most of
    its time; those of pydiff's own networks it knows whole, so that step is left out where that will do."""
    _simplify(program)
    whole = program.run_decompositions
    setattr(program, "run_decompositions", lambda table=None: program)  # noqa: B010
    try:
        return _converted(program, inputs)
    except torch.onnx.OnnxExporterError:
        setattr(program, "run_decompositions", whole)  # noqa: B010
        return _converted(program, inputs)


def _converted(program: ExportedProgram, inputs: Mapping[str, Tensor]) -> ir.Model:
    made = torch.onnx.export(
        program,
        (),
        kwargs=dict(inputs),
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        optimize=False,
        custom_translation_table={_ATEN.rsub.Scalar: _rsub, _ATEN.square.default: _square},
    )
    assert made is not None
    optimize(made.model)
    return made.model


def _rsub(value: Any, scalar: Any, alpha: float = 1.0) -> Any:
    """scalar - alpha value, for which the exporter has no operators of its own."""
    return opset18.Sub(opset18.CastLike(scalar, value), value if alpha == 1 else opset18.Mul(value, alpha))


def _square(value: Any) -> Any:
    """value^2, likewise."""
    return opset18.Mul(value, value)


def _simplify(program: ExportedProgram) -> None:
    """Take out of a program what a graph for inference has no use for, in place."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _CHECKS:
            graph.erase_node(node)
        elif node.target in _NOTHING or (node.target is _ATEN.to.dtype and _same_dtype(node)):
            program.graph_signature.replace_all_uses(node.name, node.args[0].name)
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is _ATEN.to.dtype:
            node.target, node.args, node.kwargs = _ATEN._to_copy.default, node.args[:1], {"dtype": node.args[1]}
        elif node.target is _ATEN.mT.default:
            node.target, node.args = _ATEN.transpose.int, (node.args[0], -2, -1)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _same_dtype(node: fx.Node) -> bool:
    value = node.args[0]
    return isinstance(value, fx.Node) and value.meta["val"].dtype == node.args[1]


def name_values(model: ir.Model, graph: Graph) -> None:
    """Names of inputs, outputs and their axes as `graph` has them, in the sizes of what lies in between too: runtimes
    that know those open a graph in half the time."""
    axes_of: dict[str, str] = {}
    for values, told in ((model.graph.inputs, graph.inputs), (model.graph.outputs, graph.outputs)):
        for value, (name, (dtype, axes)) in zip(values, told.items(), strict=True):
            for traced, axis in zip(value.shape or (), axes, strict=False):
                if isinstance(traced, ir.SymbolicDim) and traced.value is not None and isinstance(axis, str):
                    axes_of.setdefault(traced.value, axis)
            value.name, value.shape, value.type = name, ir.Shape(axes), type_of(dtype)
    named = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    for node in model.graph:
        for value in node.outputs:
            if id(value) not in named and value.shape is not None:
                value.shape = ir.Shape([_named(size, axes_of) for size in value.shape])


def _named(size: int | ir.SymbolicDim, axes_of: Mapping[str, str]) -> int | str | None:
    """A size, or an expression of sizes, in which axes have their names."""
    if isinstance(size, int) or size.value is None:
        return size if isinstance(size, int) else None
    return re.sub(r"\w+", lambda found: axes_of.get(found[0], found[0]), size.value)


def type_of(dtype: str) -> ir.TensorType:
    """ONNX's type of an input or output."""
    return ir.TensorType(ir.DataType.INT64 if dtype == "int64" else ir.DataType.FLOAT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not there and names that it makes."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
