"""softmax(q k^T / sqrt(d)) v, plain, and edited and captured as the conditioning says: with no map formed, but for a
user's own function of maps.

Shapes: q (B, heads, N, d), k and v (B, heads, M, d), of which T keys of text come first; the result (B, heads, N, d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pydiff.nn.edit import AttentionEdit, Capture, MapEdit
from pydiff.ops.attention import attention, edited_attention


def attend_pixels(q: Tensor, k: Tensor, v: Tensor, edit: AttentionEdit | None, name: str) -> Tensor:
    """Pixels to pixels, N = M."""
    if edit is None:
        return attention(q, k, v)
    pixels = q.shape[2]
    function, perturbed = edit.function_of(name, pixels), edit.perturbs(name, pixels)
    content, of_map = edit.borrowed("content", name, pixels), edit.borrowed("map", name, pixels)
    if function is not None:
        out = _applied(function, _maps(q, k, None), name) @ v
    elif content is None and of_map is None:
        out = attention(q, k, v)
    else:
        out = attention(q, k, v, q_rows=of_map, k_rows=of_map if content is None else content, v_rows=content)
    return out if perturbed is None else _where(perturbed, v, out)


def attend_text(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, edit: AttentionEdit | None, name: str) -> Tensor:
    """Pixels to text, or to text and then pixels in one softmax (M > T)."""
    if edit is None:
        return attention(q, k, v, bias=bias)
    pixels, joint = q.shape[2], k.shape[2] > edit.tokens
    of_map = perturbed = None
    own = v
    if joint:
        k, v = _with_content(k, v, edit, name)
        of_map, perturbed = edit.borrowed("map", name, pixels), edit.perturbs(name, pixels)
    captures = [capture for capture in edit.captures if capture.heat.takes(name, pixels)]
    function = edit.function_of(name, pixels)
    if function is not None:
        maps = _applied(function, _maps(q, k, bias), name)
        if captures and edit.probe is not None:
            _deliver(maps[..., : edit.tokens] @ edit.probe[:, None].to(maps), captures, q)
        run: Callable[[Tensor], Tensor] = partial(torch.matmul, maps)
        out = run(v)
    else:
        call = TextCall(q, k, v, bias, edit.tables(of_map), edit.pixels)
        if of_map is not None and edit.pixel_edit is not None:
            call = call._replace(borrows=True, unborrowed=edit.pixel_edit.unborrowed)
        run = call.of
        out = call.run() if edit.probe is None or not captures else _captured(call, edit.probe, captures)
    return out if perturbed is None else _where(perturbed, _to_itself(run, own, edit.tokens), out)


class TextCall(NamedTuple):
    """Attention to text: what is passed on. tables: source, transfer and keep, where maps are edited. borrows: whether
    pixel columns are the source's, but for the rows (B,) unborrowed."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    tables: tuple[Tensor, Tensor, Tensor] | None
    pixels: str
    borrows: bool = False
    unborrowed: Tensor | None = None

    def run(self, probe: Tensor | None = None, heat: Tensor | None = None) -> Tensor:
        q, k, v, bias = self[:4]
        if self.tables is None:
            return attention(q, k, v, bias=bias, probe=probe, heat=heat)
        source, transfer, keep = self.tables
        edited = partial(edited_attention, q, k, v, source=source, transfer=transfer, keep=keep, bias=bias)
        out = edited(pixels="borrow" if self.borrows else self.pixels, probe=probe, heat=heat)
        if self.unborrowed is None:
            return out
        return _where(self.unborrowed, edited(pixels=self.pixels), out)  # text columns are the same in both

    def of(self, v: Tensor) -> Tensor:
        """The same of other values."""
        return self._replace(v=v).run()

    def apart(self) -> TextCall:
        """The same with one head in each of B heads rows."""
        batch, heads = self.q.shape[:2]
        q, k, v = (x.flatten(0, 1)[:, None] for x in self[:3])
        bias = None if self.bias is None else self.bias.expand(batch, -1, -1, -1).repeat_interleave(heads, 0)
        tables = self.tables
        if tables is not None:
            source = (tables[0][:, None] * heads + torch.arange(heads, device=q.device)).flatten()
            tables = (source, *(part.repeat_interleave(heads, 0) for part in tables[1:]))  # type: ignore[assignment]
        unborrowed = None if self.unborrowed is None else self.unborrowed.repeat_interleave(heads, 0)
        return TextCall(q, k, v, bias, tables, self.pixels, self.borrows, unborrowed)


