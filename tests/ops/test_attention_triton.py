"""Which calls of attention go to the Triton kernels; their numbers are checked in tests/kernels."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from pydiff.ops import attention_triton, native
from pydiff.ops.attention_call import Call

KERNELS = ModuleType("kernels")


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_triton, "load", lambda: (KERNELS, None))
    monkeypatch.setattr(native, "plain", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))


def call(size: int = 40, step: int = 1, cuda: bool = True, dtype: torch.dtype = torch.bfloat16) -> Call:
    """Of (2, 8, 64, size), with this many elements between one item and the next."""
    options = {"shape": (2, 8, 64, size), "stride": lambda: (0, 0, step, 1), "device": torch.device("cuda")}
    tensor: Any = SimpleNamespace(is_cuda=cuda, dtype=dtype, **options)
    return Call(tensor, tensor, tensor)


def test_calls_on_a_gpu_are_served() -> None:
    assert attention_triton.serves(call()) is KERNELS
    assert attention_triton.why_missing() is None


@pytest.mark.parametrize(
    "options", [{"size": 161}, {"step": 2**31 // 63 + 1}, {"cuda": False}, {"dtype": torch.float32}]
)
def test_others_are_not(options: dict[str, Any]) -> None:
    assert attention_triton.serves(call(**options)) is None


def test_old_chips_and_the_reference_are_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
        assert attention_triton.serves(call()) is None
        assert "older than compute capability (8, 0)" in str(attention_triton.why_missing())
    monkeypatch.setattr(native, "choice", lambda: "reference")
    assert attention_triton.serves(call()) is None
    assert attention_triton.why_missing() == "PYDIFF_KERNELS=reference"


def test_tensors_that_a_kernel_may_not_read_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "plain", lambda *_: False)
    assert attention_triton.serves(call()) is None
