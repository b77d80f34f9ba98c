"""GroupNorm, an optional scale and shift, and SiLU, in one operator: the head of every residual block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pydiff.ops import native


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float = 1e-5,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """Normalise x over groups of channels (Wu and He 2018), then h (1 + scale) + shift, then h sigmoid(h).

    x (B, C, H, W), contiguous or channels_last, or (B, C, N); weight, bias (C,) or None; scale, shift (B, C) or None.
    Returns a new tensor of x's shape, dtype and memory format. Raises ValueError when shapes do not fit.
    """
    _check(x, groups, weight, bias, scale, shift)
    module = None if torch.compiler.is_compiling() else native.serves(x, weight, bias, scale, shift)
    if module is None or x.dtype != torch.float32 or not x.is_cpu or x.numel() == 0:
        return _reference(x, groups, weight, bias, eps, scale, shift, silu)
    last = not x.is_contiguous() and x.movedim(1, -1).is_contiguous()
    if not last and not x.is_contiguous():
        return _reference(x, groups, weight, bias, eps, scale, shift, silu)
    batch, channels = x.shape[:2]
    given = [None if t is None else t.float().contiguous() for t in (weight, bias, scale, shift)]
    out = torch.empty_like(x)
    module.group_norm_silu(
        *map(native.address, (x, *given, out)),
        *(batch, channels, x.numel() // (batch * channels), groups),
        *(eps, silu, last, torch.get_num_threads()),
    )
    return out


def group_norm_silu_reference(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float = 1e-5,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """What `group_norm_silu` means, in plain torch operators: any device, any float type, differentiable."""
    _check(x, groups, weight, bias, scale, shift)
    return _reference(x, groups, weight, bias, eps, scale, shift, silu)


def _reference(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> Tensor:
    h = torch.group_norm(x, groups, weight, bias, eps)  # unlike F.group_norm, takes a group of one value
    per_picture = (*x.shape[:2], *(1,) * (x.ndim - 2))
    if scale is not None:
        h = h * (1 + scale.view(per_picture))
    if shift is not None:
        h = h + shift.view(per_picture)
    return F.silu(h) if silu else h


def _check(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> None:
    if x.ndim not in (3, 4) or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}; expected floats (B, C, H, W) or (B, C, N)")
    batch, channels = x.shape[:2]
    if groups < 1 or channels % groups:
        raise ValueError(f"groups is {groups} for {channels} channels; expected a positive divisor of {channels}")
    for name, tensor, shape in (
        ("weight", weight, (channels,)),
        ("bias", bias, (channels,)),
        ("scale", scale, (batch, channels)),
        ("shift", shift, (batch, channels)),
    ):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
