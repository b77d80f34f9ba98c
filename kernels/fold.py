"""What the transfer of an edit makes of values and probes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_T, BLOCK_W = 32, 64


@triton.jit
def _fold(
    transfer,
    x,
    y,
    source,
    strides,
    sizes,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y[b, g] = transfer[b] x[b, g] for the edited rows: (T, T) times (T, W), in float32."""
    groups, text, width = sizes
    row = tl.program_id(1) // groups
    group = tl.program_id(1) % groups
    if tl.load(source + row) == row:
        return
    lines = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = tl.program_id(2) * BLOCK_W + tl.arange(0, BLOCK_W)
    transfer += row.to(tl.int64) * strides[0][0]
    x += row.to(tl.int64) * strides[1][0] + group * strides[1][1]
    total = tl.zeros([BLOCK_T, BLOCK_W], tl.float32)
    for start in tl.range(0, text, BLOCK_W, num_stages=1):
        inner = start + tl.arange(0, BLOCK_W)
        places = transfer + lines[:, None] * strides[0][1] + inner[None, :] * strides[0][2]
        moved = tl.load(places, mask=(lines[:, None] < text) & (inner[None, :] < text), other=0.0)
        places = x + inner[:, None] * strides[1][2] + columns[None, :] * strides[1][3]
        values = tl.load(places, mask=(inner[:, None] < text) & (columns[None, :] < width), other=0.0)
        total = tl.dot(moved.to(tl.float32), values.to(tl.float32), total, input_precision=PRECISION)
    places = y + (tl.program_id(1).to(tl.int64) * text + lines[:, None]) * width + columns[None, :]
    tl.store(places, total, mask=(lines[:, None] < text) & (columns[None, :] < width))


def fold(transfer: Tensor, x: Tensor, source: Tensor, dtype: torch.dtype) -> Tensor:
    """transfer (B, T, T) times x (B, G, T, W) in dtype, for rows with source[b] != b; the others are not written."""
    batch, groups, text, width = x.shape
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    grid = (triton.cdiv(text, BLOCK_T), batch * groups, triton.cdiv(width, BLOCK_W))
    precision = "ieee" if x.dtype == torch.float32 else "tf32"  # 16-bit values are exact in tf32
    with torch.cuda.device_of(x):
        _fold[grid](
            transfer, x, y, source, (transfer.stride(), x.stride()), (groups, text, width), BLOCK_T, BLOCK_W, precision
        )
    return y
