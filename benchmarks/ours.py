"""pydiff's own networks, as benchmarks call them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from pydiff.models.autoencoder import Autoencoder
from pydiff.models.unet import UNet
from pydiff.nn.cond import Cond
from pydiff.runtime.fastest import fastest, fastest_codec

TYPES = (torch.float32, torch.bfloat16)
Network = TypeVar("Network", bound=nn.Module)


def contenders(unet: UNet, x: Tensor, t: Tensor, cond: Cond) -> dict[str, Callable[[], Tensor]]:
    """One call of the network, by every way that pydiff has to run it; names end in the type it computes in.

    unet and x are float32; the network is left as it is."""
    made: dict[str, Callable[[], Tensor]] = {}
    for dtype in TYPES:
        network = cast_copy(unet, dtype, torch.channels_last)
        laid = x.to(dtype).contiguous(memory_format=torch.channels_last)
        made[f"pydiff, {str(dtype).removeprefix('torch.')}"] = partial(fastest(network), laid, t, network.prepare(cond))
    return made


def in_int8(unet: UNet, x: Tensor, t: Tensor, cond: Cond) -> Callable[[], Tensor]:
    """One call in bfloat16 with products of bytes, an approximation. ValueError where there are none."""
    network = cast_copy(unet, torch.bfloat16, torch.channels_last)
    laid = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    return partial(fastest(network, int8=True), laid, t, network.prepare(cond))


def decoders(codec: Autoencoder, latents: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Latents to pictures, likewise."""
    made: dict[str, Callable[[], Tensor]] = {}
    for dtype in TYPES:
        network = cast_copy(codec, dtype, torch.channels_last)
        laid = latents.to(dtype).contiguous(memory_format=torch.channels_last)
        made[f"pydiff, {str(dtype).removeprefix('torch.')}"] = partial(fastest_codec(network).decode, laid)
    return made


def cast_copy(network: Network, dtype: torch.dtype, layout: torch.memory_format) -> Network:
    """The network with other weights' type and layout; weights that need no change are shared."""
    memo: dict[int, Tensor] = {}
    for value in (*network.parameters(), *network.buffers()):
        moved = value.detach().to(dtype if value.is_floating_point() else value.dtype)
        if value.ndim == 4:
            moved = moved.contiguous(memory_format=layout)
        memo[id(value)] = nn.Parameter(moved, requires_grad=False) if isinstance(value, nn.Parameter) else moved
    return copy.deepcopy(network, memo)
