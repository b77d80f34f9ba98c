"""Denoisers around a module: what they do not run otherwise is the module's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pydiff.models.unet import UNet
from pydiff.models.unet2d import UNet2D
from pydiff.models.unet2d_config import UNet2DConfig
from pydiff.models.unet_config import UNetConfig
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.layer import Layer


class Around(nn.Module):
    """See `pydiff.networks.Denoiser`: all that is asked of one but the calls."""

    def __init__(self, module: UNet | UNet2D | Around) -> None:
        super().__init__()
        self.module: Any = module

    @property
    def config(self) -> UNetConfig | UNet2DConfig:
        return self.module.config

    @property
    def like(self) -> Tensor:
        return self.module.like

    @property
    def reads_text(self) -> bool:
        return self.module.reads_text

    @property
    def attention(self) -> Mapping[str, str]:
        return self.module.attention

    @property
    def residual_layers(self) -> Sequence[str]:
        return self.module.residual_layers

    @property
    def layers(self) -> Mapping[str, Layer]:
        return self.module.layers

    def prepare(self, cond: Cond) -> Prepared:
        return self.module.prepare(cond)

    def check(self, x: Tensor, t: Tensor, prepared: Prepared) -> None:
        """Raises ValueError unless a call can take them."""
        self.module.check(x, t, prepared)