def _captured(call: TextCall, probe: Tensor, captures: Sequence[Capture]) -> Tensor:
    """The call's result; what it attends to is added where the captures say."""
    q, columns = call.q, probe.shape[2]
    only, apart = captures[0], any(capture.heat.heads for capture in captures)
    if only.stop - only.start == columns and not apart:
        return call.run(probe, only.heat.place(q, columns))
    running, rows = (call.apart(), q.shape[1]) if apart else (call, 1)
    dtype = torch.promote_types(q.dtype, torch.float32)
    heat = torch.zeros(len(running.q), q.shape[2], columns, dtype=dtype, device=q.device)
    out = running.run(probe.repeat_interleave(rows, 0) if apart else probe, heat)
    _deliver(heat.unflatten(0, (len(q), rows)), captures, q)
    return out.reshape(q.shape) if apart else out


def _deliver(attended: Tensor, captures: Sequence[Capture], q: Tensor) -> None:
    """Add attention to the probe's columns (B, heads or 1, N, K) to the heat that it was captured for."""
    for heat, start, stop in captures:
        part = attended[..., start:stop]
        if not heat.heads:
            part = part[:, 0] if part.shape[1] == 1 else part.mean(1)
        heat.place(q, stop - start).add_(part)


def _with_content(k: Tensor, v: Tensor, edit: AttentionEdit, name: str) -> tuple[Tensor, Tensor]:
    """Keys and values with those of the pixels from the rows that they are borrowed from."""
    text, pixels = edit.tokens, k.shape[2] - edit.tokens
    rows = edit.borrowed("content", name, pixels)
    if rows is None:
        return k, v
    return torch.cat([k[:, :, :text], k[rows, :, text:]], 2), torch.cat([v[:, :, :text], v[rows, :, text:]], 2)


def _to_itself(run: Callable[[Tensor], Tensor], v: Tensor, text: int) -> Tensor:
    """What `run` makes of the words among the values v; what falls on pixels falls on the pixel itself."""
    on_pixels = torch.zeros_like(v)
    on_pixels[:, :, text:, 0] = 1
    words = F.pad(v[:, :, :text], (0, 0, 0, v.shape[2] - text))
    return run(words) + run(on_pixels)[..., :1] * v[:, :, text:]


def _maps(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias), (B, heads, N, M)."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return (scores if bias is None else scores + _over_all(bias, k)).softmax(-1)


def _applied(edit: MapEdit, maps: Tensor, name: str) -> Tensor:
    """The user's function of every map that has a source other than itself. It is given copies: what it does to them
    changes no other row."""
    made = []
    for row, source in enumerate(edit.source.tolist()):
        if source == row:
            made.append(maps[row])
            continue
        result, shape = edit.function(maps[source].clone(), maps[row].clone(), edit.progress), tuple(maps[row].shape)
        if not isinstance(result, Tensor) or tuple(result.shape) != shape or not result.is_floating_point():
            came = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"the edit function returned {came} in {name}; expected a map of floats {shape}")
        if not bool(result.isfinite().all()):
            raise ValueError(f"the edit function returned NaN or infinity in {name}, a map {shape}; return finite maps")
        made.append(result.to(maps))
    return torch.stack(made)


def _over_all(bias: Tensor | None, k: Tensor) -> Tensor | None:
    """A bias of the text's scores as one of all keys'."""
    return None if bias is None else F.pad(bias, (0, k.shape[2] - bias.shape[3]))


def _where(rows: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(rows[:, None, None, None], chosen, other)
