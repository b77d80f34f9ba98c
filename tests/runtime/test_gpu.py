"""Exported models on a GPU's arrays, without a GPU: ONNX Runtime's CPU works, by address, on the memory of a CuPy that
is array-api-strict's second device. Any copy to the host that nobody sees to fails there."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import pydiff
from pydiff import gpu
from pydiff.ops import native
from pydiff.runtime import opening, sessions
from pydiff.runtime.places import Gpu, Host, Place
from pydiff.runtime.sessions import Provider, Session, provider_of
from tests import device_arrays
from tests.runtime.every_task import GREEN, RED, picture
from tests.runtime.folders import DOUBLED, GRAPH, doubling, write

CALL, RUN = 1e-5, 5e-4
FAST: dict[str, Any] = {"seed": 7, "num_inference_steps": 3, "output_type": "np"}
SMALL: dict[str, Any] = {**FAST, "size": 64}
IMAGE, MASK = picture(), np.zeros((64, 64), bool)
MASK[10:40, 8:44] = True
CUDA = "CUDAExecutionProvider"
X = np.random.default_rng(0).standard_normal((2, 3, 8, 16)).astype(np.float32)


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CuPy without a GPU, and providers that compute on the host's CPU with its arrays. The step is the reference,
    which tests/ops/test_cuda.py compares the kernels with."""
    serves = native.serves
    with device_arrays.installed():
        monkeypatch.setattr(native, "serves", lambda *given: None if gpu.is_on_gpu(given[0]) else serves(*given))
        monkeypatch.setattr(Provider, "place", lambda provider: Gpu(0, device="cpu"))
        yield


@pytest.fixture(scope="module")
def host() -> dict[str, pydiff.Pipeline]:
    """On NumPy's arrays, by the models' names."""
    return {name: pydiff.load(name, provider="cpu") for name in ("pydiff-embedded", "pydiff-instruct")}


TASKS: dict[str, Callable[[pydiff.Pipeline, Any], Any]] = {
    "cascade": lambda pipe, watch: pipe.generate(
        [RED, GREEN], seed=[7, 8], num_inference_steps=[3, 2], size=256, output_type="np", capture=["red"], watch=watch
    ),
    "edit": lambda pipe, watch: pipe.edit(
        RED, [GREEN, "a red star"], **SMALL, local_blend=["circle"], capture=["circle", "square"], watch=watch
    ),
    "inpaint": lambda pipe, watch: pipe.inpaint(IMAGE, MASK, "a yellow ring", **SMALL, watch=watch),
    "repaint": lambda pipe, watch: pipe.inpaint(
        IMAGE, MASK, "a ring", **SMALL, method="repaint", jump_length=1, jump_n_sample=2, watch=watch
    ),
    "outpaint": lambda pipe, watch: pipe.outpaint(IMAGE, "a ring", left=20, top=7, **FAST, watch=watch),
    "image_to_image": lambda pipe, watch: pipe.image_to_image(IMAGE, GREEN, **SMALL, watch=watch),
    "upscale": lambda pipe, watch: pipe.upscale(IMAGE, **{**FAST, "size": 256, "num_inference_steps": 2}, watch=watch),
    "instruct": lambda pipe, watch: pipe.instruct(IMAGE, "make it green", **SMALL, watch=watch),
    **{
        sampler: lambda pipe, watch, sampler=sampler: pipe.generate(RED, **SMALL, sampler=sampler, watch=watch)
        for sampler in ("ddim", "euler_ancestral", "dpmpp_2m", "heun")
    },
}


# Steps that copy more to the GPU than their noise: where a stage begins, where the tables of an edit change, and where
# what is kept of a picture is laid over it.
OTHERS = {"cascade": 1, "edit": 1, "inpaint": 1, "repaint": 1, "outpaint": 1}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_that_of_the_host(task: str, host: dict[str, pydiff.Pipeline], without_gpu: None) -> None:
    name = "pydiff-instruct" if task == "instruct" else "pydiff-embedded"
    seen: list[Counter[str]] = []

    def watch(state: Any) -> None:
        assert gpu.is_on_gpu(state.x)
        seen.append(device_arrays.crossings.copy())

    expected = TASKS[task](host[name], None)
    device_arrays.crossings.clear()
    made = TASKS[task](pydiff.load(name, provider="cpu"), watch)
    assert np.abs(made.images - expected.images).max() <= CALL
    for word in expected.heat:
        assert np.abs(made.heat[word] - expected.heat[word]).max() <= CALL
    steps = [after - before for before, after in pairwise(seen)]
    others = [index for index, one in enumerate(steps) if one["to device"] > 1]  # than the noise of a step
    assert len(others) <= OTHERS.get(task, 0)
    assert not any(one["to host"] or one["number"] for one in steps)


