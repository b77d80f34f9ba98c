"""Arrays in a GPU's memory where there is no torch: CuPy's (https://docs.cupy.dev), and all that is asked of it beyond
the array API standard.

What is done with them is queued on CuPy's current stream, in order. Before anything that works on another stream reads
or writes them, `settle` waits until all of that is done.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydiff._optional import optional

PACKAGE = "pydiff-engine[onnx-gpu]"


def is_on_gpu(value: Any) -> bool:
    """Whether it is one of CuPy's arrays; CuPy is not imported to find out."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


def opened(index: int) -> None:
    """Import CuPy, and see that it has a GPU of this number. Raises ValueError that says what is missing."""
    cupy: Any = optional("cupy", PACKAGE, "an exported model on a GPU")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise ValueError(
            f"CuPy {cupy.__version__} finds no GPU that it can use: {error}; see that the driver is one for the CUDA "
            "that CuPy was built for, or load with provider='cpu'"
        ) from error
    if not index < count:
        raise ValueError(
            f"GPU {index} is asked for, but CuPy finds {count} of them, counted from 0; give another number"
        )


def device(index: int) -> AbstractContextManager[Any]:
    """Inside, new arrays are of the GPU of this number."""
    made: AbstractContextManager[Any] = sys.modules["cupy"].cuda.Device(index)
    return made


def empty(shape: Sequence[int], dtype: Any) -> Any:
    """An array whose numbers are whatever was there, contiguous."""
    return sys.modules["cupy"].empty(tuple(shape), np.dtype(dtype))


def from_host(values: NDArray[Any]) -> Any:
    """A copy of a NumPy array."""
    return sys.modules["cupy"].asarray(values)


def to_host(x: Any) -> NDArray[Any]:
    """A copy as a NumPy array; it waits for what is queued before."""
    with x.device:
        copied: NDArray[Any] = x.get()
    return copied


def dense(x: Any, dtype: Any) -> Any:
    """The same numbers of a type, one after the other in memory: x itself where it is so."""
    made = sys.modules["cupy"].ascontiguousarray(x, np.dtype(dtype))
    return made if x.ndim else made.reshape(())  # it makes (1,) of a number


def address(x: Any) -> int:
    """Where its memory starts."""
    return int(x.data.ptr)


def stream() -> int:
    """CuPy's current stream, as CUDA knows it."""
    return int(sys.modules["cupy"].cuda.get_current_stream().ptr)


def settle() -> None:
    """Wait until all that is queued on CuPy's current stream is done."""
    sys.modules["cupy"].cuda.get_current_stream().synchronize()
