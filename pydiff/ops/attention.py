"""Attention that gives out its maps and takes edits of them, without forming a map.

A = softmax(q k^T / sqrt(d) + bias). Captures and edits are linear in A, so both become attention with other values:
A @ probe has the columns of the probe in place of values, and (A @ transfer) @ V = A @ (transfer @ V), which is
Prompt-to-Prompt (Hertz et al. 2022). Text comes first: T of the M keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from pydiff.ops import attention_triton, native
from pydiff.ops.attention_call import PIXELS, Call, Edit, check, check_edit
from pydiff.ops.attention_torch import composed, composed_edit, formed, formed_edit, traced


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    probe: Tensor | None = None,
    heat: Tensor | None = None,
    q_rows: Tensor | None = None,
    k_rows: Tensor | None = None,
    v_rows: Tensor | None = None,
) -> Tensor:
    """A v, A = softmax(q k^T / sqrt(d) + bias) (Vaswani et al. 2017, equation 1); 0 where every score is -inf.

    q (B, H, N, d), k and v (B, H, M, d), of one float type -> (B, H, N, d), a view of memory (B, N, H, d).
    bias (B, 1, 1, T), or broadcastable to it, T <= M: added to the scores of the first T keys.
    probe (B, T, K) and heat (B, N, K), both or none: heat += mean over heads of A[..., :T] @ probe, in place. heat is
    float32, or float64 when q is. What is returned does not depend on them.
    q_rows, k_rows, v_rows (B,) int64: which row of q, k or v each row of the result reads; by default its own.
    Arithmetic is in float32, or float64 when q is. Raises ValueError when shapes, types or indices do not fit.
    """
    call = check(Call(q, k, v, bias, probe, heat, (q_rows, k_rows, v_rows)))
    if torch.compiler.is_exporting() and heat is None:
        return traced(call)
    run = _serves(call)
    return composed(call) if run is None else run(call)


def edited_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    source: Tensor,
    transfer: Tensor,
    keep: Tensor,
    pixels: str = "rescale",
    bias: Tensor | None = None,
    probe: Tensor | None = None,
    heat: Tensor | None = None,
) -> Tensor:
    """`attention` with maps that are edited before they meet the values (Hertz et al. 2022, section 3.2).

    source (B,) int64: the row whose map a row borrows. A row that borrows its own is plain attention: its transfer and
    keep are not read. transfer (B, T, T), keep (B, T). With s = source[b], the other rows have
        E = A[s][..., :T] @ transfer[b] + A[b][..., :T] * keep[b]
    for their text columns, and for the pixels' columns P = A[b][..., T:] of joint attention, as `pixels` says:
        "keep": P; "rescale": P (1 - sum(E)) / sum(P), so that a row sums to 1; "borrow": A[s][..., T:].
    Captured of these rows is E @ probe. Everything else, and the ValueError, as in `attention`.
    """
    call = check(Call(q, k, v, bias, probe, heat))
    edit = check_edit(call, Edit(source, transfer, keep, pixels))
    run = _serves(call, transfer, keep)
    return composed_edit(call, edit) if run is None else run(call, edit)


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    probe: Tensor | None = None,
    heat: Tensor | None = None,
    q_rows: Tensor | None = None,
    k_rows: Tensor | None = None,
    v_rows: Tensor | None = None,
) -> Tensor:
    """What `attention` means, maps and all: any device, any float type, differentiable."""
    return formed(check(Call(q, k, v, bias, probe, heat, (q_rows, k_rows, v_rows))))


def edited_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    source: Tensor,
    transfer: Tensor,
    keep: Tensor,
    pixels: str = "rescale",
    bias: Tensor | None = None,
    probe: Tensor | None = None,
    heat: Tensor | None = None,
) -> Tensor:
    """What `edited_attention` means, maps and all: any device, any float type, differentiable."""
    call = check(Call(q, k, v, bias, probe, heat))
    return formed_edit(call, check_edit(call, Edit(source, transfer, keep, pixels)))


def _serves(call: Call, *others: Tensor) -> Callable[..., Tensor] | None:
    """What runs this call, or with an edit as its second argument: the core on a CPU, Triton on a GPU, if it can."""
    if torch.compiler.is_compiling():  # what looks for kernels would end torch's graph
        return None
    q, k, v, bias, probe, heat = call[:6]
    if q.is_cuda:
        module, run = attention_triton.serves(call, *others), attention_triton.run
    else:
        module, run = native.serves(q, k, v, bias, probe, heat, *others), _native
    served = module is not None and hasattr(module, "attention") and 0 not in (q.numel(), call.batch)
    return partial(run, module) if module is not None and served else None


def _native(module: ModuleType, call: Call, edit: Edit | None = None) -> Tensor:
    q, k, v = call[:3]
    half = q.dtype == torch.float16
    if half:
        q, k, v = q.float(), k.float(), v.float()
    q, k, v = _last_contiguous(q), _last_contiguous(k), _last_contiguous(v)
    batch, (heads, n, dim) = call.batch, q.shape[1:]
    out = q.new_empty_strided((batch, heads, n, dim), (n * heads * dim, dim, heads * dim, 1))
    bias, probe, heat = _dense(call.bias), _dense(call.probe), None if call.heat is None else call.heat.contiguous()
    transfer, keep = (None, None) if edit is None else (_dense(edit.transfer), _dense(edit.keep))
    own, text = list(range(batch)), edit.keep.shape[1] if edit else call.text
    module.attention(
        *(_place(q), _place(k), _place(v), _place(out)),
        q.dtype == torch.bfloat16,
        (heads, n, k.shape[2], dim, text, 0 if probe is None else probe.shape[2]),
        [own if rows is None else rows.tolist() for rows in call.rows],
        *(native.address(bias), native.address(probe), native.address(heat)),
        edit.source.tolist() if edit else [],
        *(native.address(transfer), native.address(keep)),
        PIXELS.index(edit.pixels) if edit else 0,
        torch.get_num_threads(),
    )
    if call.heat is not None and heat is not None and heat is not call.heat:
        call.heat.copy_(heat)
    return out.half() if half else out


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


def _last_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _place(x: Tensor) -> tuple[int, ...]:
    """Where x (B, H, N, d) starts, its rows, and the elements between rows, heads and items."""
    return x.data_ptr(), x.shape[0], *x.stride()[:3]