def test_what_draws_nothing_copies_nothing(without_gpu: None) -> None:
    seen: list[Counter[str]] = []
    pipe = pydiff.load(provider="cpu")
    pipe.generate(RED, **SMALL, sampler="ddim", watch=lambda _: seen.append(device_arrays.crossings.copy()))
    assert [dict(after - before) for before, after in pairwise(seen)] == [{"settle": 1}] * 2


def test_pictures_come_to_the_host_once(without_gpu: None) -> None:
    seen: list[Counter[str]] = []
    pipe = pydiff.load(provider="cpu")
    made = pipe.generate(RED, **SMALL, capture=["circle"], watch=lambda _: seen.append(device_arrays.crossings.copy()))
    assert (device_arrays.crossings - seen[-1])["to host"] == 1
    assert made.heat["circle"].max() == 1
    assert (device_arrays.crossings - seen[-1])["to host"] > 1


def test_latents_and_previews(host: dict[str, pydiff.Pipeline], without_gpu: None) -> None:
    how: dict[str, Any] = {**SMALL, "output_type": "latent"}
    pipe, x = pydiff.load(provider="cpu"), X[:1, :, :, :8].repeat(8, 2).repeat(8, 3)
    expected, made = (one.generate(RED, **how, latents=x).images for one in (host["pydiff-embedded"], pipe))
    assert gpu.is_on_gpu(made)
    assert np.abs(gpu.to_host(made) - expected).max() <= CALL
    again = pipe.generate(RED, **how, latents=gpu.from_host(x)).images
    assert np.array_equal(gpu.to_host(again), gpu.to_host(made))
    *_, last = pipe.stream(RED, seed=7, size=64, num_inference_steps=2)
    assert last.image.size == (64, 64)


def test_inversions(host: dict[str, pydiff.Pipeline], without_gpu: None, tmp_path: Path) -> None:
    how: dict[str, Any] = {"size": 64, "num_inference_steps": 3, "measure": True}
    expected, made = (one.invert(IMAGE, RED, **how) for one in (host["pydiff-embedded"], pydiff.load(provider="cpu")))
    assert np.abs(gpu.to_host(made.latents) - expected.latents).max() <= CALL
    assert made.psnr == pytest.approx(expected.psnr, abs=1e-3)
    kept = pydiff.Inverted.load(made.save(tmp_path / "a.safetensors"))
    assert np.array_equal(kept.latents, gpu.to_host(made.latents))


def test_a_graph_reads_what_was_queued(without_gpu: None, tmp_path: Path) -> None:
    """ONNX Runtime has a stream of its own: it may begin when CuPy's is done, and not before."""

    class Hasty(Gpu):
        def settle(self) -> None: ...

    path = write(tmp_path, doubling()) / GRAPH
    for place, waited in ((Gpu(0, "cpu"), True), (Hasty(0, "cpu"), False)):
        (made,) = Session(path, DOUBLED, provider_of(None), place)({"sample": X}, ["out_sample"])
        assert np.array_equal(made.held, 2 * X) == waited  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", [Host(), "gpu"], ids=["host", "gpu"])
def test_arrays_are_bound_by_their_addresses(place: Place | str, without_gpu: None, tmp_path: Path) -> None:
    """The code that binds is one for all places; other shapes and layouts from call to call."""
    where = Gpu(0, "cpu") if isinstance(place, str) else place
    session = Session(write(tmp_path, doubling()) / GRAPH, DOUBLED, provider_of(None), where)
    kept = []
    for x in (X, X[:, :, ::-1], X.transpose(0, 1, 3, 2), X[1:], X[..., ::2], np.asfortranarray(X)):
        (made,) = session({"sample": x if isinstance(place, Host) else gpu.from_host(x)}, ["out_sample"])
        kept.append((made, 2 * x))
    for made, expected in kept:  # none is where a later call wrote
        assert np.array_equal(getattr(made, "held", made), expected)


