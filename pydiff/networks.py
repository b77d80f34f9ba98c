"""What the host code asks of a stage's networks: torch's modules answer it, and the graphs of an exported model."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, cast, runtime_checkable

from pydiff.arrays import Array, is_torch
from pydiff.models.autoencoder_config import AutoencoderConfig
from pydiff.models.unet2d_config import UNet2DConfig
from pydiff.models.unet_config import UNetConfig
from pydiff.nn.cond import Cond


class UnexportedError(ValueError):
    """What torch runs and exported graphs do not; raised before any work."""


class Denoiser(Protocol):
    """The network of a stage, evaluated at every step."""

    @property
    def config(self) -> UNetConfig | UNet2DConfig: ...

    @property
    def like(self) -> Array:
        """One of its arrays: of the kind and type that its inputs are made in, where they are made."""

    @property
    def reads_text(self) -> bool: ...

    @property
    def attention(self) -> Mapping[str, str]:
        """What each layer of attention attends to, by its name, in the order of the network: "pixels", "text", or
        "text and pixels" in one softmax."""

    @property
    def residual_layers(self) -> Sequence[str]:
        """The names of the residual blocks, in the order of the network."""

    def prepare(self, cond: Cond) -> Any:
        """Once for all steps: what a call takes in place of the conditioning, a NamedTuple whose field `edit` a run
        replaces. Raises ValueError for a Cond that the network cannot use."""

    def __call__(self, x: Array, t: Array, prepared: Any, /) -> Array:
        """x (B, C_in, H, W), t () the training step -> the prediction (B, C_out, H, W) in x's type."""


@runtime_checkable
class Foreseeing(Protocol):
    """A Denoiser that computes what depends on t, and not on x or edits, for all steps of a run before the first."""

    def foreseen(self, prepared: Any, times: Sequence[float], /) -> Any:
        """What `prepare` made, for calls at these t."""


def foresees(network: object) -> TypeGuard[Foreseeing]:
    """Whether a network is Foreseeing by its class: what only passes calls on may take other arguments."""
    return _foresees(cast(Any, type(network)))


@functools.cache
def _foresees(kind: type) -> bool:
    return issubclass(kind, Foreseeing)


class Codec(Protocol):
    """The autoencoder of a stage that walks through latents."""

    @property
    def config(self) -> AutoencoderConfig: ...

    @property
    def factor(self) -> int:
        """Pixels to a side of one element of the latents."""

    @property
    def like(self) -> Array:
        """One of its arrays: of the kind and type that its inputs are made in, where they are made."""

    def encode(self, image: Array, noise: Array | None = None, *, tiling: bool = False, slicing: bool = False) -> Array:
        """Latents (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1], not scaled: their posterior's mean, or a draw from
        it with noise (B, C, h, w). Raises ValueError for other shapes."""

    def decode(self, z: Array, *, tiling: bool = False, slicing: bool = False) -> Array:
        """Pictures (B, 3, H, W) in about [-1, 1] of latents (B, C, h, w), not scaled. Raises ValueError for other
        shapes."""

    def scaled(self, z: Array) -> Array:
        """Latents of about unit variance, as the network of the stage is trained on them."""

    def unscaled(self, x: Array) -> Array:
        """The inverse of `scaled`."""


def laid_out(x: Array, network: Denoiser) -> Array:
    """x (B, C, H, W) in the layout that the network is fastest in."""
    if not is_torch(x) or foresees(network):  # which copies x to its own place
        return x
    import torch

    return x.contiguous(memory_format=torch.channels_last)
