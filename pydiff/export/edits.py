"""The edit graph: a U-Net's own graph, in which every layer's attention is edited and captured between the operators
that form its map and those that use it.

With A a layer's map over text and pixels, text first, and s and p the rows whose text and whose pixels a row borrows:

    words  E = A[s][..., :T] @ transfer + A[..., :T] * keep         heat = mean over heads of E @ probe
    pixels P = A[p][..., T:], times (1 - sum E) / sum P where `rescale` asks for it and nothing is borrowed

In layers of pixels alone the queries and keys of row p stand in the place of a row's own. Rows that borrow their own
map are left as they are, bit for bit. All of it is in operators of ai.onnx, without branches: a gate chooses rows.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from pydiff.export.write import name_values, type_of
from pydiff.runtime.manifest import AttentionLayer, Graph, Value

_SCOPES = "pkg.torch.onnx.name_scopes"
_END = np.iinfo(np.int64).max


def edit_graph(graph: Graph) -> Graph:
    """What the edit graph of a U-Net's graph takes and makes."""
    rows, tables = ("batch",), ("batch", "tokens")
    inputs = {
        "source": Value("int64", rows),
        "transfer": Value("float32", (*tables, "tokens")),
        "keep": Value("float32", tables),
        "probe": Value("float32", (*tables, "words")),
        "pixel_source": Value("int64", rows),
        "pixel_layers": Value("float32", (len(graph.layers),)),
        "unborrowed": Value("float32", rows),
        "rescale": Value("float32", ()),
    }
    texts = [layer for layer in graph.layers if layer.text]
    heats = {f"heat_{i}": Value("float32", ("batch", f"pixels_{i}", "words")) for i in range(len(texts))}
    pooled = {"pooled": graph.inputs["pooled"]} if "pooled" in graph.inputs else {}
    others = {name: value for name, value in graph.inputs.items() if name not in pooled}
    return Graph({**others, **inputs, **pooled}, {**graph.outputs, **heats}, graph.divides, graph.layers)


def edited(model: ir.Model, graph: Graph) -> ir.Model:
    """The model with the tables of an edit as inputs and the heat of its text layers as outputs, in place. graph: what
    `edit_graph` made of the model's own. Raises RuntimeError when a layer's map is not found."""
    added = [name for name in graph.inputs if name not in {value.name for value in model.graph.inputs}]
    inputs = {name: ir.Value(name=name, type=type_of(graph.inputs[name].dtype)) for name in added}
    by_name = {value.name: value for value in model.graph.inputs} | inputs
    model.graph.inputs[:] = [by_name[name] for name in graph.inputs]
    maps = _maps(model, graph.layers)
    tables = _Tables(model, next(iter(model.graph)), inputs)
    for place, (layer, softmax) in enumerate(zip(graph.layers, maps, strict=True)):
        if layer.text:
            heat = _edit_text(_Builder(model, softmax, after=True), tables, place, softmax, layer)
            model.graph.outputs.append(heat)
        else:
            _edit_pixels(_Builder(model, softmax), tables, place, softmax)
    name_values(model, graph)
    return model


def _maps(model: ir.Model, layers: Sequence[AttentionLayer]) -> list[ir.Node]:
    """The softmax of every layer, known by the module that it was traced in."""
    found: dict[str, ir.Node] = {}
    for node in model.graph:
        if node.op_type == "Softmax":
            scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
            found |= {scope.removeprefix("unet."): node for scope in scopes[:-1] if scope.startswith("unet.")}
    lacking = [layer.name for layer in layers if layer.name not in found]
    if lacking:
        raise RuntimeError(f"torch's exporter left no map of {lacking[0]} in the graph; use another version of torch")
    return [found[layer.name] for layer in layers]


