"""Exported folders that are not what their manifest says: each is refused by name, before anything is run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from pydiff.runtime import sessions
from pydiff.runtime.manifest import MANIFEST, AttentionLayer, Graph, Manifest, Value, file_records, read_manifest
from pydiff.runtime.opening import open_exported
from pydiff.runtime.verify import verify
from tests.runtime.folders import DOUBLED, GRAPH, doubling, outside, write


@pytest.fixture(autouse=True)
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """No session is made."""

    def refuse(*_: object) -> None:
        raise AssertionError("a session was made")

    monkeypatch.setattr(sessions, "_open", refuse)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, doubling())


def said(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The folder with another manifest."""
    values = json.loads((folder / MANIFEST).read_text())
    change(values)
    (folder / MANIFEST).write_text(json.dumps(values))
    return folder


def refused(folder: Path, message: str) -> None:
    """Opening it is refused, and what is refused is named by its path."""
    with pytest.raises(ValueError, match=message) as raised:
        open_exported(folder)
    assert str(folder.resolve()) in str(raised.value)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "unet.onnx").write_bytes(b"abc")
    layers = (AttentionLayer("a.b", "text and pixels", True), AttentionLayer("c", "pixels", False))
    value = Value("float32", ("batch", 3))
    graph = Graph({"sample": value}, {"out_sample": value, "heat_0": Value("int64", ("batch",))}, 8, layers)
    made = Manifest("m", "int8", 20, ("base",), file_records(tmp_path), {GRAPH: graph}, 64, {"onnx": "1.2"})
    made.write(tmp_path)
    assert read_manifest(tmp_path) == made


def test_a_folder_as_it_was_written(folder: Path) -> None:
    verify(folder, read_manifest(folder))


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_another_format(folder: Path, version: object) -> None:
    refused(said(folder, lambda values: values.update(format=version, pydiff="7.8.9")), r"pydiff 7\.8\.9 in format")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float8"}, "dtype is 'float8'; expected one of"),
        ({"opset": 0}, "opset is 0; expected an integer"),
        ({"stages": []}, "stages is"),
        ({"stages": ["base", "base"]}, "none of them twice"),
        ({"stages": ["../base"]}, "expected names of folders"),
        ({"stages": [".."]}, "expected names of folders"),
        ({"files": []}, "files is .*expected an object"),
        ({"files": {GRAPH: {"bytes": -1, "sha256": "0" * 64}}}, "expected its bytes and sha256"),
        ({"files": {GRAPH: {"bytes": 1, "sha256": "x"}}}, "expected its bytes and sha256"),
        ({"files": {}}, "which files has not"),
        ({"graphs": {GRAPH: {"inputs": {}}}}, "outputs is None"),
        ({"graphs": {GRAPH: {"inputs": {"a": {"dtype": "string", "shape": []}}, "outputs": {}}}}, "a dtype, float32"),
        ({"graphs": {GRAPH: {"inputs": {"a": {"dtype": "int64", "shape": [0]}}, "outputs": {}}}}, "and a shape"),
        ({"graphs": {GRAPH: {"inputs": {}, "outputs": {}, "divides": "8"}}}, "divides is '8'"),
        ({"graphs": {GRAPH: {"inputs": {}, "outputs": {}, "layers": [{"name": "a"}]}}}, "layers has"),
        ({"default_size": "64"}, "default_size is '64'"),
        ({"model": 3}, "model is 3; expected a text"),
    ],
)
def test_a_manifest_that_does_not_fit(folder: Path, change: dict[str, Any], message: str) -> None:
    refused(said(folder, lambda values: values.update(change)), message)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "base/../../a", "base//a", "./a", "a\\b", "C:a", "base/a\0", ""]
)
def test_paths_that_lead_outside(folder: Path, name: str) -> None:
    record = {"bytes": 1, "sha256": "0" * 64}
    refused(said(folder, lambda values: values["files"].update({name: record})), "leads outside the folder")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no manifest\.json; expected a folder that `pydiff export` wrote"):
        open_exported(tmp_path)


def test_a_missing_file(folder: Path) -> None:
    (folder / GRAPH).unlink()
    refused(folder, "is missing, but")


def test_a_missing_stage(folder: Path) -> None:
    refused(said(folder, lambda values: values["stages"].append("large")), "large is missing")


def test_another_size(folder: Path) -> None:
    (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes() + b"\0")
    refused(folder, "bytes; expected")


def test_another_hash(folder: Path) -> None:
    data = bytearray((folder / GRAPH).read_bytes())
    data[-1] ^= 1
    (folder / GRAPH).write_bytes(data)
    refused(folder, "its SHA-256 is [0-9a-f]{64}, but manifest.json says")


def test_a_file_that_is_not_listed(folder: Path) -> None:
    (folder / "base" / "pydiff.json").write_text("{}")
    refused(folder, r"pydiff\.json is a file that manifest\.json does not list")


