from __future__ import annotations
import torch, triton
from torch import Tensor
from pydiff.kernels.flash import flash
from pydiff.kernels.text_attention import MAX_KEYS, Edit, fold, text_attention
from pydiff.kernels.tiles import Blocks, Rows

def attention_cuda(q, k, v, *, bias=None, probe=None, heat=None, q_rows=None, k_rows=None, v_rows=None, blocks=None, text_blocks=None):
    rows = Rows(q_rows, k_rows, v_rows)
    batch = max(len(t) for t in (q, *rows) if t is not None)
    batch = next((len(r) for r in rows if r is not None), len(q))
    out = torch.empty((batch, *q.shape[1:]), dtype=q.dtype, device=q.device)
    text = 0 if probe is None else probe.shape[1]
    if bias is not None: bias = bias.expand(batch, 1, 1, -1)
    if k.shape[2] <= MAX_KEYS:
        text_attention(q, k, v, out, keys=k.shape[2], bias=bias, rows=rows, text=text, probe=probe, heat=heat, blocks=text_blocks)
        return out
    lse = torch.empty(out.shape[:3], dtype=torch.float32, device=q.device)
    flash(q, k, v, out, lse, bias=bias, rows=rows, blocks=blocks)
    if probe is not None:
        text_attention(q, k, v, out, keys=text, lse=lse, bias=bias, rows=rows, text=text, probe=probe, heat=heat, blocks=text_blocks)
    return out

def edited_attention_cuda(q, k, v, *, source, transfer, keep, pixels="rescale", bias=None, probe=None, heat=None, blocks=None, text_blocks=None):
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    text = transfer.shape[-1]
    if bias is not None: bias = bias.expand(len(q), 1, 1, -1)
    edit = Edit(source, keep.float().contiguous(), fold(transfer, v[:, :, :text], source),
        transfer.float().sum(-1) if pixels == "rescale" else None,
        None if probe is None else fold(transfer, probe[:, None], source))
    given = dict(bias=bias, edit=edit, text=text, probe=probe, heat=heat, blocks=text_blocks)
    keys = k.shape[2]
    if keys <= MAX_KEYS:
        text_attention(q, k, v, out, keys=keys, pixels=pixels if keys > text else "", **given)
        return out
    lse = torch.empty(out.shape[:3], dtype=torch.float32, device=q.device)
    rows = Rows(source, source) if pixels == "borrow" else Rows()
    flash(q, k, v, out, lse, bias=bias, rows=rows, source=source, text=text, blocks=blocks)
    if pixels == "borrow":
        flash(q, k, None, None, lse, bias=bias, source=source, text=text, blocks=blocks)
    text_attention(q, k, v, out, keys=text, lse=lse, pixels=pixels, **given)
    return out