class _Builder:
    """Appends operators before or after a node."""

    def __init__(self, model: ir.Model, place: ir.Node, after: bool = False) -> None:
        self.graph, self.place, self.after = model.graph, place, after

    def __call__(self, operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """The operator's result."""
        node = ir.node(operator, list(inputs), attributes)
        node.outputs[0].name, node.outputs[0].type = f"edit_{len(self.graph)}", _type_of(operator, inputs)
        if self.after:
            self.graph.insert_after(self.place, node)
            self.place = node
        else:
            self.graph.insert_before(self.place, node)
        return node.outputs[0]

    def constant(self, value: Any, dtype: Any = np.int64) -> ir.Value:
        """A constant of the graph."""
        name = f"edit_{np.dtype(dtype).name}_{np.asarray(value).tolist()}"
        known = self.graph.initializers.get(name)
        if known is None:
            array = np.asarray(value, dtype)
            tensor, shape = ir.tensor(array, name=name), ir.Shape(array.shape)
            known = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
            self.graph.register_initializer(known)
        return known


def _type_of(operator: str, inputs: Sequence[ir.Value]) -> ir.TypeProtocol | None:
    """The type of an operator's result."""
    if operator in ("Equal", "Less", "Greater", "Or", "Not"):
        return ir.TensorType(ir.DataType.BOOL)
    return ir.TensorType(ir.DataType.INT64) if operator == "Shape" else inputs[operator == "Where"].type


class _Tables:
    """The inputs in the forms that the layers take, made once at the graph's begin."""

    def __init__(self, model: ir.Model, first: ir.Node, inputs: dict[str, ir.Value]) -> None:
        op = _Builder(model, first)
        self.one, self.pixel_source, self.layers = (
            op.constant(1.0, np.float32),
            *map(inputs.__getitem__, ("pixel_source", "pixel_layers")),
        )
        self.source = inputs["source"]
        rows = op("Shape", self.source)
        scalar = op("Squeeze", rows)
        self.own = op("Range", op.constant(0), scalar, op.constant(1))
        plain = op("Equal", self.source, self.own)
        self.plain = op("Unsqueeze", plain, op.constant([1, 2, 3]))  # (B, 1, 1, 1)
        transfer = op("Unsqueeze", inputs["transfer"], op.constant([1]))
        self.transfer = op("Where", self.plain, op.constant(0.0, np.float32), transfer)  # (B, 1, T, T)
        keep = op("Unsqueeze", inputs["keep"], op.constant([1, 2]))
        self.keep = op("Where", self.plain, self.one, keep)  # (B, 1, 1, T)
        self.probe = op("Unsqueeze", inputs["probe"], op.constant([1]))  # (B, 1, T, K)
        self.tokens = op("Shape", inputs["keep"], start=1)
        left = op("Greater", inputs["unborrowed"], op.constant(0.5, np.float32))
        self.unborrowed = op("Where", left, self.own, self.pixel_source)  # rows whose text is edited borrow no pixels
        self.kept = op("Less", inputs["rescale"], op.constant(0.5, np.float32))

    def rows(self, op: _Builder, place: int, source: ir.Value) -> ir.Value:
        """The rows (B,) that a layer's pixels borrow from: `source` where its gate is 1, their own where it is 0."""
        gate = op("Gather", self.layers, op.constant(place), axis=0)
        return op("Where", op("Greater", gate, op.constant(0.5, np.float32)), source, self.own)


def _edit_pixels(op: _Builder, tables: _Tables, place: int, softmax: ir.Node) -> None:
    """Queries and keys of other rows."""
    scores = softmax.inputs[0]
    product = None if scores is None else scores.producer()
    if product is None or product.op_type != "MatMul":
        raise RuntimeError(f"torch's exporter made no product of queries and keys for {softmax.name}")
    op.place = product
    rows = tables.rows(op, place, tables.pixel_source)
    for number, value in enumerate(list(product.inputs)):
        assert value is not None
        product.replace_input_with(number, op("Gather", value, rows, axis=0))


def _edit_text(op: _Builder, tables: _Tables, place: int, softmax: ir.Node, layer: AttentionLayer) -> ir.Value:
    """The edited map in the place of a layer's own; returns the heat (B, N, K)."""
    own, users = softmax.outputs[0], [(use.node, use.idx) for use in softmax.outputs[0].uses()]
    joint = layer.attends != "text"
    last, begin = op.constant([3]), op.constant([0])
    text = op("Slice", own, begin, tables.tokens, last) if joint else own
    lent = op("MatMul", op("Gather", text, tables.source, axis=0), tables.transfer)
    words = op("Add", lent, op("Mul", text, tables.keep))
    heat = op("ReduceMean", op("MatMul", words, tables.probe), op.constant([1]), keepdims=0)
    result = words
    if joint:
        pixels = op("Slice", own, tables.tokens, op.constant([_END]), last)
        result = op("Concat", words, _pixels(op, tables, place, words, pixels), axis=-1)
    for node, number in users:
        node.replace_input_with(number, result)
    return heat


def _pixels(op: _Builder, tables: _Tables, place: int, words: ir.Value, pixels: ir.Value) -> ir.Value:
    """The pixels' columns of a row: another row's, or its own, rescaled or left alone."""
    rows, last = tables.rows(op, place, tables.unborrowed), op.constant([-1])
    borrowed = op("Gather", pixels, rows, axis=0)
    same = op("Unsqueeze", op("Equal", rows, tables.own), op.constant([1, 2, 3]))
    total = op("ReduceSum", pixels, last)
    nothing = op("Equal", total, op.constant(0.0, np.float32))
    left = op("Or", op("Or", op("Or", op("Not", same), tables.plain), tables.kept), nothing)
    rest = op("Sub", tables.one, op("ReduceSum", words, last))
    factor = op("Where", left, tables.one, op("Div", rest, op("Where", left, tables.one, total)))
    return op("Mul", borrowed, factor)
