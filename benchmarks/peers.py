"""Other engines on the same network: diffusers as it is, compiled by torch.compile, and its graph on other runtimes;
and pydiff's approximation in int8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.ours import cast_copy
from benchmarks.workloads import Workload
from pydiff.export.write import plain, save, trace
from pydiff.runtime.sessions import runtime

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
Call = Callable[[], Tensor]


class Peer(NamedTuple):
    """How one is called and the type it computes in; what makes its call, of a workload and a folder to write in; about
    how often it holds the network's weights in float32; and whether it reads the graph."""

    title: str
    dtype: torch.dtype
    build: Callable[[Workload, Path], Call]
    weights: float
    reads_graph: bool = False


def eager(dtype: torch.dtype, layout: torch.memory_format, workload: Workload, home: Path) -> Call:
    module, inputs = _cast(workload, dtype, layout)
    return partial(module, *inputs)


def on_backend(backend: SDPBackend, workload: Workload, home: Path) -> Call:
    """In bfloat16, channels_last, with one of the ways to attention that torch has."""
    module, inputs = _cast(workload, torch.bfloat16, torch.channels_last)

    def call() -> Tensor:
        with sdpa_kernel(backend):
            made: Tensor = module(*inputs)
        return made

    return call


def compiled(workload: Workload, home: Path) -> Call:
    """By inductor in bfloat16, channels_last, its weights frozen; on a GPU with max-autotune."""
    from torch._inductor import config

    module, inputs = _cast(workload, torch.bfloat16, torch.channels_last)
    fast: Any = torch.compile(module, mode="max-autotune" if inputs[0].is_cuda else None)
    with config.patch(freezing=True):
        fast(*inputs)
    return partial(fast, *inputs)


def _cast(workload: Workload, dtype: torch.dtype, layout: torch.memory_format) -> tuple[nn.Module, Sequence[Tensor]]:
    module = cast_copy(workload.module, dtype, layout)
    picture, *others = (given.to(dtype) for given in workload.inputs)
    return module, (picture.contiguous(memory_format=layout), *others)


def written(workload: Workload, home: Path) -> Path:
    """The graph in a folder, where it is written once."""
    path = home / "network.onnx"
    if not path.exists():
        save(plain(trace(workload.network), workload.network.graph), path)
    return path


def onnx_runtime(workload: Workload, home: Path) -> Call:
    """In float32, for these sizes alone; on a GPU if it can, with inputs that lie there."""
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    for name, (_, axes) in workload.network.graph.inputs.items():
        for axis, size in zip(axes, workload.feeds.get(name, torch.empty(0)).shape, strict=False):
            if isinstance(axis, str):
                options.add_free_dimension_override_by_name(axis, size)
    provider = "CUDAExecutionProvider" if workload.inputs[0].is_cuda else "CPUExecutionProvider"
    session: Any = ort.InferenceSession(str(written(workload, home)), options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"this ONNX Runtime runs on {session.get_providers()[0]} alone")
    feeds = {name: value.cpu().numpy() for name, value in workload.feeds.items()}
    return lambda: torch.from_numpy(session.run(None, feeds)[0])


def openvino(precision: str, workload: Workload, home: Path) -> Call:
    """Compiled for these sizes and for latency."""
    import openvino as ov

    core = ov.Core()
    graph = core.read_model(written(workload, home))
    feeds = {name: value.numpy() for name, value in workload.feeds.items()}
    graph.reshape({name: list(value.shape) for name, value in feeds.items()})
    hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    model = core.compile_model(graph, "CPU", hints)
    if model.get_property("INFERENCE_PRECISION_HINT") != getattr(ov.Type, precision):
        raise RuntimeError(f"it computes in {model.get_property('INFERENCE_PRECISION_HINT')}")
    request = model.create_infer_request()
    return lambda: torch.from_numpy(request.infer(feeds)[0])


def in_int8(workload: Workload, home: Path) -> Call:
    """pydiff's approximation."""
    assert workload.in_int8 is not None, "int8 is of U-Nets"
    return workload.in_int8()


_PLAIN, _LAST = torch.contiguous_format, torch.channels_last
_F32, _BF16 = torch.float32, torch.bfloat16
PEERS: dict[str, Peer] = {
    "int8": Peer("an approximation: pydiff, int8", _BF16, in_int8, 1),
    "eager-f32": Peer("diffusers", _F32, partial(eager, _F32, _PLAIN), 0),
    "eager-bf16": Peer("diffusers", _BF16, partial(eager, _BF16, _PLAIN), 0.5),
    "eager-bf16-last": Peer("diffusers, channels_last", _BF16, partial(eager, _BF16, _LAST), 0.5),
    "compile": Peer("diffusers, torch.compile, frozen, channels_last", _BF16, compiled, 2),
    "ort": Peer("ONNX Runtime", _F32, onnx_runtime, 2.5, True),
    "openvino-f32": Peer("OpenVINO", _F32, partial(openvino, "f32"), 2.5, True),
    "openvino-bf16": Peer("OpenVINO", _BF16, partial(openvino, "bf16"), 2, True),
}
ON_GPU = {
    f"sdpa-{name}": Peer(f"diffusers, channels_last, attention: {name}", _BF16, partial(on_backend, backend), 0.5)
    for name, backend in BACKENDS.items()
}


def peers(workload: Workload) -> dict[str, Peer]:
    """Those that a network has on its device, by what --peers calls them."""
    on_gpu = workload.inputs[0].is_cuda
    absent = ("openvino", "int8") if on_gpu else () if workload.in_int8 else ("int8",)
    known = {name: peer for name, peer in PEERS.items() if not name.startswith(absent)}
    return known | ON_GPU if on_gpu else known
