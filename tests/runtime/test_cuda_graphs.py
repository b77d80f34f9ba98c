"""Network calls as CUDA graphs: what is asked of torch.cuda, and what a GPU makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import pydiff
from pydiff.models.unet import UNet
from pydiff.nn.cond import Cond
from pydiff.runtime.cuda_graphs import WARM_UPS, CudaGraphs
from pydiff.runtime.fastest import fastest
from pydiff.runtime.graphed import GraphedUNet
from tests.models.test_unet import CONFIGS, Case, make
from tests.runtime.test_graphed import scaled

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


class Cuda:
    """torch.cuda as far as graphs are recorded by it, writing down what is asked."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.streams = ["main"]

    def device(self, _: torch.device) -> AbstractContextManager[None]:
        return nullcontext()

    def graph_pool_handle(self) -> str:
        return "memory"

    def Stream(self, _: torch.device) -> Any:  # noqa: N802
        return self.named("side")

    def current_stream(self) -> Any:
        return self.named(self.streams[-1])

    def named(self, name: str) -> Any:
        def wait(other: Any) -> None:
            self.log.append(f"{name} waits for {other.name}")

        return SimpleNamespace(name=name, wait_stream=wait, wait_event=wait)

    def Event(self) -> Any:  # noqa: N802
        return SimpleNamespace(name="turn", record=lambda: self.log.append(f"turn ends on {self.streams[-1]}"))

    def CUDAGraph(self) -> Any:  # noqa: N802
        return SimpleNamespace(replay=lambda: self.log.append(f"replay on {self.streams[-1]}"))

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.streams.append(stream.name)
        yield
        self.streams.pop()

    @contextmanager
    def graph(self, _: Any, pool: str, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.log.append(f"capture on {stream.name} in {pool}, errors {capture_error_mode}")
        with self.stream(stream):
            yield


def test_what_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    case, cuda = make("if", torch.float32, 4), Cuda()
    prepared = case.unet.prepare(case.cond)
    for name in ("device", "graph_pool_handle", "Stream", "current_stream", "Event", "CUDAGraph", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    network = GraphedUNet(case.unet, CudaGraphs(torch.device("cpu")))
    network._run = lambda call: cuda.log.append(f"run on {cuda.streams[-1]}") or (call.x,)
    network(case.x, case.t, prepared)
    aside = ["side waits for main", "main waits for side"]
    ran = ["side waits for main", *["run on side"] * WARM_UPS, "main waits for side"]
    capture = ["capture on side in memory, errors thread_local", "run on side"]
    first = ["main waits for turn", *aside, *ran, *capture, "replay on main", "turn ends on main"]
    assert cuda.log == first
    network(case.x, case.t, prepared)
    assert cuda.log[len(first) :] == ["main waits for turn", "replay on main", "turn ends on main"]


def on_gpu(name: str, dtype: torch.dtype = torch.float32) -> tuple[UNet, GraphedUNet, Case]:
    case = make(name, dtype, 4)
    unet = case.unet.cuda().to(memory_format=torch.channels_last)
    network = fastest(unet)
    assert isinstance(network, GraphedUNet)
    cond = Cond(*(part.cuda() if isinstance(part, Tensor) else part for part in case.cond[:3]), _cuda(case.cond.added))
    return unet, network, case._replace(x=case.x.cuda(), t=case.t.cuda(), cond=cond)


def _cuda(added: Any) -> Any:
    return added and {name: value.cuda() for name, value in added.items()}


def close(made: Tensor, expected: Tensor) -> None:
    """Libraries may choose other kernels while a call is recorded."""
    tolerance = 1e-4 if made.dtype == torch.float32 else 5e-2
    torch.testing.assert_close(made, expected, atol=tolerance, rtol=tolerance)


@GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_graphs_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    unet, network, case = on_gpu(name, dtype)
    for scale in (1.0, 2.0):
        text = None if case.cond.text is None else case.cond.text * scale
        prepared = network.prepare(case.cond._replace(text=text))
        for t in (torch.tensor(t, device="cuda") for t in (900, 500, 20)):
            for x in (case.x, case.x[:, :, :16], case.x * 2):
                close(network(x, t, prepared), unet(x, t, prepared))
    assert network.refused is None


@GPU
def test_graphs_of_the_outermost_level_on_a_gpu() -> None:
    unet, network, case = on_gpu("sd1")
    prepared = network.prepare(case.cond)
    deep = network.reusing(case.x, case.t, prepared, None)[1]
    close(deep, unet.reusing(case.x, case.t, prepared, None)[1])
    ours, theirs = (of.reusing(case.x + 1, case.t, prepared, deep)[0] for of in (network, unet))
    close(ours, theirs)


@GPU
def test_threads_and_streams_on_a_gpu() -> None:
    unet, network, case = on_gpu("if")
    kinds = [(case.x[:, :, : 8 * (1 + index % 2)], network.prepare(scaled(case.cond, index))) for index in range(3)]
    expected = [unet(x, case.t, prepared) for x, prepared in kinds]
    torch.cuda.synchronize()

    def run(index: int) -> Tensor:
        x, prepared = kinds[index % 3]
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            made: Tensor = network(x, case.t, prepared)
            torch.cuda.current_stream().synchronize()
        return made

    with ThreadPoolExecutor(4) as pool:
        for index, made in enumerate(pool.map(run, range(48))):
            close(made, expected[index % 3])


@GPU
def test_a_run_on_a_gpu() -> None:
    pipe = pydiff.load(device="cuda")
    assert all(isinstance(stage.unet, GraphedUNet) for stage in pipe.cascade.stages)
    makes = {"seed": 0, "size": 64, "num_inference_steps": 4, "output_type": "np"}
    made = [pipe.generate(prompt, **makes).images for prompt in ("a red circle", "a blue square", "a red circle")]
    assert (made[0] == made[2]).all()
    assert (made[0] != made[1]).any()