def test_other_types_are_cast_where_they_are(without_gpu: None) -> None:
    place = Gpu(0, "cpu")
    assert Host().dense(X.astype(np.float16), "float32").dtype == np.float32  # which array-api-strict has not
    for value in (X.astype(np.float64), 0.5, np.array([True, False])):
        given = gpu.from_host(np.asarray(value))
        for made in (place.dense(given, "float32"), Host().dense(value, "float32")):
            values = gpu.to_host(made) if gpu.is_on_gpu(made) else made
            assert (values.dtype, values.shape) == (np.float32, np.shape(value))
            assert np.array_equal(values, np.asarray(value, np.float32))


def test_tensorrt_leaves_the_rest_to_cuda() -> None:
    there = Provider("TensorrtExecutionProvider", {"device_id": "1"})
    assert there.chain == [(name, {"device_id": "1"}) for name in ("TensorrtExecutionProvider", CUDA)]
    assert Provider(CUDA).chain == [(CUDA, {})]


def claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime says that it has CUDA; no session is made."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(sessions, "_open", lambda *_: pytest.fail("a session was made"))
    monkeypatch.setattr(opening, "verify", lambda *_: pytest.fail("files were read"))


def test_cupy_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed(monkeypatch)
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(ValueError, match=r"on a GPU needs the package pydiff-engine\[onnx-gpu\]"):
        pydiff.load(provider="cuda")


def test_no_gpu_that_cupy_can_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none() -> int:
        raise device_arrays.NoGpuError("cudaErrorNoDevice: no CUDA-capable device is detected")

    claimed(monkeypatch)
    with device_arrays.installed() as cupy:
        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", none)
        with pytest.raises(ValueError, match=r"finds no GPU that it can use: cudaErrorNoDevice: .*provider='cpu'"):
            pydiff.load(write(tmp_path, doubling()), provider="cuda")


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed(monkeypatch)
    with device_arrays.installed(), pytest.raises(ValueError, match="GPU 3 is asked for, but CuPy finds 1 of them"):
        pydiff.load(provider="cuda:3")


def test_outputs_of_another_type(tmp_path: Path) -> None:
    from onnx import TensorProto

    model = doubling()
    model.graph.node[0].output[0] = "made"
    model.graph.node.append(
        __import__("onnx").helper.make_node("Cast", ["made"], ["out_sample"], to=TensorProto.DOUBLE)
    )
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    session = Session(write(tmp_path, model) / GRAPH, DOUBLED, provider_of(None))
    with pytest.raises(ValueError, match=r"makes out_sample as tensor\(double\); expected float32: export it again"):
        session({"sample": X}, ["out_sample"])


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_cupy_has_what_is_asked_of_it() -> None:
    cupy = pytest.importorskip("cupy")
    compat = pytest.importorskip("array_api_compat.cupy")
    assert all(hasattr(cupy, name) for name in device_arrays.cupy.__dict__ if not name.startswith("__"))
    own = {name for name in vars(device_arrays.ndarray) if not name.startswith("_")} - {"held", "strict"}
    assert {name for name in own if not hasattr(cupy.ndarray, name)} == set()
    assert hasattr(cupy.cuda.runtime, "getDeviceCount")
    assert hasattr(cupy.cuda.Stream, "synchronize")
    functions = "arange astype asarray broadcast_to concat exp full log maximum mean moveaxis sort stack std take where"
    assert [name for name in functions.split() if not hasattr(compat, name)] == []


@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="this ONNX Runtime has no CUDA")
def test_on_a_gpu(host: dict[str, pydiff.Pipeline]) -> None:
    """The pictures and the heat of the CPU, by the providers that are there."""
    for name in ("cuda", "tensorrt"):
        if sessions.PROVIDERS[name] in onnxruntime.get_available_providers():
            pipe = pydiff.load(provider=name)
            for task in ("cascade", "edit", "inpaint", "ddim"):
                expected, made = (TASKS[task](one, None) for one in (host["pydiff-embedded"], pipe))
                assert np.abs(made.images - expected.images).max() <= RUN
                for word in expected.heat:
                    assert np.abs(made.heat.attention(word) - expected.heat.attention(word)).max() <= RUN
