"""What an exported folder says of itself, in manifest.json: versions, files with their hashes, and graphs.

The folder is `pydiff export`'s. It is read here, and in any other language, before anything in it is opened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydiff._version import __version__
from pydiff.weights.files import inside, read_json, write_json

FORMAT = 1  # the one that is written
FORMATS = (1,)  # those that are read
MANIFEST = "manifest.json"
DTYPES = ("float32", "float16", "int8")
VALUE_DTYPES = ("float32", "int64")  # of what goes into graphs and comes out of them
READ_AT_ONCE = 1 << 20  # bytes

_SHA256 = re.compile("[0-9a-f]{64}")
_STAGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class FileRecord(NamedTuple):
    """A file's size and the SHA-256 of its bytes, in hexadecimal."""

    bytes: int
    sha256: str


class Value(NamedTuple):
    """What a graph takes or makes. shape: a number for an axis that is fixed, a name for one that is not."""

    dtype: str
    shape: tuple[int | str, ...]


class AttentionLayer(NamedTuple):
    """A layer of attention, by its name in the checkpoint. attends: "pixels", "text", or "text and pixels" in one
    softmax; text: whether the edit graph has a heat output for it."""

    name: str
    attends: str
    text: bool


@dataclass(frozen=True)
class Graph:
    """A graph's inputs and outputs by name. divides: what the sides of its pictures are multiples of. layers: all its
    layers of attention in the network's order; the i-th of those with text makes the output heat_i. A CLIP's states
    without its last n layers are the output states_n, beside states."""

    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]
    divides: int = 1
    layers: tuple[AttentionLayer, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """manifest.json. stages: folders, small pictures first; files and graphs: by their paths in the folder, with
    slashes; versions: of the packages that made it; default_size: the side in pixels of a picture that nobody said the
    size of, None for the largest stage's."""

    model: str
    dtype: str
    opset: int
    stages: tuple[str, ...]
    files: Mapping[str, FileRecord]
    graphs: Mapping[str, Graph]
    default_size: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    pydiff: str = __version__
    format: int = FORMAT

    def as_json(self) -> dict[str, Any]:
        """The object that manifest.json holds."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ("files", "graphs", "stages")},
            "stages": list(self.stages),
            "files": {path: record._asdict() for path, record in self.files.items()},
            "graphs": {path: _graph_json(graph) for path, graph in self.graphs.items()},
        }

    def write(self, folder: Path) -> None:
        """Write folder/manifest.json, whole or not at all."""
        write_json(folder / MANIFEST, self.as_json())


def is_exported(folder: Path) -> bool:
    """Whether a folder is one that `pydiff export` wrote."""
    return (folder / MANIFEST).is_file()


def file_record(path: Path) -> FileRecord:
    """Size and hash of a file, read piece by piece."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
            size += len(piece)
    return FileRecord(size, digest.hexdigest())


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Those of every file in a folder but manifest.json, by path with slashes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: file_record(path) for name, path in names.items() if name != MANIFEST}


def read_manifest(folder: Path) -> Manifest:
    """What folder/manifest.json says. Raises ValueError, naming the file, for another format and for anything that does
    not fit; the files themselves are not looked at."""
    path = inside(folder, MANIFEST)
    said = read_json(path)
    written = said.get("format")
    if type(written) is not int or written not in FORMATS:
        raise ValueError(
            f"{path} was written by pydiff {said.get('pydiff')!s:.40} in format {written!r:.40}; this one, "
            f"{__version__}, reads format {', '.join(map(str, FORMATS))}: export the model again with it, or install "
            "that pydiff"
        )
    try:
        return _read(said)
    except ValueError as error:
        raise ValueError(f"{path} is no manifest of an exported model: {error}") from error


def _graph_json(graph: Graph) -> dict[str, Any]:
    made: dict[str, Any] = {"divides": graph.divides}
    for side, values in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        made[side] = {name: {"dtype": value.dtype, "shape": list(value.shape)} for name, value in values.items()}
    return {**made, "layers": [layer._asdict() for layer in graph.layers]} if graph.layers else made


