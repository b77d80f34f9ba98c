"""Arrays of three kinds: torch's tensors, and where an exported model runs without torch NumPy's arrays, or CuPy's in
a GPU's memory.

Code that serves all keeps to the operators, indexing and methods that all have, takes functions from `namespace(x)`
(the array API standard, https://data-apis.org/array-api), and from here what the standard leaves out.
Host values (tables, masks, pictures from files) are NumPy's, and become the engine's kind by `like` or `placed`.
"""

from __future__ import annotations

import functools
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pydiff.gpu import from_host, is_on_gpu, to_host

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "Tensor"  # what all kinds share is checked as torch's


def namespace(*arrays: Any) -> Any:
    """The functions of the array API standard for arrays of one kind: concat, stack, where, clip, permute_dims, ..."""
    given = [one for one in arrays if one is not None]
    if given and all(map(is_torch, given)):
        return _of_torch()
    if not any(is_torch(one) or is_on_gpu(one) for one in given):
        return np  # which has them itself, from 2.0 on
    import array_api_compat

    return array_api_compat.array_namespace(*given)


@functools.cache
def _of_torch() -> Any:
    import array_api_compat.torch

    return array_api_compat.torch


def is_torch(value: Any) -> bool:
    """Whether it is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """Whether it is an array of any kind."""
    return isinstance(value, np.ndarray) or is_torch(value) or is_on_gpu(value)


def is_floating(x: Any) -> bool:
    """Whether an array holds floats."""
    return x.is_floating_point() if is_torch(x) else x.dtype.kind == "f"


def wide(x: Array) -> Array:
    """In float32 at least."""
    if is_torch(x):
        return x.float() if x.element_size() < 4 else x
    return x if x.dtype.itemsize >= 4 else x.astype(np.float32)  # type: ignore[attr-defined]


def cast(x: Array, dtype: Any) -> Array:
    """x in a dtype of its own kind."""
    return x.to(dtype) if is_torch(x) else x.astype(dtype, copy=False)  # type: ignore[attr-defined]


def placed(value: Any, x: Array) -> Array:
    """A value (an array of any kind, numbers, nested lists of them) as an array of x's kind, where x is."""
    if is_on_gpu(x):
        with inference(x):
            return value if is_on_gpu(value) else from_host(on_host(value))
    if not is_torch(x):
        return on_host(value)  # type: ignore[return-value]
    torch = sys.modules["torch"]
    value = on_host(value) if is_on_gpu(value) else value
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    made: Array = torch.as_tensor(value).to(x.device)
    return made


def like(value: Any, x: Array) -> Array:
    """The same, in x's type."""
    return cast(placed(value, x), x.dtype)


def hosted(value: Any, x: Array) -> Array:
    """A value as an array of x's kind, on the host, where CuPy's kind is NumPy's."""
    return placed(value, sys.modules["torch"].empty(0)) if is_torch(x) else on_host(value)  # type: ignore[return-value]


def on_host(x: Any) -> NDArray[Any]:
    """A NumPy array of any kind's values; bfloat16, which NumPy lacks, becomes float32."""
    if is_on_gpu(x):
        return to_host(x)
    if not is_torch(x):
        return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()


def expand(x: Array, rows: int) -> Array:
    """(1 or B, ...) as `rows` rows, of the same memory where it was one."""
    return namespace(x).broadcast_to(x, (rows, *x.shape[1:]))


def inference(x: Array | None = None) -> AbstractContextManager[Any]:
    """Without gradients, where there is torch; on the GPU that x is on, if it is CuPy's."""
    if is_on_gpu(x):
        here: Any = x
        return here.device
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else torch.inference_mode()
