"""Attention with captures and edits, by two kernels: one for any number of keys, one for the maps of the text.

Few keys are one tile, and one kernel does everything. Of more keys, and of edits beside pixels, `flash` does what no
map is needed for and leaves the log-sum-exp of every query, from which `text_attention` makes the text's columns of the
map again: q k^T twice for T of the M keys is the price of a capture or an edit. No kernel uses atomics: what is added
is added in one order.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .blocks import Blocks
from .flash import flash
from .fold import fold
from .text_attention import MAX_KEYS, text_attention
from .text_maps import Edit
from .tiles import Rows


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    probe: Tensor | None = None,
    heat: Tensor | None = None,
    rows: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
    blocks: Blocks | None = None,
    text_blocks: Blocks | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, as `pydiff.ops.attention` has it; bias is (B, T).

    The last dimension of q, k and v is contiguous. `blocks` and `text_blocks` replace the choice of `flash` and of
    `text_attention`. Nothing is checked.
    """
    chosen = Rows(*rows)
    batch = next((len(index) for index in chosen if index is not None), len(q))
    out, text = _empty(q, batch), 0 if probe is None else probe.shape[1]
    if k.shape[2] <= MAX_KEYS:
        keys, lse = k.shape[2], None
    else:
        keys, lse = text, torch.empty(out.shape[:3], dtype=torch.float32, device=q.device)
        flash(q, k, v, out, lse, bias=bias, rows=chosen, blocks=blocks)
    if lse is None or probe is not None:
        of_text = partial(text_attention, text=text, probe=probe, heat=heat, blocks=text_blocks)
        of_text(q, k, v, out, keys=keys, lse=lse, bias=bias, rows=chosen)
    return out


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
    blocks: Blocks | None = None,
    text_blocks: Blocks | None = None,
) -> Tensor:
    """`attention` with edited maps, as `pydiff.ops.edited_attention` has it; everything else as in `attention`."""
    out, text, keys, rescale = _empty(q, len(q)), keep.shape[1], k.shape[2], pixels == "rescale"
    edit = Edit(
        source,
        keep.float().contiguous(),
        fold(transfer, v[:, :, :text], source, v.dtype),
        transfer.float().sum(-1) if rescale and keys > text else None,
        None if probe is None else fold(transfer, probe[:, None], source, torch.float32),
    )
    of_text = partial(text_attention, text=text, probe=probe, heat=heat, blocks=text_blocks, bias=bias, edit=edit)
    if keys == text <= MAX_KEYS:
        of_text(q, k, v, out, keys=keys)
        return out
    lse = torch.empty(out.shape[:3], dtype=torch.float32, device=q.device)
    if pixels == "borrow":  # the pixels by the source's map and its bias, then the edited rows' own log-sum-exp
        lent = None if bias is None else bias[source]
        flash(q, k, v, out, lse, bias=lent, rows=Rows(source, source), source=source, text=text, blocks=blocks)
        flash(q, k, None, None, lse, bias=bias, source=source, text=text, blocks=blocks)
    else:
        flash(q, k, v, out, lse, bias=bias, source=source, text=text, rescale=rescale, blocks=blocks)
    of_text(q, k, v, out, keys=text, lse=lse)
    return out


def _empty(q: Tensor, batch: int) -> Tensor:
    """(B, H, N, d), a view of memory (B, N, H, d)."""
    heads, queries, size = q.shape[1:]
    return torch.empty(batch, queries, heads, size, dtype=q.dtype, device=q.device).transpose(1, 2)
