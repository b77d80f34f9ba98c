"""Which implementation runs an operator: the compiled core `pydiff._C`, or the plain reference.

The environment variable PYDIFF_KERNELS is read once: `auto` (the core where it can serve), `native` (the core must be
there), `reference` (plain operators everywhere).
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pydiff import gpu
from pydiff.gpu import is_on_gpu

if TYPE_CHECKING:
    from torch import Tensor

CHOICES = ("auto", "native", "reference")


@functools.cache
def choice() -> str:
    """The value of PYDIFF_KERNELS. Raises ValueError for an unknown one."""
    value = os.environ.get("PYDIFF_KERNELS", "auto")
    if value not in CHOICES:
        raise ValueError(f"PYDIFF_KERNELS is {value!r}; expected one of {', '.join(CHOICES)}")
    return value


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    try:
        module = importlib.import_module("pydiff._C")
    except ImportError as error:
        return None, f"pydiff._C cannot be imported: {error}"
    if not module.simd():
        return None, "pydiff._C was built by a compiler, or runs on a processor, without fused multiply-add vectors"
    return module, None


def core() -> ModuleType | None:
    """The compiled core, or None when it is missing or PYDIFF_KERNELS=reference.

    Raises ValueError when PYDIFF_KERNELS=native and the core is missing.
    """
    if choice() == "reference":
        return None
    module, reason = _load()
    if module is None and choice() == "native":
        raise ValueError(f"PYDIFF_KERNELS=native, but {reason}; reinstall pydiff with a C++ compiler or unset it")
    return module


def why_missing() -> str | None:
    """Why `core()` is None, or None when it is there."""
    return "PYDIFF_KERNELS=reference" if choice() == "reference" else _load()[1]


def serves(*arrays: Any) -> ModuleType | None:
    """The core when it can compute with these arrays, the first of which is not None: see `plain`."""
    module = core()
    if module is None or not plain(*arrays):
        return None
    return module if module.cuda or not is_cuda(arrays[0]) else None


def plain(*arrays: Any) -> bool:
    """Whether a kernel may read the memory of these arrays: all on the CPU or on one CUDA device, floats of at most 32
    bits, no gradient and no tracing."""
    given = [array for array in arrays if array is not None]
    if isinstance(given[0], np.ndarray):
        return all(isinstance(array, np.ndarray) and array.dtype in (np.float32, np.float16) for array in given)
    if is_on_gpu(given[0]):
        here, floats = given[0].device, (np.float32, np.float16)
        return all(is_on_gpu(array) and array.device == here and array.dtype in floats for array in given)
    return _plain_tensors(given)


def _plain_tensors(given: Sequence[Tensor]) -> bool:
    import torch

    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if tracing or torch.compiler.is_compiling():
        return False
    device, gradient = given[0].device, torch.is_grad_enabled()
    floats = (torch.float32, torch.float16, torch.bfloat16)
    own = torch.Tensor.__torch_dispatch__  # a subclass that overrides it (a fake, a quantised one) has no plain memory
    return device.type in ("cpu", "cuda") and all(
        tensor.device == device
        and tensor.dtype in floats
        and type(tensor).__torch_dispatch__ is own
        and not (gradient and tensor.requires_grad)
        for tensor in given
    )


def is_cuda(array: Any) -> bool:
    """Whether it is in the memory of a CUDA device."""
    return is_on_gpu(array) or (not isinstance(array, np.ndarray) and array.is_cuda)


def device(array: Any) -> AbstractContextManager[Any]:
    """Inside, the GPU that an array is on is the current one."""
    if not is_cuda(array):
        return nullcontext()
    if is_on_gpu(array):
        return array.device
    import torch

    return torch.cuda.device(array.device)


def address(tensor: Tensor | None) -> int:
    """Where the tensor's memory starts; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


class Memory(NamedTuple):
    """How the core is given arrays of one kind. dense: the same numbers in float32, one after the other; address: where
    they start. threads: how many compute with them on the CPU. On a GPU, inside `device` of one of them: workspace:
    memory of so many bytes; stream: where work on them is queued."""

    dense: Callable[[Any], Any]
    empty_like: Callable[[Any], Any]
    address: Callable[[Any], int]
    threads: Callable[[], int]
    workspace: Callable[[int], Any]
    stream: Callable[[], int]


def memory(array: Any) -> Memory:
    """That of an array's kind."""
    if is_on_gpu(array):
        return _gpu_memory()
    return _numpy_memory() if isinstance(array, np.ndarray) else _torch_memory()


@functools.cache
def _numpy_memory() -> Memory:
    def dense(array: Any) -> Any:
        return np.ascontiguousarray(array, np.float32)

    def workspace(size: int) -> Any:
        return np.empty(size, np.uint8)

    return Memory(dense, np.empty_like, lambda array: array.ctypes.data, threads, workspace, lambda: 0)


@functools.cache
def _torch_memory() -> Memory:
    import torch

    def dense(tensor: Any) -> Any:
        return tensor.float().contiguous()

    return Memory(
        dense,
        torch.empty_like,
        torch.Tensor.data_ptr,
        torch.get_num_threads,
        lambda size: torch.empty(size, dtype=torch.uint8, device="cuda"),
        lambda: torch.cuda.current_stream().cuda_stream,
    )


def _gpu_memory() -> Memory:
    def dense(array: Any) -> Any:
        return gpu.dense(array, np.float32)

    def empty_like(array: Any) -> Any:
        return gpu.empty(array.shape, array.dtype)

    def workspace(size: int) -> Any:
        return gpu.empty((size,), np.uint8)

    return Memory(dense, empty_like, gpu.address, threads, workspace, gpu.stream)


def threads() -> int:
    """How many compute where there is no torch to say it: OMP_NUM_THREADS, or as many processors as this process may
    use."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
