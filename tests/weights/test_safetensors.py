"""Safetensors: what is read, and what is refused before the library sees it."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pydiff.weights import read_header, read_safetensors, write_safetensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.tensor(-1.5), "empty": torch.zeros(0, 4)}


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, TENSORS | {"turned": TENSORS["a"].T})
    assert os.listdir(tmp_path) == ["model.safetensors"]
    for source in (path, tmp_path):
        read = read_safetensors(source)
        assert read.keys() == TENSORS.keys() | {"turned"}
        assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
        assert torch.equal(read["turned"], TENSORS["a"].T)
    assert read_header(path)["a"] == ("F32", (2, 3), path)
    assert load_file(path).keys() == read.keys()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_are_cast_and_ints_are_not(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.tensor([1.5]), "ids": torch.tensor([3])}, path)
    read = read_safetensors(path, dtype=dtype)
    assert read["x"].dtype == dtype
    assert read["x"].item() == 1.5
    assert read["ids"].dtype == torch.int64


def test_tensors_do_not_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    read = read_safetensors(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(read["a"], TENSORS["a"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_not_finite(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"good": torch.ones(3, dtype=dtype), "down.bad": torch.tensor([1.0, value, 0.0], dtype=dtype)}, path)
    with pytest.raises(ValueError, match=r"tensor 'down.bad' holds NaN or infinity"):
        read_safetensors(path)


def test_overflow_in_the_cast(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1e20])}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"stored as torch.float32, read as torch.float16"):
        read_safetensors(tmp_path, dtype=torch.float16)


def shard(folder: Path, variant: str = "") -> dict[str, str]:
    places = {}
    for i, (name, tensor) in enumerate(TENSORS.items()):
        places[name] = f"model{variant}-{i}.safetensors"
        save_file({name: tensor}, folder / places[name])
    return places


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(tmp_path: Path, variant: str | None) -> None:
    index = tmp_path / f"model.safetensors.index{'.fp16' if variant else ''}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shard(tmp_path)}))
    read = read_safetensors(tmp_path, variant)
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


INDICES: dict[str, tuple[Callable[[dict[str, str]], Any], str]] = {
    "no map": (lambda places: {}, "no weight_map"),
    "map of numbers": (lambda places: {"weight_map": {"a": 1}}, "no weight_map"),
    "missing shard": (lambda places: {"weight_map": places | {"d": "gone.safetensors"}}, "gone.safetensors is missing"),
    "missing tensor": (lambda places: {"weight_map": places | {"d": "model-0.safetensors"}}, "do not agree about d"),
    "unlisted tensor": (lambda places: {"weight_map": {"a": places["b.c"]}}, "do not agree about a, b.c"),
    "pickle": (lambda places: {"weight_map": {"a": "model.bin"}}, "is a pickle"),
    "outside": (lambda places: {"weight_map": {"a": "../model-0.safetensors"}}, "outside"),
}


@pytest.mark.parametrize("name", INDICES)
def test_shards_refused(tmp_path: Path, name: str) -> None:
    index, message = INDICES[name]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index(shard(tmp_path))))
    with pytest.raises(ValueError, match=message):
        read_safetensors(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"looked for .*diffusion_pytorch_model.safetensors.* model.safetensors$"):
        read_header(tmp_path)
    with pytest.raises(ValueError, match="missing or not a file"):
        read_header(tmp_path / "none.safetensors")
    save_file(TENSORS, tmp_path / "model.fp16.safetensors")
    with pytest.raises(ValueError, match=r"it holds model.fp16.safetensors: give the variant"):
        read_header(tmp_path)
    assert read_header(tmp_path, "fp16").keys() == TENSORS.keys()
    with pytest.raises(ValueError, match="expected a word"):
        read_header(tmp_path, "../fp16")
    (tmp_path / "diffusion_pytorch_model.safetensors").symlink_to("nowhere")
    with pytest.raises(ValueError, match="missing or not a file"):
        read_header(tmp_path)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt", "model.PT"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(ValueError, match=r"is a pickle.*save it as safetensors"):
            read_safetensors(source)


def entry(**change: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change}


HEADERS: dict[str, tuple[Any, str]] = {
    "a list": ([1], "expected an object"),
    "not json": (b"{]", "not readable as JSON"),
    "entry a list": ({"x": []}, "not described by"),
    "more fields": (entry(more=1), "not described by"),
    "dtype": (entry(dtype="F31"), "dtype 'F31'"),
    "dtype a list": (entry(dtype=[]), "dtype"),
    "shape negative": (entry(shape=[-2]), "has shape"),
    "shape bool": (entry(shape=[True]), "has shape"),
    "shape long": (entry(shape=[1] * 17 + [2]), "has shape"),
    "shape huge": (entry(shape=[2**62] * 9), "8 bytes; expected"),
    "offsets turned": (entry(data_offsets=[8, 0]), "-8 bytes; expected"),
    "offsets three": (entry(data_offsets=[0, 8, 8]), "data_offsets"),
    "offsets outside": (entry(shape=[4], data_offsets=[0, 16]), "holds 8 bytes of tensors, its header says 16"),
    "a hole": (entry(shape=[1], data_offsets=[4, 8]), "begins at byte 4; expected 0"),
    "overlap": (entry() | {"y": entry()["x"]}, "begins at byte 0; expected 8"),
    "bytes left": (entry(shape=[1], data_offsets=[0, 4]), "holds 8 bytes of tensors, its header says 4"),
    "metadata": (entry() | {"__metadata__": {"a": 1}}, "__metadata__"),
    "metadata a list": (entry() | {"__metadata__": []}, "__metadata__"),
    "twice": (b'{"x": 1, "x": 2}', "there twice"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_corrupt_headers_are_refused(tmp_path: Path, name: str) -> None:
    header, message = HEADERS[name]
    with pytest.raises(ValueError, match=message):
        read_header(write(tmp_path / "x.safetensors", header, bytes(8)))


@pytest.mark.parametrize("length", [0, 1, 100, (16 << 20) + 1, 2**63, 2**64 - 1])
def test_header_lengths_are_refused(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "x.safetensors", entry(), bytes(8), length)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_header(path)


@pytest.mark.parametrize("keep", [0, 7, 8, 20, -1])
def test_truncated_files_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="download it again"):
        read_header(path)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not a file"):
        read_header(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(at=st.integers(0, 400), by=st.binary(min_size=1, max_size=12), whole=st.none() | st.binary(max_size=80))
def test_any_file_is_read_or_refused(tmp_path: Path, at: int, by: bytes, whole: bytes | None) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    data = path.read_bytes()
    path.write_bytes(data[:at] + by + data[at + len(by) :] if whole is None else whole)
    try:
        read = read_safetensors(path)
    except ValueError:
        return
    assert all(torch.isfinite(tensor).all() for tensor in read.values())


_SHAPED = {"dtype": st.sampled_from(["F32", "I8", "Q"])}
_FIELD = st.none() | st.integers(-3, 20) | st.text(max_size=3) | st.lists(st.integers(-1, 9), max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    header=st.dictionaries(
        st.sampled_from(["x", "y", "__metadata__"]),
        _FIELD | st.fixed_dictionaries(_SHAPED | {"shape": _FIELD, "data_offsets": _FIELD}),
    ),
    data=st.binary(max_size=12),
)
def test_any_header_is_read_or_refused(tmp_path: Path, header: dict[str, Any], data: bytes) -> None:
    path = write(tmp_path / "x.safetensors", header, data)
    with contextlib.suppress(ValueError):
        read_safetensors(path)
