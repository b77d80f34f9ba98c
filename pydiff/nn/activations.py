"""Activations by the names that checkpoints use."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from pydiff.ops.group_norm_silu import group_norm_silu

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "mish": F.mish,
    "relu": F.relu,
}


def norm_act(
    norm: nn.GroupNorm, x: Tensor, act: str | None, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """act(norm(x) (1 + scale) + shift) of x (B, C, H, W) or (B, C, N); scale, shift (B, C) or None; act may be None."""
    fused = act is not None and ACTIVATIONS[act] is F.silu
    h = group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps, scale=scale, shift=shift, silu=fused)
    return h if act is None or fused else ACTIVATIONS[act](h)
