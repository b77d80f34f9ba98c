"""Arrays of two kinds: torch's tensors, and NumPy's arrays where an exported model runs without torch.

Code that serves both keeps to the operators, indexing and attributes that both have, takes functions from
`namespace(x)` (the array API standard, https://data-apis.org/array-api), and from here what the standard leaves out.
Host values (tables, masks, pictures from files) are NumPy's, and become the engine's kind by `like` or `placed`.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "Tensor"  # what both kinds share is checked as torch's


def namespace(*arrays: Any) -> Any:
    """The functions of the array API standard for arrays of one kind: concat, stack, where, clip, permute_dims, ..."""
    if not any(map(is_torch, arrays)):
        return np  # which has them itself, from 2.0 on
    import array_api_compat

    return array_api_compat.array_namespace(*(one for one in arrays if one is not None))


def is_torch(value: Any) -> bool:
    """Whether it is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """Whether it is an array of either kind."""
    return isinstance(value, np.ndarray) or is_torch(value)


def is_floating(x: Any) -> bool:
    """Whether an array holds floats."""
    return x.dtype.kind == "f" if isinstance(x, np.ndarray) else x.is_floating_point()


def wide(x: Array) -> Array:
    """In float32 at least."""
    if is_torch(x):
        return x.float() if x.element_size() < 4 else x
    return x if x.dtype.itemsize >= 4 else x.astype(np.float32)  # type: ignore[attr-defined]


def cast(x: Array, dtype: Any) -> Array:
    """x in a dtype of its own kind."""
    return x.to(dtype) if is_torch(x) else x.astype(dtype, copy=False)  # type: ignore[attr-defined]


def placed(value: Any, x: Array) -> Array:
    """A value (an array of either kind, numbers, nested lists of them) as an array of x's kind, where x is."""
    if not is_torch(x):
        return on_host(value)  # type: ignore[return-value]
    torch = sys.modules["torch"]
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    made: Array = torch.as_tensor(value).to(x.device)
    return made


def like(value: Any, x: Array) -> Array:
    """The same, in x's type."""
    return cast(placed(value, x), x.dtype)


def hosted(value: Any, x: Array) -> Array:
    """A value as an array of x's kind, on the host."""
    return placed(value, sys.modules["torch"].empty(0)) if is_torch(x) else on_host(value)  # type: ignore[return-value]


def on_host(x: Any) -> NDArray[Any]:
    """A NumPy array of either kind's values; bfloat16, which NumPy lacks, becomes float32."""
    if not is_torch(x):
        return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()


def expand(x: Array, rows: int) -> Array:
    """(1 or B, ...) as `rows` rows, of the same memory where it was one."""
    return namespace(x).broadcast_to(x, (rows, *x.shape[1:]))


def inference() -> AbstractContextManager[Any]:
    """Without gradients, where there is torch."""
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else torch.inference_mode()
