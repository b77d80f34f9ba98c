"""Attention in plain torch: with its maps formed (`formed`), and composed of scaled_dot_product_attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pydiff.ops.attention_call import Call, Edit


def formed(call: Call) -> Tensor:
    """`attention` with its maps."""
    call = _gather(call)
    maps = _maps(call)
    _add_heat(call, maps[..., : call.text])
    return (maps @ call.v.to(maps.dtype)).to(call.q.dtype)


def formed_edit(call: Call, edit: Edit) -> Tensor:
    """`edited_attention` with its maps."""
    maps = _maps(call)
    transfer, keep, plain = _neutral(edit, maps.dtype)
    text, borrowed = keep.shape[1], maps[edit.source]
    words = borrowed[..., :text] @ transfer[:, None] + maps[..., :text] * keep[:, None, None]
    rest = maps[..., text:]
    if edit.pixels == "rescale":
        rest = rest * _factor(words.sum(-1, keepdim=True), rest.sum(-1, keepdim=True), plain)
    elif edit.pixels == "borrow":
        rest = borrowed[..., text:]
    _add_heat(call, words)
    return (torch.cat([words, rest], dim=-1) @ call.v.to(maps.dtype)).to(call.q.dtype)


def traced(call: Call) -> Tensor:
    """`attention` for a graph that others run: few operators, and the maps between the last two of them."""
    q, k, v = _gather(call)[:3]
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
    if call.bias is not None:
        scores = scores + F.pad(call.bias.to(q.dtype), (0, k.shape[2] - call.bias.shape[1]))[:, None, None]
    return torch.softmax(scores, dim=-1) @ v


def composed(call: Call) -> Tensor:
    """`attention` without maps."""
    call = _gather(call)
    if call.probe is not None and call.heat is not None:
        call.heat.add_(_attend(call, call.probe[:, None]).mean(1))
    return _attend(call, call.v)


def composed_edit(call: Call, edit: Edit) -> Tensor:
    """`edited_attention` without maps: the source's attention to values mixed by transfer, and the row's own to values
    times keep. Where an attention has no part in a row its values are 0, so that a plain row is exactly `composed`.
    """
    wide, text = torch.promote_types(call.q.dtype, torch.float32), edit.keep.shape[1]
    transfer, keep, plain = _neutral(edit, wide)
    bias = None if call.bias is None else call.bias[edit.source]
    source = call._replace(q=call.q[edit.source], k=call.k[edit.source], bias=bias)
    if call.probe is not None and call.heat is not None:
        lent, own = _parts(transfer, keep, call.probe[:, None].to(wide))
        call.heat.add_((_attend(source, lent) + _attend(call, own)).mean(1))
    if edit.pixels == "rescale" and call.k.shape[2] > text:
        return _rescaled(call, source, edit)
    lent, own = _parts(transfer, keep, call.v[:, :, :text].to(wide))
    rest, mine = call.v[:, :, text:].to(wide), plain[:, None, None, None] | (edit.pixels != "borrow")
    lent, own = torch.cat([lent, rest.where(~mine, 0)], dim=2), torch.cat([own, rest.where(mine, 0)], dim=2)
    return _attend(source, lent) + _attend(call, own)


def _rescaled(call: Call, source: Call, edit: Edit) -> Tensor:
    """Text and pixels apart, with a column more for the sums of their shares: in float32 at least."""
    wide, text = torch.promote_types(call.q.dtype, torch.float32), edit.keep.shape[1]
    call, source = (c._replace(q=c.q.to(wide), k=c.k.to(wide)) for c in (call, source))
    transfer, keep, plain = _neutral(edit, wide)
    values = F.pad(call.v.to(wide), (0, 1), value=1)
    unedited = plain[:, None, None, None]
    lent, own = _parts(transfer, keep, values[:, :, :text].where(~unedited, 0))
    words = _attend(source, lent) + _attend(call, own)
    rest = _attend(call, torch.cat([values[:, :, :text].where(unedited, 0), values[:, :, text:]], dim=2))
    out = words[..., :-1] + rest[..., :-1] * _factor(words[..., -1:], rest[..., -1:], plain)
    return out.to(call.v.dtype)


def _parts(transfer: Tensor, keep: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """transfer @ values and keep * values (B, H, T, K): what the source and the row itself attend to."""
    return transfer[:, None] @ values, keep[:, None, :, None] * values


def _attend(call: Call, values: Tensor) -> Tensor:
    """Attention to values (B, 1 or H, at most M, any size); missing values are 0.

    scaled_dot_product_attention is fused only where q, k and v have one size, to which they are filled up with 0.
    """
    q, k, size = call.q, call.k, values.shape[3]
    keys, width = k.shape[2], max(q.shape[3], size)
    bias = None
    if call.bias is not None:
        bias = F.pad(call.bias.to(q.dtype), (0, keys - call.bias.shape[1]))[:, None, None]
    values = F.pad(values.to(q.dtype), (0, width - size, 0, keys - values.shape[2])).expand(-1, q.shape[1], -1, -1)
    q, k = (x if x.shape[3] == width else F.pad(x, (0, width - x.shape[3])) for x in (q, k))
    out = F.scaled_dot_product_attention(q, k, values, attn_mask=bias, scale=call.q.shape[3] ** -0.5)
    return out[..., :size]


def _maps(call: Call) -> Tensor:
    wide = torch.promote_types(call.q.dtype, torch.float32)
    scores = call.q.to(wide) @ call.k.to(wide).mT * call.q.shape[-1] ** -0.5
    if call.bias is not None:
        scores = scores + F.pad(call.bias.to(wide), (0, call.k.shape[2] - call.bias.shape[1]))[:, None, None]
    nothing = scores.isneginf().all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(nothing, 0), dim=-1).masked_fill(nothing, 0)


def _add_heat(call: Call, words: Tensor) -> None:
    if call.probe is not None and call.heat is not None:
        call.heat.add_((words @ call.probe.to(words.dtype)[:, None]).mean(1))


def _neutral(edit: Edit, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """transfer and keep, 0 and 1 in the rows that borrow from themselves, and which these are (B,)."""
    plain = edit.source == torch.arange(len(edit.source), device=edit.source.device)
    transfer = edit.transfer.to(dtype).where(~plain[:, None, None], 0)
    return transfer, edit.keep.to(dtype).where(~plain[:, None], 1), plain


def _factor(text: Tensor, pixels: Tensor, plain: Tensor) -> Tensor:
    """(1 - text) / pixels, both sums of shares (B, H, N, 1); 1 in plain rows and where the pixels have no share."""
    unchanged = plain[:, None, None, None] | (pixels == 0)
    return ((1 - text) / pixels.where(~unchanged, 1)).where(~unchanged, 1)


def _gather(call: Call) -> Call:
    q, k, v = (x if rows is None else x[rows] for x, rows in zip(call[:3], call.rows, strict=True))
    return call._replace(q=q, k=k, v=v, rows=(None, None, None))
