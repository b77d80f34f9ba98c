"""Where graphs are run: the memory that their inputs and outputs are bound in, and the arrays that lie there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from pydiff import gpu
from pydiff.arrays import Array, on_host


class Place(Protocol):
    """device, index: how ONNX Runtime calls the memory, "cpu" and 0, or "cuda" and the number of a GPU."""

    device: str
    index: int

    def current(self) -> AbstractContextManager[Any]:
        """Inside, new arrays are made there."""

    def empty(self, shape: Sequence[int], dtype: str) -> Array:
        """An array there, contiguous, whose numbers are whatever was there."""

    def dense(self, value: Any, dtype: str) -> Array:
        """An array of any kind, or a number, as a contiguous array there: itself where it is one."""

    def address(self, array: Array) -> int:
        """Where a contiguous array's memory starts."""

    def settle(self) -> None:
        """Wait until all that was done with arrays there is done, so that ONNX Runtime may use their memory."""


class Host:
    """NumPy's arrays."""

    device, index = "cpu", 0

    def current(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def empty(self, shape: Sequence[int], dtype: str) -> Array:
        return np.empty(shape, dtype)  # type: ignore[return-value]

    def dense(self, value: Any, dtype: str) -> Array:
        values = np.asarray(on_host(value), dtype=dtype, order="C")
        return values  # type: ignore[return-value]

    def address(self, array: Array) -> int:
        here: Any = array
        return int(here.ctypes.data)

    def settle(self) -> None:
        """Nothing waits."""


class Gpu:
    """CuPy's arrays. ONNX Runtime works on a stream of its own: what CuPy has queued is waited for before a graph runs,
    and ONNX Runtime returns when that has run. Raises ValueError without CuPy, and without a GPU of this number."""

    def __init__(self, index: int, device: str = "cuda") -> None:
        gpu.opened(index)
        self.device, self.index = device, index

    def current(self) -> AbstractContextManager[Any]:
        return gpu.device(self.index)

    def empty(self, shape: Sequence[int], dtype: str) -> Array:
        with self.current():
            made: Array = gpu.empty(shape, dtype)
        return made

    def dense(self, value: Any, dtype: str) -> Array:
        with self.current():
            here = value if gpu.is_on_gpu(value) else gpu.from_host(np.asarray(on_host(value), dtype))
            made: Array = gpu.dense(here, dtype)
        return made

    def address(self, array: Array) -> int:
        return gpu.address(array)

    def settle(self) -> None:
        with self.current():
            gpu.settle()
