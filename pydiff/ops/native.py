"""Which implementation runs an operator: the compiled core `pydiff._C`, or the plain torch reference.

The environment variable PYDIFF_KERNELS is read once: `auto` (the core where it can serve), `native` (the core must be
there), `reference` (plain torch everywhere).
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType

import torch
from torch import Tensor

CHOICES = ("auto", "native", "reference")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


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


def serves(*tensors: Tensor | None) -> ModuleType | None:
    """The core when it can compute with these tensors: all on one device, floats of at most 32 bits, no gradient."""
    module = core()
    if module is None or not plain(*tensors):
        return None
    cuda = any(tensor.is_cuda for tensor in tensors if tensor is not None)
    return module if not cuda or module.cuda else None


def plain(*tensors: Tensor | None) -> bool:
    """Whether a kernel may read the memory of these tensors: all on the CPU or on one CUDA device, floats of at most 32
    bits, no gradient and no tracing."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if tracing or torch.compiler.is_compiling():
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    device, gradient = given[0].device, torch.is_grad_enabled()
    return device.type in ("cpu", "cuda") and all(
        tensor.device == device
        and tensor.dtype in FLOATS
        and type(tensor).__torch_dispatch__ is _DISPATCH
        and not (gradient and tensor.requires_grad)
        for tensor in given
    )


_DISPATCH = Tensor.__torch_dispatch__  # a subclass that overrides it (a fake, a quantised tensor) has no plain memory


def address(tensor: Tensor | None) -> int:
    """Where the tensor's memory starts; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
