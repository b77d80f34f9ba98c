"""What an ONNX file would run and read, found without running it and without the onnx package.

An ONNX file is a protocol buffer (onnx/onnx.proto; https://protobuf.dev/programming-guides/encoding): messages of
fields, each a key, `number << 3 | wire type`, and what the wire type says. Only the fields that matter here are gone
into; weights are stepped over, so that a file of two gigabytes is read in milliseconds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

MOST_FIELDS = 1 << 22  # more than any network has; each takes about a microsecond
DEEPEST = 64  # messages in messages; a graph in a graph is three of them

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_EXTERNAL = 1  # of TensorProto.data_location

# Messages, and the fields of each that are gone into.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _OPSET, _FUNCTION, _TRAINING = range(9)
_INNER: Mapping[int, Mapping[int, int]] = {
    _MODEL: {7: _GRAPH, 8: _OPSET, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 9: _OPSET, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
}
_NAMES = {11: "inputs", 12: "outputs"}  # of GraphProto: values with a name each


class External(NamedTuple):
    """A tensor that lies in another file, as the ONNX file has it."""

    tensor: str
    location: str
    offset: int
    length: int


class Contents(NamedTuple):
    """Of an ONNX file. opsets: versions by domain; operators: (domain, name); external: tensors in other files;
    inputs and outputs: names of the graph's own."""

    opsets: dict[str, int]
    operators: set[tuple[str, str]]
    external: list[External]
    inputs: list[str]
    outputs: list[str]


def read_onnx(path: Path) -> Contents:
    """What is in an ONNX file, in its sub-graphs and functions too. Raises ValueError, naming the file, for what is no
    ONNX file, and for one that is cut off."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse_onnx(data)
    except ValueError as error:  # mmap's own, for an empty file, is one
        raise ValueError(f"{path} is no whole ONNX file: {error}; export the model again") from error


def parse_onnx(data: bytes | mmap.mmap) -> Contents:
    """The same of the file's bytes."""
    walk = _Walk(data)
    walk.message(_MODEL, 0, len(data), 0)
    if not walk.found.opsets or not walk.graphs:
        raise ValueError("it has no graph, or does not say which operators it means")
    return walk.found


class _Walk:
    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data, self.fields, self.graphs = data, 0, 0
        self.found = Contents({}, set(), [], [], [])

    def message(self, kind: int, start: int, stop: int, depth: int) -> None:
        """Go through a message, and those in it."""
        if depth > DEEPEST:
            raise ValueError(f"its messages lie in each other more than {DEEPEST} deep")
        if kind in (_TENSOR, _OPSET):
            return self.tensor(start, stop) if kind == _TENSOR else self.opset(start, stop)
        own: dict[int, str] = {}  # texts of a node, by field
        inner = _INNER[kind]
        for number, wire, begin, end in self.each(start, stop):
            if number in inner and wire == _BYTES:
                self.message(inner[number], begin, end, depth + 1)
            elif kind == _NODE and number in (4, 7) and wire == _BYTES:  # of a field that is there twice, the last
                own[number] = self.text(begin, end)
            elif depth == 1 and kind == _GRAPH and number in _NAMES and wire == _BYTES:
                getattr(self.found, _NAMES[number]).append(self.named(begin, end))
        if kind == _NODE:
            self.found.operators.add((_domain(own.get(7, "")), own.get(4, "")))
        self.graphs += kind == _GRAPH

    def opset(self, start: int, stop: int) -> None:
        domain, version = "", 0
        for number, wire, begin, end in self.each(start, stop):
            if number == 1 and wire == _BYTES:
                domain = self.text(begin, end)
            elif number == 2 and wire == _VARINT:
                version = begin
        self.found.opsets[_domain(domain)] = max(version, self.found.opsets.get(_domain(domain), 0))

    def tensor(self, start: int, stop: int) -> None:
        """Note a tensor if it lies elsewhere."""
        name, location = "", 0
        entries: dict[str, str] = {}
        for number, wire, begin, end in self.each(start, stop):
            if number == 8 and wire == _BYTES:
                name = self.text(begin, end)
            elif number == 13 and wire == _BYTES:
                entries.update([self.entry(begin, end)])
            elif number == 14 and wire == _VARINT:
                location = begin
        if not entries and location != _EXTERNAL:
            return
        offset, length = entries.get("offset", "0"), entries.get("length", "")
        if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in (offset, length)):
            raise ValueError(f"the tensor {name!r:.80} lies in another file, but not where, or not how long")
        self.found.external.append(External(name, entries.get("location", ""), int(offset), int(length)))

    def entry(self, start: int, stop: int) -> tuple[str, str]:
        """A key and its value."""
        texts = {n: self.text(begin, end) for n, wire, begin, end in self.each(start, stop) if wire == _BYTES}
        return texts.get(1, ""), texts.get(2, "")

    def named(self, start: int, stop: int) -> str:
        """The name of a value: its first field."""
        names = [self.text(begin, end) for n, wire, begin, end in self.each(start, stop) if (n, wire) == (1, _BYTES)]
        return names[-1] if names else ""

    def text(self, start: int, stop: int) -> str:
        if stop - start > 1 << 16:
            raise ValueError(f"it has a name of {stop - start} bytes")
        return self.data[start:stop].decode()  # its error is a ValueError

    def each(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Fields as number, wire type and where their bytes begin and end; of a varint its value, in place of where it
        begins."""
        data = self.data
        while start < stop:
            self.fields += 1
            if self.fields > MOST_FIELDS:
                raise ValueError(f"it has more than {MOST_FIELDS} fields")
            key, start = (data[start], start + 1) if data[start] < 128 else _varint(data, start, stop)
            number, wire = key >> 3, key & 7
            if wire == _BYTES:
                size, begin = _varint(data, start, stop)
                end = begin + size
            elif wire == _VARINT:
                begin, end = _varint(data, start, stop)
            elif wire in (_FIXED32, _FIXED64):
                begin, end = start, start + (4 if wire == _FIXED32 else 8)
            else:
                raise ValueError(f"it has a field of the unknown kind {wire} at byte {start}")
            if end > stop or number == 0:
                raise ValueError(f"it breaks off, or is damaged, at byte {start}")
            yield number, wire, begin, end
            start = end


def _varint(data: bytes | mmap.mmap, start: int, stop: int) -> tuple[int, int]:
    """A number of seven bits to a byte, low ones first, and where it ends."""
    if start < stop and data[start] < 128:
        return data[start], start + 1
    value = shift = 0
    for place in range(start, min(start + 10, stop)):
        byte = data[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    raise ValueError(f"it breaks off, or is damaged, at byte {start}")


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
