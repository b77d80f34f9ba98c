"""A CuPy without a GPU: arrays of array-api-strict on its second device, behind the names of CuPy that pydiff uses.

array-api-strict refuses to mix devices and NumPy's arrays, and has the functions of the standard alone. Methods here
are those that CuPy's arrays have too. What would wait for a GPU, or cross between it and the host, is counted. Copies
are queued: who reads the memory by its address before the stream is waited for finds none of their numbers.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_strict
import numpy as np
import pytest

DEVICE = array_api_strict.Device("device1")
queue: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []  # memory, and what is to be there
crossings: Counter[str] = Counter()  # "to host", "to device", "number": one value asked of an array, "settle"


class NoGpuError(Exception):
    """CUDARuntimeError."""


class ndarray:  # noqa: N801
    """CuPy's array: a strict one on the device."""

    __array_ufunc__ = None  # NumPy's functions refuse it

    def __init__(self, strict: Any) -> None:
        assert strict.device == DEVICE
        self._strict = strict

    @property
    def strict(self) -> Any:
        """For what is queued next, which sees all that was queued before."""
        flush()
        return self._strict

    def __array__(self, *_: Any, **__: Any) -> None:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.held.dtype

    @property
    def held(self) -> np.ndarray[Any, Any]:
        """The memory, whatever is there."""
        found: np.ndarray[Any, Any] = self._strict._array
        return found

    shape = property(lambda self: self.held.shape)
    ndim = property(lambda self: self.held.ndim)
    size = property(lambda self: self.held.size)
    T = property(lambda self: ndarray(self.strict.T))
    device = property(lambda self: Device(0))
    flags = property(lambda self: SimpleNamespace(c_contiguous=self.held.flags.c_contiguous))
    data = property(lambda self: SimpleNamespace(ptr=self.held.ctypes.data))

    def get(self) -> np.ndarray[Any, Any]:
        crossings["to host"] += 1
        flush()
        return self.held.copy()

    def item(self) -> Any:
        crossings["number"] += 1
        return self.get().item()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def tolist(self) -> Any:
        return self.get().tolist()

    def __len__(self) -> int:
        return int(self.shape[0])

    def __iter__(self) -> Iterator[ndarray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        if isinstance(key, list):
            crossings["to device"] += 1
            key = ndarray(array_api_strict.asarray(np.asarray(key, np.int64), device=DEVICE))
        if isinstance(key, ndarray) and key.dtype.kind == "i":
            return ndarray(array_api_strict.take(self.strict, key.strict, axis=0))
        return ndarray(self.strict[_key(key, self.ndim)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.strict[_key(key, self.ndim)] = _in(value)

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return xp.astype(self, dtype, copy=copy)  # type: ignore[no-any-return]

    def reshape(self, shape: Any) -> ndarray:
        return xp.reshape(self, (shape,) if isinstance(shape, int) else shape)  # type: ignore[no-any-return]

    def clip(self, min: Any = None, max: Any = None) -> ndarray:
        return xp.clip(self, min, max)  # type: ignore[no-any-return]

    def any(self, axis: Any = None) -> ndarray:
        return xp.any(self, axis=axis)  # type: ignore[no-any-return]

    def all(self, axis: Any = None) -> ndarray:
        return xp.all(self, axis=axis)  # type: ignore[no-any-return]

    def mean(self, axis: Any = None) -> ndarray:
        return xp.mean(self, axis=axis)  # type: ignore[no-any-return]

    def transpose(self, *axes: int) -> ndarray:
        return xp.permute_dims(self, axes)  # type: ignore[no-any-return]


def _key(key: Any, ndim: int) -> Any:
    """The standard asks that all axes are named."""
    parts = key if isinstance(key, tuple) else (key,)
    parts = tuple(_in(part) for part in parts)
    masks = [part for part in parts if isinstance(part, type(array_api_strict.empty(0)))]
    short = len([part for part in parts if part is not None]) < ndim and ... not in [p for p in parts if p is ...]
    return (*parts, ...) if short and not masks else parts if len(parts) > 1 or not masks else parts[0]


def _operator(name: str) -> Any:
    def run(self: ndarray, *others: Any) -> Any:
        taken = [_in(other) for other in others]
        if any(isinstance(other, np.ndarray) for other in taken):
            raise TypeError(f"Unsupported type {np.ndarray}")
        made = getattr(self.strict, name)(*taken)
        if made is NotImplemented:
            return NotImplemented
        if name.startswith("__i") and name not in ("__invert__",):
            self._strict = made
            return self
        return ndarray(made)

    return run


for _name in (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"),
    *("radd", "rsub", "rmul", "rtruediv", "rpow", "rmatmul", "rand", "ror"),
    *("iadd", "isub", "imul", "itruediv"),
    *("eq", "ne", "lt", "le", "gt", "ge", "neg", "abs", "invert"),
):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def _in(value: Any) -> Any:
    """What array-api-strict is given for an array, a dtype, or a tuple of such."""
    if isinstance(value, ndarray):
        return value.strict
    if isinstance(value, list | tuple):
        return type(value)(map(_in, value))
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return getattr(array_api_strict, np.dtype(value).name)
    return None if isinstance(value, Device) else value


def _out(value: Any) -> Any:
    if isinstance(value, type(array_api_strict.empty(0))):
        return ndarray(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_out, value))
    return value._np_dtype if isinstance(value, type(array_api_strict.float32)) else value


MAKERS = ("zeros", "ones", "full", "arange", "empty", "eye", "linspace")


class Namespace(ModuleType):
    """array_api_compat.cupy: the functions of the standard, and no others."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(array_api_strict, name)
        if not callable(found) or isinstance(found, type(array_api_strict.float32)):
            return _out(found) if isinstance(found, type(array_api_strict.float32)) else found

        def run(*given: Any, **named: Any) -> Any:
            if name in MAKERS:
                named["device"] = DEVICE
            elif "device" in named:
                named.pop("device")
            return _out(found(*map(_in, given), **{key: _in(value) for key, value in named.items()}))

        return run

    def asarray(self, value: Any, **named: Any) -> ndarray:
        if isinstance(value, ndarray):
            return ndarray(array_api_strict.asarray(value.strict, copy=named.get("copy")))
        return asarray(value)


class Device:
    """cupy.cuda.Device."""

    def __init__(self, index: int) -> None:
        self.id = index

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]


class Stream:
    """That of the default."""

    @property
    def ptr(self) -> int:
        flush()  # a kernel is queued on it
        return 0

    def synchronize(self) -> None:
        crossings["settle"] += 1
        flush()


def flush() -> None:
    """Do what is queued."""
    while queue:
        memory, values = queue.pop(0)
        memory[...] = values


def queued(values: np.ndarray[Any, Any]) -> ndarray:
    """A new array that will hold them."""
    made = empty(values.shape, values.dtype)
    queue.append((made.held, values))
    return made


def asarray(value: Any) -> ndarray:
    """cupy.asarray."""
    if isinstance(value, ndarray):
        return value
    crossings["to device"] += 1
    return queued(np.array(value, copy=True, order="C"))


def ascontiguousarray(value: ndarray, dtype: Any = None) -> ndarray:
    """cupy.ascontiguousarray: of a number it makes an array of one."""
    if value.dtype == dtype and value.held.flags.c_contiguous and value.ndim:
        return value
    flush()
    return queued(np.array(np.atleast_1d(value.held), dtype, order="C"))


def empty(shape: Any, dtype: Any) -> ndarray:
    """cupy.empty, of NaN or the largest number: what is not written is seen."""
    kind = np.dtype(dtype)
    nothing = {"f": np.nan, "b": True}.get(kind.kind, np.iinfo(kind).max if kind.kind in "iu" else 0)
    made = np.full(shape, nothing, kind)
    return ndarray(array_api_strict.asarray(made, device=DEVICE))


xp = Namespace("array_api_compat.cupy")
cupy = ModuleType("cupy")
cupy.__dict__.update(
    __version__="0",
    ndarray=ndarray,
    asarray=asarray,
    ascontiguousarray=ascontiguousarray,
    empty=empty,
    cuda=SimpleNamespace(
        Device=Device,
        get_current_stream=Stream,
        runtime=SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=NoGpuError),
    ),
)


@contextlib.contextmanager
def installed() -> Iterator[ModuleType]:
    """Inside, `import cupy` finds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "cupy", cupy)
        patch.setitem(__import__("sys").modules, "array_api_compat.cupy", xp)
        crossings.clear()
        queue.clear()
        yield cupy
