"""Whether an exported folder is as its manifest says, asked before anything in it is run.

Every file is hashed when the folder is opened: SHA-256 takes about 0.6 ms for a megabyte with the processor's own
instructions (2.5 ms without), which is less than reading it from a disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydiff.runtime.manifest import MANIFEST, Graph, Manifest, file_record
from pydiff.runtime.onnx_file import External, read_onnx
from pydiff.runtime.operators import check_operators
from pydiff.weights.files import inside

HASHING = 4  # threads
EXPORT_AGAIN = "export the model again, or copy the folder whole"


def verify(folder: Path, manifest: Manifest) -> None:
    """Raise ValueError, naming the file, for one that is missing, not listed, outside the folder, of another size or
    hash; and for a graph that reads from elsewhere, has operators that ONNX has not, or does not take and make what the
    manifest says."""
    for name in manifest.files:
        _check_file(folder, name, manifest)
    _check_listed(folder, manifest)
    _check_hashes(folder, manifest)
    for name in sorted(manifest.files):
        if name.endswith(".onnx"):
            _check_graph(folder, name, manifest)


def _check_file(folder: Path, name: str, manifest: Manifest) -> None:
    path = inside(folder, name)
    if not path.is_file():
        raise ValueError(f"{path} is missing, but {folder / MANIFEST} lists it; {EXPORT_AGAIN}")
    size, expected = path.stat().st_size, manifest.files[name].bytes
    if size != expected:
        raise ValueError(f"{path} has {size} bytes; expected {expected}, as {MANIFEST} says: {EXPORT_AGAIN}")


def _check_listed(folder: Path, manifest: Manifest) -> None:
    """What lies in a stage's folder may be read."""
    for stage in manifest.stages:
        if not (folder / stage).is_dir():
            raise ValueError(f"{folder / stage} is missing, but {folder / MANIFEST} says it is a stage; {EXPORT_AGAIN}")
        for path in sorted(inside(folder, stage).rglob("*")):
            name = path.relative_to(folder).as_posix()
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if not path.is_dir() and not hidden and name not in manifest.files:
                raise ValueError(f"{path} is a file that {MANIFEST} does not list; take it away, or {EXPORT_AGAIN}")


def _check_hashes(folder: Path, manifest: Manifest) -> None:
    names: Sequence[str] = list(manifest.files)
    with ThreadPoolExecutor(HASHING) as pool:  # hashlib computes without the interpreter's lock
        records = pool.map(lambda name: file_record(folder / name), names)
        for name, record in zip(names, records, strict=True):
            if record != manifest.files[name]:
                raise ValueError(
                    f"{folder / name} is not what was exported: its SHA-256 is {record.sha256}, but {MANIFEST} "
                    f"says {manifest.files[name].sha256}; {EXPORT_AGAIN}"
                )


def _check_graph(folder: Path, name: str, manifest: Manifest) -> None:
    path, graph = folder / name, manifest.graphs.get(name)
    if graph is None:
        raise ValueError(f"{path} is a graph that {MANIFEST} does not describe; {EXPORT_AGAIN}")
    contents = read_onnx(path)
    try:
        check_operators(contents.opsets, contents.operators)
        for external in contents.external:
            _check_external(folder, name, external, manifest)
        _check_names(graph, contents.inputs, contents.outputs)
    except ValueError as error:
        raise ValueError(f"{path} is no graph that pydiff runs: {error}") from error


def _check_names(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    for what, has, said in (("takes", inputs, graph.inputs), ("makes", outputs, graph.outputs)):
        if set(has) != set(said):
            shown = (", ".join(sorted(names)) or "nothing" for names in (has, said))
            raise ValueError("it {} {:.200}; expected {:.200}".format(what, *shown))


def _check_external(folder: Path, graph: str, external: External, manifest: Manifest) -> None:
    """A graph's weights may lie in a file that the manifest lists, beside it or below: an ordinary one, not a link of
    any kind to what lies elsewhere."""
    tensor, location, offset, length = external
    where = f"the weights {tensor!r:.80} lie in {location!r:.200}"
    beside = graph.rpartition("/")[0]
    name = f"{beside}/{location}" if beside else location
    if name not in manifest.files:
        raise ValueError(f"{where}; expected a file beside the graph that {MANIFEST} lists")
    status = os.lstat(folder / name)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise ValueError(f"{where}, which is a link; put the file itself there")
    if offset + length > status.st_size:
        raise ValueError(f"{where} up to byte {offset + length}, but that file has {status.st_size} bytes")
