"""Attention by the Triton kernels (pydiff.kernels): which calls they serve, and how they are called."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor

from pydiff.ops import native
from pydiff.ops.attention_call import Call, Edit

CAPABILITY = (8, 0)  # of the oldest chip served
TYPES = (torch.float16, torch.bfloat16)  # torch is as good at float32
MAX_HEAD_SIZE = 160
MAX_OFFSET = 2**31  # within one row of the batch


@functools.cache
def load() -> tuple[ModuleType | None, str | None]:
    """The kernels, or why they cannot be imported."""
    try:
        return importlib.import_module("pydiff.kernels.attention"), None
    except ImportError as error:
        return None, f'{error}: pip install "pydiff-engine[gpu]"'


def why_missing() -> str | None:
    """Why torch serves attention on the current CUDA device, or None when the kernels do."""
    if native.choice() == "reference":
        return "PYDIFF_KERNELS=reference"
    if torch.cuda.get_device_capability() < CAPABILITY:
        return f"the device is older than compute capability {CAPABILITY}"
    return load()[1]


def serves(call: Call, *others: Tensor) -> ModuleType | None:
    """The kernels when they can compute this checked call."""
    q, k, v, bias, probe, heat = call[:6]
    if not q.is_cuda or q.dtype not in TYPES or q.shape[3] > MAX_HEAD_SIZE or native.choice() == "reference":
        return None
    if not native.plain(q, k, v, bias, probe, heat, *others):
        return None
    spans = (sum((n - 1) * step for n, step in zip(x.shape[1:], x.stride()[1:], strict=True)) for x in (q, k, v))
    new = torch.cuda.get_device_capability(q.device) >= CAPABILITY
    return load()[0] if new and max(spans) < MAX_OFFSET else None


def run(module: ModuleType, call: Call, edit: Edit | None = None) -> Tensor:
    """`attention`, or with an edit `edited_attention`, of a checked call that is not empty."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in call[:3])
    given = {"bias": call.bias, "probe": call.probe, "heat": call.heat}
    if edit is None:
        rows = tuple(None if index is None else index.to(q.device) for index in call.rows)
        return module.attention(q, k, v, rows=rows, **given)
    source = edit.source.to(q.device)
    tables = {"source": source, "transfer": edit.transfer, "keep": edit.keep, "pixels": edit.pixels}
    return module.edited_attention(q, k, v, **tables, **given)