def _read(said: Mapping[str, Any]) -> Manifest:
    size = said.get("default_size")
    manifest = Manifest(
        model=_text(said, "model"),
        dtype=_text(said, "dtype"),
        opset=_count(said, "opset"),
        stages=tuple(_stage(name) for name in _of(said, "stages", list)),
        files={_path(name): _file(name, value) for name, value in _of(said, "files", dict).items()},
        graphs={name: _graph(name, value) for name, value in _of(said, "graphs", dict).items()},
        default_size=None if size is None else _count(said, "default_size"),
        versions={name: str(value) for name, value in _of(said, "versions", dict).items()},
        pydiff=_text(said, "pydiff"),
    )
    if manifest.dtype not in DTYPES:
        raise ValueError(f"dtype is {manifest.dtype!r}; expected one of {', '.join(DTYPES)}")
    if not manifest.stages or len(set(manifest.stages)) < len(manifest.stages):
        raise ValueError(f"stages is {list(manifest.stages)}; expected one folder or more, none of them twice")
    unlisted = [path for path in manifest.graphs if path not in manifest.files]
    if unlisted:
        raise ValueError(f"graphs has {unlisted[0]!r}, which files has not")
    return manifest


def _graph(path: str, said: Any) -> Graph:
    if not isinstance(said, dict):
        raise ValueError(f"graphs has {path!r} = {said!r:.80}; expected an object")
    inputs, outputs = (
        {name: _value(f"{path}: {name}", value) for name, value in _of(said, side, dict).items()}
        for side in ("inputs", "outputs")
    )
    layers = tuple(_layer(layer) for layer in _of({"layers": [], **said}, "layers", list))
    return Graph(inputs, outputs, _count({"divides": 1, **said}, "divides"), layers)


def _value(name: str, said: Any) -> Value:
    if isinstance(said, dict) and said.get("dtype") in VALUE_DTYPES and isinstance(said.get("shape"), list):
        axes = tuple(said["shape"])
        if all(type(axis) is str or (type(axis) is int and axis > 0) for axis in axes):
            return Value(said["dtype"], axes)
    kinds = " or ".join(VALUE_DTYPES)
    raise ValueError(f"{name} is {said!r:.80}; expected a dtype, {kinds}, and a shape of numbers and names")


def _layer(said: Any) -> AttentionLayer:
    if isinstance(said, dict) and isinstance(said.get("name"), str) and type(said.get("text")) is bool:
        made = AttentionLayer(said["name"], str(said.get("attends")), said["text"])
        if made.attends in ("pixels", "text", "text and pixels") and made.text == ("text" in made.attends):
            return made
    raise ValueError(f"layers has {said!r:.80}; expected a name, what it attends to, and whether that is text")


def _file(name: str, said: Any) -> FileRecord:
    if isinstance(said, dict) and type(said.get("bytes")) is int and said["bytes"] >= 0:
        digest = said.get("sha256")
        if isinstance(digest, str) and _SHA256.fullmatch(digest):
            return FileRecord(said["bytes"], digest)
    raise ValueError(f"files has {name!r} = {said!r:.80}; expected its bytes and sha256")


def _path(name: str) -> str:
    """A path in the folder. ValueError for one that could lead out of it."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in name or "\0" in name:
        raise ValueError(f"files has {name!r}, which leads outside the folder; expected names in it, with slashes")
    return name


def _stage(name: Any) -> str:
    if not isinstance(name, str) or not _STAGE.fullmatch(name):
        raise ValueError(f"stages has {name!r:.80}; expected names of folders")
    return name


def _of(said: Mapping[str, Any], name: str, kind: type) -> Any:
    value = said.get(name)
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r:.80}; expected {'an object' if kind is dict else 'a list'}")
    return value


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r:.80}; expected a text")
    return value


def _count(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r:.80}; expected an integer of at least 1")
    return value
