"""Weights as the core's products read them: panels of 64 columns, in bfloat16 pairs of rows together, in int8 fours."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pydiff.runtime.planned.memory import reserved

PANEL, VECTOR = 64, 16
POINTS = 16  # of Winograd's F(2x2, 3x3)


BYTES, LARGEST = 4, 127  # numbers of a column that int8 products take at once, and the largest that stands for one


class Packed(NamedTuple):
    """weights, packed; bias (outputs,) float32; outputs: columns that count; depth: numbers read per tap. Of int8
    weights also what a column's numbers are multiplied by, float32, and -128 times its sum, int32; in a convolution by
    Winograd of every point."""

    weights: Tensor
    bias: Tensor | None
    outputs: int
    depth: int
    scales: Tensor | None = None
    offsets: Tensor | None = None


def pack(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """(outputs, inner), inner even in bfloat16 -> panel by panel (inner, 64), the last one as wide as it needs, or in
    bfloat16 (inner / 2, 64, 2), in int8 (inner / 4, 64, 4)."""
    padded = F.pad(matrix.to(dtype), (0, 0, 0, -len(matrix) % VECTOR))
    packed = reserved(padded.numel() * dtype.itemsize).view(dtype)
    _pack_into(packed, padded)
    return packed


def _pack_into(packed: Tensor, padded: Tensor) -> None:
    inner = padded.shape[1]
    whole = len(padded) // PANEL * PANEL
    _fill(packed[: whole * inner], padded[:whole], PANEL)
    _fill(packed[whole * inner :], padded[whole:], len(padded) - whole)


def _fill(packed: Tensor, rows: Tensor, width: int) -> None:
    """Panels of so many columns."""
    if not len(rows):
        return
    inner = rows.shape[1]
    together = {torch.bfloat16: 2, torch.int8: BYTES}.get(rows.dtype, 1)
    packed.view(-1, inner // together, width, together).copy_(
        rows.view(-1, width, inner // together, together).transpose(1, 2)
    )


def to_bytes(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(outputs, inner) as int8, the scales of its rows (outputs + padding,) and what is added to their sums."""
    matrix = F.pad(matrix.float(), (0, 0, 0, -len(matrix) % VECTOR))
    scales = matrix.abs().amax(1) / LARGEST
    made = (matrix / scales.clamp(min=torch.finfo().tiny)[:, None]).round_().to(torch.int8)
    return made, scales, -(LARGEST + 1) * made.sum(1, dtype=torch.int32)


def _pack_points(g: Tensor, columns: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """columns = G g (4, 3, O, C): the 16 matrices of G g G^T, packed one after the other; in int8 with their scales
    and offsets."""
    outputs, inner = columns.shape[2:]
    padded = outputs + -outputs % VECTOR
    packed = reserved(POINTS * padded * inner * dtype.itemsize).view(dtype)
    scales, offsets = torch.empty(POINTS, padded), torch.empty(POINTS, padded, dtype=torch.int32)
    for point, place in enumerate(packed.view(POINTS, -1)):
        matrix = torch.tensordot(g[point % 4], columns[point // 4], 1)
        if dtype == torch.int8:
            matrix, scales[point], offsets[point] = to_bytes(matrix)
        _pack_into(place, F.pad(matrix.to(dtype), (0, 0, 0, padded - len(matrix))))
    return (packed, scales, offsets) if dtype == torch.int8 else (packed, None, None)


def _bias(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().float().contiguous()


class Weights:
    """The packed weights of one network, each made when it is first asked for, and kept. int8: as bytes, but for those
    of `taps` and `exact` ones."""

    def __init__(self, dtype: torch.dtype, int8: bool = False) -> None:
        self.dtype, self.int8 = dtype, int8
        self.made: dict[tuple[object, ...], Packed] = {}

    def linear(self, *layers: nn.Linear | nn.Conv2d, exact: bool = False) -> Packed:
        """Layers over the same input, their outputs one after the other."""
        key = ("linear", exact, *layers)
        if key not in self.made:
            matrix = torch.cat([layer.weight.detach().flatten(1) for layer in layers])
            biases = [torch.zeros(len(one.weight)) if one.bias is None else one.bias.float() for one in layers]
            bias = None if all(layer.bias is None for layer in layers) else torch.cat(biases)
            self.made[key] = self._packed(matrix, bias, matrix.shape[1], exact)
        return self.made[key]

    def gated(self, layer: nn.Linear) -> Packed:
        """A layer whose second half of outputs gates the first: 32 columns of one, then their 32 gates."""
        key = ("gated", layer)
        if key not in self.made:
            half = len(layer.weight) // 2
            order = torch.arange(2 * half).view(2, half // (PANEL // 2), PANEL // 2).transpose(0, 1).flatten()
            bias = None if layer.bias is None else layer.bias[order]
            self.made[key] = self._packed(layer.weight.detach()[order], bias, layer.in_features)
        return self.made[key]

    def taps(self, conv: nn.Conv2d, depth: int) -> Packed:
        """A convolution, tap by tap over `depth` channels, of which those that the convolution lacks are zeros."""
        key = ("taps", conv, depth)
        if key not in self.made:
            weight = F.pad(conv.weight.detach().permute(0, 2, 3, 1), (0, depth - conv.in_channels))  # (O, kh, kw, C)
            self.made[key] = self._packed(weight.flatten(1), conv.bias, depth, exact=True)
        return self.made[key]

    def points(self, conv: nn.Conv2d) -> Packed:
        """A 3x3 convolution as G g G^T (Lavin and Gray 2016, equation 8): 16 matrices."""
        key = ("points", conv)
        if key not in self.made:
            g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
            weight = conv.weight.detach().float()
            columns = torch.tensordot(g, weight.permute(2, 3, 0, 1), 1)  # (4, 3, O, C)
            packed, *scales = _pack_points(g, columns, torch.int8 if self.int8 else self.dtype)
            self.made[key] = Packed(packed, _bias(conv.bias), *weight.shape[:2], *scales)
        return self.made[key]

    def norm(self, norm: nn.GroupNorm | nn.LayerNorm) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias in float32."""
        key = ("norm", norm)
        if key not in self.made:
            weight, bias = _bias(norm.weight), _bias(norm.bias)
            self.made[key] = Packed(torch.empty(0) if weight is None else weight, bias, 0, 0)
        made = self.made[key]
        return (made.weights if len(made.weights) else None), made.bias

    def _packed(self, matrix: Tensor, bias: Tensor | None, depth: int, exact: bool = False) -> Packed:
        if self.int8 and not exact and depth % BYTES == 0:
            made, scales, offsets = to_bytes(matrix)
            return Packed(pack(made, torch.int8), _bias(bias), len(matrix), depth, scales, offsets)
        return Packed(pack(matrix, self.dtype), _bias(bias), len(matrix), depth)


def fits_gate(layer: nn.Linear) -> bool:
    """Whether `Weights.gated` can pack it."""
    return layer.out_features % PANEL == 0
