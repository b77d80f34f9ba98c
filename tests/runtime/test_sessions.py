"""Sessions: the provider that is asked for, the shapes that a graph takes, threads."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from pydiff.ops import native
from pydiff.runtime import sessions
from pydiff.runtime.manifest import Graph, Value, read_manifest
from pydiff.runtime.places import Host
from pydiff.runtime.sessions import Exported, Provider, Session, check_inputs, provider_of
from tests.runtime.folders import DOUBLED, GRAPH, IMAGE, doubling, write

X = np.random.default_rng(0).standard_normal((2, 3, 8, 16)).astype(np.float32)
CPU = "CPUExecutionProvider"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(write(tmp_path, doubling()) / GRAPH, DOUBLED, provider_of(None))


@pytest.mark.parametrize("wanted", [None, "cpu", CPU])
def test_the_cpu(wanted: str | None) -> None:
    assert provider_of(wanted) == (CPU, {})


@pytest.mark.parametrize("wanted", ["npu", "", "cpu:1", "cuda:x", "CUDA", 3, ["cpu"]])
def test_an_unknown_provider(wanted: Any) -> None:
    with pytest.raises(ValueError, match="expected one of cpu, cuda, tensorrt"):
        provider_of(wanted)


@pytest.mark.parametrize(
    ("wanted", "install"),
    [
        ("cuda", r"pydiff-engine\[onnx-gpu\]"),
        ("cuda:1", r"pydiff-engine\[onnx-gpu\]"),
        ("tensorrt", r"pydiff-engine\[onnx-gpu\] and TensorRT"),
        ("OpenVINOExecutionProvider", "an ONNX Runtime that has it"),
    ],
)
def test_a_provider_that_is_not_there(wanted: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    message = rf"'{wanted}', which this ONNX Runtime [\d.]+ has not; it has cpu: install {install}"
    with pytest.raises(ValueError, match=message):
        provider_of(wanted)


def test_a_second_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    assert provider_of("cuda:1") == ("CUDAExecutionProvider", {"device_id": "1"})
    assert provider_of("cuda").options == {}


@pytest.mark.parametrize("name", ["CUDAExecutionProvider", "OpenVINOExecutionProvider"])
def test_no_other_provider_runs_in_its_place(tmp_path: Path, name: str) -> None:
    """ONNX Runtime warns, and would go on with the CPU."""
    if name in onnxruntime.get_available_providers():
        pytest.skip("it is there")
    asked = Session(write(tmp_path, doubling()) / GRAPH, DOUBLED, Provider(name), Host())
    with (
        pytest.warns(UserWarning, match=name),
        pytest.raises(ValueError, match=f"{name} was asked for, but .* runs {CPU}"),
    ):
        asked({"sample": X}, ["out_sample"])


def test_onnx_runtime_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    sessions.runtime.cache_clear()
    with pytest.raises(ValueError, match=r"an exported model needs the package pydiff-engine\[onnx\]"):
        provider_of("cpu")


def test_a_call(session: Session) -> None:
    assert np.array_equal(session({"sample": X, "unused": X}, ["out_sample"])[0], 2 * X)
    assert np.array_equal(session({"sample": X[:, :, ::-1]}, ["out_sample"])[0], 2 * X[:, :, ::-1])


def test_a_graph_that_onnx_runtime_refuses(tmp_path: Path) -> None:
    folder = write(tmp_path, doubling([helper.make_node("Conv", ["sample"], ["y"])]))
    with pytest.raises(ValueError, match=r"unet\.onnx is refused by ONNX Runtime"):
        Session(folder / GRAPH, DOUBLED, provider_of(None))({"sample": X}, ["out_sample"])


@pytest.mark.parametrize(
    "x", [X[:, :, :7], X[:, :2], X.astype(np.float64), X[0], X[:0], X[..., :12]], ids=lambda x: str(x.shape)
)
def test_shapes_that_the_graph_does_not_take(session: Session, x: np.ndarray) -> None:
    message = (
        rf"sample is {x.dtype} .*; the graph unet.onnx takes float32 \(batch, 3, height, width\), "
        "height and width multiples of 8"
    )
    with pytest.raises(ValueError, match=message):
        session({"sample": x}, ["out_sample"])


def test_axes_of_one_name_are_equally_long() -> None:
    graph = Graph({"sample": Value("float32", IMAGE), "timestep": Value("float32", ("batch",))}, {})
    check_inputs("a.onnx", graph, {"sample": X, "timestep": np.zeros(2, np.float32)})
    with pytest.raises(
        ValueError, match=r"timestep is float32 \(3,\); the graph a.onnx takes float32 \(batch\), batch 2"
    ):
        check_inputs("a.onnx", graph, {"sample": X, "timestep": np.zeros(3, np.float32)})


def test_many_threads_open_one_session(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, made = [], []
    real = sessions._open
    monkeypatch.setattr(sessions, "_open", lambda *how: opened.append(how) or real(*how))
    workers = [
        threading.Thread(target=lambda: made.append(session({"sample": X}, ["out_sample"])[0])) for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(opened) == 1
    assert all(np.array_equal(one, 2 * X) for one in made)
    assert len(made) == 8


def test_sessions_by_their_components(tmp_path: Path) -> None:
    folder = write(tmp_path, doubling())
    exported = Exported(folder, read_manifest(folder), provider_of(None))
    assert exported.session(folder / "base" / "unet").path == folder / GRAPH
    assert exported.found(folder / "base" / "unet", "_edit") is None
    with pytest.raises(ValueError, match=r"base has no vae_encoder\.onnx, which this model needs"):
        exported.session(folder / "base" / "vae", "_encoder")


@pytest.mark.parametrize(("said", "count"), [("1", 1), ("3,2", 3), ("", None), ("0", None), ("many", None)])
def test_threads(said: str, count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert native.threads() == (count or len(os.sched_getaffinity(0)))
