"""Graphs with smaller weights: float16, and int8 for the weights alone. What goes in and comes out stays float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

PRODUCTS = ("MatMul", "Gemm", "Conv")  # of a second input, the weights
SMALLEST = 1024  # elements of weights that are worth being int8
# What float16 would lose: statistics, exponents, angles, positions. Their inputs are made float32.
PRECISE = (
    *("InstanceNormalization", "LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "Pow", "Sqrt", "Reciprocal"),
    *("Sin", "Cos", "Exp", "Log", "Div", "Range", "Clip", "Equal", "Less", "Greater", "Cast", "CastLike"),
)
RESTORED = ("InstanceNormalization", "LayerNormalization", "Softmax")  # whose results are as their inputs were
OVERFLOWS = ".wo.weight"  # of T5, whose products with these leave float16's range

_HALF, _FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT


def halved(model: ir.Model) -> ir.Model:
    """The model with float16 weights and products, in place. Sums and the like are float16 where all that they take is;
    norms, softmax and angles are computed in float32."""
    _Halving(model).run()
    return model


class _Halving:
    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.half: set[ir.Value] = set()  # values that are float16 now
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        for node in list(self.graph):
            if node.op_type in PRODUCTS and not any(OVERFLOWS in (value.name or "") for value in _given(node)):
                self._compute(node, _HALF)
            elif node.op_type == "Gather" and _is_weights(node.inputs[0]):
                self._compute(node, _HALF)
                self._restore(node, _FLOAT)
            elif node.op_type in PRECISE or node.op_type in PRODUCTS:
                was_half = any(value in self.half for value in _given(node))
                self._compute(node, _FLOAT)
                if was_half and node.op_type in RESTORED:
                    self._restore(node, _HALF)
            else:
                self._follow(node)
        self._finish()

    def _follow(self, node: ir.Node) -> None:
        """Float16 where all that varies among a node's floats is."""
        floats = [value for value in _given(node) if value.dtype in (_FLOAT, _HALF) and not _is_weights(value)]
        self._compute(node, _HALF if floats and all(value in self.half for value in floats) else _FLOAT)

    def _compute(self, node: ir.Node, dtype: ir.DataType) -> None:
        for number, value in enumerate(node.inputs):
            if value is not None and value.dtype in (_FLOAT, _HALF):
                node.replace_input_with(number, self._as(node, value, dtype))
        for value in node.outputs:
            if value.dtype == _FLOAT and dtype == _HALF:
                value.type = ir.TensorType(_HALF)
                self.half.add(value)

    def _as(self, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A value in a type, cast before the first node that asks for it."""
        if (value in self.half) == (dtype == _HALF):
            return value
        if (value, dtype) not in self.casts:
            self.casts[value, dtype] = self._half_weights(value) if _is_weights(value) else self._cast(value, dtype)
            if value.producer() is None and not _is_weights(value):
                self.graph.insert_before(node, self.casts[value, dtype].producer())  # type: ignore[arg-type]
            elif value.producer() is not None:
                self.graph.insert_after(value.producer(), self.casts[value, dtype].producer())  # type: ignore[arg-type]
        return self.casts[value, dtype]

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        made = ir.node("Cast", [value], {"to": dtype}).outputs[0]
        made.name, made.type = f"{value.name}_{'half' if dtype == _HALF else 'float'}", ir.TensorType(dtype)
        if dtype == _HALF:
            self.half.add(made)
        return made

    def _half_weights(self, value: ir.Value) -> ir.Value:
        weights, name = value.const_value, f"{value.name}_half"
        assert weights is not None
        shape = ir.Shape(weights.shape.numpy())
        tensor = ir.LazyTensor(
            lambda: ir.tensor(_to_half(weights.numpy()), name=name), dtype=_HALF, shape=shape, name=name
        )
        made = ir.Value(name=name, type=ir.TensorType(_HALF), shape=shape, const_value=tensor)
        self.graph.register_initializer(made)
        self.half.add(made)
        return made

    def _restore(self, node: ir.Node, dtype: ir.DataType) -> None:
        """Let what takes a node's result have it in another type."""
        own = node.outputs[0]
        cast = self._cast(own, dtype)
        ir.convenience.replace_all_uses_with(own, cast, replace_graph_outputs=True)
        cast.producer().replace_input_with(0, own)  # type: ignore[union-attr]
        self.graph.insert_after(node, cast.producer())  # type: ignore[arg-type]

    def _finish(self) -> None:
        """Results in float32, under their names; weights that nobody takes any more are dropped."""
        for place, value in enumerate(list(self.graph.outputs)):
            if value in self.half:
                name, shape = value.name, value.shape
                cast = self._cast(value, _FLOAT)
                self.graph.append(cast.producer())  # type: ignore[arg-type]
                value.name, cast.name, cast.shape = f"{name}_half", name, shape
                self.graph.outputs[place] = cast
        for name, value in list(self.graph.initializers.items()):
            if not value.uses():
                del self.graph.initializers[name]


def quantized(model: ir.Model) -> ir.Model:
    """The model with the weights of its products as int8 and a scale for every channel that they make, in place."""
    found: dict[ir.Value, ir.Value] = {}
    for value, axis in _channels(model):
        if value not in found:
            found[value] = _dequantized(model.graph, value, axis)
    for value, made in found.items():
        keeper = made.producer()
        for node, number in [(use.node, use.idx) for use in value.uses()]:
            if node is not keeper:
                node.replace_input_with(number, made)
        if not value.uses():
            del model.graph.initializers[str(value.name)]
    return model


def _channels(model: ir.Model) -> Iterator[tuple[ir.Value, int]]:
    """Weights of products, and the axis of the channels that they make."""
    for node in model.graph:
        value = node.inputs[1] if node.op_type in PRODUCTS else None
        if value is None or not _is_weights(value) or value.shape is None or value.shape.rank() < 2:
            continue
        if value.const_value is not None and value.const_value.size >= SMALLEST:
            rows = node.op_type == "Conv" or (node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1)
            yield value, 0 if rows else value.shape.rank() - 1


def _dequantized(graph: ir.Graph, value: ir.Value, axis: int) -> ir.Value:
    """Weights from int8 and scales, before the graph's first node."""
    weights = value.const_value
    assert weights is not None
    whole, scale = quantize(weights.numpy(), axis)
    parts = [_initializer(graph, f"{value.name}_{kind}", array) for kind, array in (("int8", whole), ("scale", scale))]
    made = ir.node("DequantizeLinear", parts, {"axis": axis}).outputs[0]
    made.name, made.type = f"{value.name}_dequantized", ir.TensorType(_FLOAT)
    graph.insert_before(graph[0], made.producer())  # type: ignore[arg-type]
    return made


def quantize(weights: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 of weights, and the scales (channels,) along an axis: symmetric, the largest value of a channel is 127."""
    others = tuple(place for place in range(weights.ndim) if place != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.round(weights / scale).astype(np.int8), scale.reshape(-1)


def _initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    made = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(made)
    return made


def _given(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _is_weights(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()


def _to_half(array: NDArray[np.float32]) -> NDArray[np.float16]:
    """Nearest float16; values that leave its range are its largest."""
    most = float(np.finfo(np.float16).max)
    return np.clip(array, -most, most).astype(np.float16)


CONVERSIONS: dict[str, Callable[[ir.Model], ir.Model]] = {
    "float32": lambda model: model,
    "float16": halved,
    "int8": quantized,
}
