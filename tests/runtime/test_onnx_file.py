"""The reader of ONNX files: it finds what the onnx package finds, and any bytes are read or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from pydiff.runtime import onnx_file
from pydiff.runtime.onnx_file import External, parse_onnx, read_onnx
from pydiff.runtime.operators import OPSETS, check_operators
from tests.runtime.folders import doubling, outside

MODEL = doubling([helper.make_node("Relu", ["sample"], ["x"]), helper.make_node("Gelu", ["x"], ["y"])])
DATA = MODEL.SerializeToString()


def operators(graph: Any) -> set[tuple[str, str]]:
    """Those of a graph and of the graphs in it, by the onnx package."""
    found = set()
    for node in graph.node:
        found.add((node.domain, node.op_type))
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                found |= operators(inner)
    return found


def test_it_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(DATA)
    found = read_onnx(tmp_path / "a.onnx")
    assert found == ({"": 20}, {("", "Relu"), ("", "Gelu"), ("", "Mul")}, [], ["sample"], ["out_sample"])
    assert found.operators == operators(MODEL.graph)


def test_weights_in_other_files() -> None:
    found = parse_onnx(outside(doubling(), "w.data", 8, 4))
    assert found.external == [External("two", "w.data", 8, 4)]


def test_a_constant_in_another_file() -> None:
    tensor = onnx.TensorProto(name="c", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="/etc/passwd")
    tensor.external_data.add(key="length", value="4")
    model = doubling([helper.make_node("Constant", [], ["c"], value=tensor)])
    assert parse_onnx(model.SerializeToString()).external == [External("c", "/etc/passwd", 0, 4)]


def test_a_graph_in_two_pieces_is_one() -> None:
    """As for every reader of protocol buffers: a message that is there twice is merged."""
    steal = onnx.ModelProto(graph=helper.make_graph([helper.make_node("Steal", [], ["x"])], "g", [], []))
    both = DATA + steal.SerializeToString()
    assert operators(onnx.ModelProto.FromString(both).graph) == parse_onnx(both).operators


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = parse_onnx(data)
    except ValueError:
        return
    assert found.opsets


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_is_not_read_otherwise_than_by_onnx(changes: list[tuple[int, int]]) -> None:
    data = bytearray(DATA)
    for place, byte in changes:
        data[place] = byte
    try:
        found = parse_onnx(bytes(data))
    except ValueError:
        return
    try:
        model = onnx.ModelProto.FromString(bytes(data))
    except Exception:  # what onnx does not read, the runtime does not run
        return
    expected = {("" if domain == "ai.onnx" else domain, name) for domain, name in operators(model.graph)}
    assert found.operators == expected
    assert found.inputs == [value.name for value in model.graph.input]


@pytest.mark.parametrize(
    "data", [b"\x3a" + b"\xff" * 9 + b"\x01", b"\x3a\x02\x0b\x0c", b"\x07", b"\x02\x00", b"\x80" * 20]
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"breaks off|unknown kind"):
        parse_onnx(data)


def test_messages_too_deep() -> None:
    data = b""
    for _ in range(200):  # a graph in an attribute in a node in a graph
        for key in (0x32, 0x2A, 0x0A):
            data = bytes([key]) + onnx_varint(len(data)) + data
    with pytest.raises(ValueError, match="more than 64 deep"):
        parse_onnx(b"\x3a" + onnx_varint(len(data)) + data)


def test_a_file_of_nothing_but_fields_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MOST_FIELDS", 1000)
    with pytest.raises(ValueError, match="more than 1000 fields"):
        parse_onnx(b"\x08\x01" * 1001)


def test_large_weights_are_stepped_over(tmp_path: Path) -> None:
    with (tmp_path / "a.onnx").open("wb") as file:  # a sparse file: one initializer of 1.5 GB
        size = 3 << 29
        inner = b"\x4a" + onnx_varint(size)
        tensor = b"\x2a" + onnx_varint(len(inner) + size) + inner
        head = b"\x42\x02\x10\x14" + b"\x3a" + onnx_varint(len(tensor) + size) + tensor
        file.write(head)
        file.truncate(len(head) + size)
    assert read_onnx(tmp_path / "a.onnx").opsets == {"": 20}


def test_operators_are_those_of_onnx() -> None:
    schemas = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""]
    gone = {schema.name for schema in schemas if schema.deprecated}
    for opset in OPSETS:
        first = {schema.name: opset for schema in schemas if schema.since_version <= opset}
        check_operators({"": opset}, {("", name) for name in first if name not in gone})
        for name in {schema.name for schema in schemas} - set(first):
            with pytest.raises(ValueError, match=f"'{name}', which ai.onnx has not in opset {opset}"):
                check_operators({"": opset}, {("", name)})


def onnx_varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])