def test_hidden_files_and_those_beside_the_stages_are_nobodys(folder: Path) -> None:
    (folder / "base" / ".DS_Store").write_text("")
    (folder / "README.md").write_text("mine")
    verify(folder, read_manifest(folder))


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", doubling())
    os.rename(folder / GRAPH, tmp_path / "elsewhere.onnx")
    (folder / GRAPH).symlink_to(tmp_path / "elsewhere.onnx")
    refused(folder, "leads to .*elsewhere.onnx, outside")


def test_a_graph_that_is_not_described(folder: Path) -> None:
    refused(said(folder, lambda values: values["graphs"].clear()), "does not describe")


@pytest.mark.parametrize("names", [{"sample"}, {"out_sample", "heat_0"}, set()])
def test_a_graph_that_takes_or_makes_something_else(folder: Path, names: set[str]) -> None:
    value = {"dtype": "float32", "shape": ["batch"]}
    side = dict.fromkeys(names, value)
    key = "inputs" if "sample" not in names else "outputs"
    refused(said(folder, lambda values: values["graphs"][GRAPH].update({key: side})), "it (takes|makes) ")


def weights(folder: Path, data: bytes = bytes(4), name: str = "unet.onnx.data") -> None:
    (folder / "base" / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "base" / name).write_bytes(data)


@pytest.mark.parametrize("name", ["unet.onnx.data", "unet/model.safetensors"])
def test_weights_beside_the_graph_or_below(tmp_path: Path, name: str) -> None:
    weights(tmp_path, np.float32(2).tobytes(), name)
    folder = write(tmp_path, outside(doubling(), name))
    verify(folder, read_manifest(folder))


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "a/b", "..", "", "unet.onnx.dat", "*/_ORT_MEM_ADDR_/*", "..\\x"]
)
def test_weights_that_lie_elsewhere(tmp_path: Path, location: str) -> None:
    weights(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(4))
    refused(write(tmp_path, outside(doubling(), location)), "expected a file beside the graph that manifest.json lists")


@pytest.mark.parametrize("place", [(0, 5), (1, 4), (5, 0), (1 << 60, 1), (0, 1 << 60)])
def test_weights_that_are_shorter_than_declared(tmp_path: Path, place: tuple[int, int]) -> None:
    weights(tmp_path)
    refused(write(tmp_path, outside(doubling(), "unet.onnx.data", *place)), "but that file has 4 bytes")


@pytest.mark.parametrize("place", [(-1, 4), (0, -4), (0, None), (10**30, 4)])
def test_weights_of_no_known_place(tmp_path: Path, place: tuple[int, int]) -> None:
    weights(tmp_path)
    refused(write(tmp_path, outside(doubling(), "unet.onnx.data", *place)), "'two' lies in another file, but not where")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_weights_that_are_a_link(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    weights(tmp_path, name="own.data")
    link(tmp_path / "base" / "own.data", tmp_path / "base" / "unet.onnx.data")
    refused(write(tmp_path, outside(doubling())), "which is a link")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Steal", ["sample"], ["x"]), "'Steal', which ai.onnx has not in opset 20"),
        (helper.make_node("Attention", ["sample"] * 3, ["x"]), "'Attention', which ai.onnx has not in opset 20"),
        (helper.make_node("Add", ["sample"] * 2, ["x"], domain="com.microsoft"), "'Add' of 'com.microsoft'"),
        (helper.make_node("", ["sample"], ["x"]), "'', which ai.onnx has not"),
    ],
)
@pytest.mark.parametrize("depth", [0, 2])
def test_unknown_operators(tmp_path: Path, node: Any, message: str, depth: int) -> None:
    for _ in range(depth):  # in graphs of other operators
        branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("x", 1, None)])
        node = helper.make_node("If", ["sample"], ["x"], then_branch=branch, else_branch=branch)
    refused(write(tmp_path, doubling([node])), message)


def test_unknown_operators_in_a_function(tmp_path: Path) -> None:
    steal = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Steal", ["a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    refused(write(tmp_path, doubling(functions=[steal])), "'Steal'")


@pytest.mark.parametrize("opset", [17, 99])
def test_another_opset(tmp_path: Path, opset: int) -> None:
    refused(write(tmp_path, doubling(opset=opset)), f"it is of opset {opset}; expected one of 18 to ")


@pytest.mark.parametrize("data", [b"", b"\0", b"not an ONNX file", bytes(100), b"\x3a\xff\xff\xff\xff\x0f"])
def test_no_onnx_file(tmp_path: Path, data: bytes) -> None:
    refused(write(tmp_path, data), "is no whole ONNX file")


def test_a_graph_that_is_cut_off(tmp_path: Path) -> None:
    data = doubling().SerializeToString()
    for size in range(len(data)):
        folder = write(tmp_path, data[:size])
        with pytest.raises(ValueError, match=r"unet\.onnx is no"):
            verify(folder, read_manifest(folder))


def test_what_is_allowed_is_opened(folder: Path) -> None:
    assert read_manifest(folder).graphs[GRAPH] == DOUBLED
