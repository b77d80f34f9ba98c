"""The arguments of attention, checked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PIXELS = ("keep", "rescale", "borrow")


class Call(NamedTuple):
    """The arguments of `attention`; once checked, bias is (B, T)."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    probe: Tensor | None = None
    heat: Tensor | None = None
    rows: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)

    @property
    def batch(self) -> int:
        """Rows of the result."""
        for rows in self.rows:
            if rows is not None:
                return rows.numel()
        return self.q.shape[0]

    @property
    def text(self) -> int:
        """T, 0 where nothing says it."""
        given = self.bias if self.probe is None else self.probe
        return 0 if given is None else given.shape[1]


class Edit(NamedTuple):
    """How the maps of a call are edited."""

    source: Tensor
    transfer: Tensor
    keep: Tensor
    pixels: str


def check(call: Call) -> Call:
    """The call with its bias (B, T). Raises ValueError when shapes, types or indices do not fit."""
    q, k, v = call[:3]
    dtype, device, shapes = q.dtype, q.device, (q.shape, k.shape, v.shape)
    for name, x, shape in zip("qkv", (q, k, v), shapes, strict=True):
        if len(shape) != 4 or x.dtype != dtype or x.device != device or not dtype.is_floating_point:
            raise ValueError(f"{name} is {_describe(x)}; expected {dtype} (B, H, N, d) on {device}, floats as q is")
        if shape[1] != shapes[0][1] or shape[3] != shapes[0][3] or shape[3] == 0:
            raise ValueError(f"{name} has shape {tuple(shape)} for q {tuple(q.shape)}; heads and d must be the same")
    if shapes[1][2] != shapes[2][2] or shapes[1][2] == 0:
        raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} must have as many keys as values, at least one")
    _check_rows(call)
    return _check_capture(_check_bias(call))


def check_edit(call: Call, edit: Edit) -> Edit:
    """The edit. Raises ValueError when it does not fit the checked call."""
    batch, text = call.batch, edit.keep.shape[-1] if edit.keep.ndim else 0
    if edit.pixels not in PIXELS:
        raise ValueError(f"pixels is {edit.pixels!r}; expected one of {', '.join(PIXELS)}")
    check_indices("source", edit.source, batch, batch)
    for name, x, shape in (("keep", edit.keep, (batch, text)), ("transfer", edit.transfer, (batch, text, text))):
        if tuple(x.shape) != shape or not x.is_floating_point() or x.device != call.q.device:
            raise ValueError(f"{name} is {_describe(x)}; expected floats {shape} on {call.q.device}")
    if not 1 <= text <= call.k.shape[2]:
        raise ValueError(f"keep has {text} text columns; expected 1 to {call.k.shape[2]}, the keys of k")
    if call.text not in (0, text):
        raise ValueError(f"bias and probe have {call.text} text columns, keep has {text}; expected as many")
    return edit


def check_indices(name: str, indices: Tensor, batch: int, rows: int) -> None:
    """Raises ValueError unless these are (batch,) int64 in [0, rows). Values on another device than the CPU are not
    read, which would wait for the device."""
    if indices.ndim != 1 or indices.dtype != torch.int64 or len(indices) != batch:
        raise ValueError(f"{name} is {_describe(indices)}; expected torch.int64 ({batch},)")
    if indices.is_cpu and not torch.compiler.is_compiling() and len(indices) > 0:
        low, high = (int(x) for x in torch.aminmax(indices))
        if low < 0 or high >= rows:
            raise ValueError(f"{name} is {indices.tolist()}; expected rows in [0, {rows})")


def _check_rows(call: Call) -> None:
    batch = call.batch
    for name, x, rows in zip("qkv", call[:3], call.rows, strict=True):
        if rows is not None:
            check_indices(f"{name}_rows", rows, batch, x.shape[0])
        elif x.shape[0] != batch:
            raise ValueError(f"{name} has {len(x)} rows; expected {batch}, or {name}_rows that choose among them")


def _check_bias(call: Call) -> Call:
    bias, batch = call.bias, call.batch
    if bias is None:
        return call
    shape = (*(1,) * (4 - bias.ndim), *bias.shape)
    fits = len(shape) == 4 and shape[0] in (1, batch) and shape[1:3] == (1, 1) and 1 <= shape[3] <= call.k.shape[2]
    if not fits or not bias.is_floating_point() or bias.device != call.q.device:
        raise ValueError(
            f"bias is {_describe(bias)}; expected floats ({batch}, 1, 1, T), T <= {call.k.shape[2]}, on {call.q.device}"
        )
    bias = bias.reshape(shape[0], shape[3])
    return call._replace(bias=bias if shape[0] == batch else bias.expand(batch, -1))


def _check_capture(call: Call) -> Call:
    probe, heat, (batch, n) = call.probe, call.heat, (call.batch, call.q.shape[2])
    if (probe is None) != (heat is None):
        raise ValueError("probe and heat are given together or not at all")
    if probe is None or heat is None:
        return call
    text = call.k.shape[2] if call.bias is None else call.bias.shape[1]
    fits = probe.ndim == 3 and probe.shape[0] == batch and (probe.shape[1] == text or call.bias is None)
    if not fits or not 1 <= probe.shape[1] <= text or not probe.is_floating_point() or probe.device != call.q.device:
        tokens = f"T <= {text}" if call.bias is None else f"T = {text}, as bias has"
        raise ValueError(f"probe is {_describe(probe)}; expected floats ({batch}, T, K), {tokens}, on {call.q.device}")
    dtype, shape = torch.promote_types(call.q.dtype, torch.float32), (batch, n, probe.shape[2])
    if heat.shape != shape or heat.dtype != dtype or heat.device != call.q.device:
        raise ValueError(f"heat is {_describe(heat)}; expected {dtype} {shape} on {call.q.device}")
    return call


def _describe(x: Tensor) -> str:
    return f"{x.dtype} {tuple(x.shape)} on {x.device}"
