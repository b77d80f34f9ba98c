"""The autoencoder of latent diffusion: pictures to latents and back, eight times smaller in Stable Diffusion.

    image -> encoder -> quant_conv -> mean, logvar of the latents         latents -> post_quant_conv -> decoder -> image

Modules carry the names of the checkpoint's keys (diffusers' AutoencoderKL), so state dicts load without a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pydiff.models.autoencoder_config import AutoencoderConfig
from pydiff.models.coding import Coding
from pydiff.nn.activations import norm_act
from pydiff.nn.attention import PixelSpec
from pydiff.nn.blocks import BlockSpec, MidBlock
from pydiff.nn.cond import UNCONDITIONED
from pydiff.nn.resnet import Downsample, ResnetBlock, ResnetSpec, Upsample

__all__ = ["Autoencoder", "AutoencoderConfig"]

_EPS = 1e-6  # of every norm


class Autoencoder(Coding, nn.Module):
    """The same by torch, in the type of the weights."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.use_post_quant_conv else None

    @property
    def like(self) -> Tensor:
        """One of its weights."""
        return self.decoder.conv_in.weight

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, in which the network computes."""
        return self.like.dtype

    @property
    def needs_upcast(self) -> bool:
        """Whether activations may overflow: the weights are float16 and the config says force_upcast.

        The caller then runs the network in float32: `autoencoder.float()`, or better, weights loaded as float32, which
        lose nothing on the way. Nothing is converted here; pictures and latents of any float type are taken.
        """
        return self.config.force_upcast and self.dtype == torch.float16

    def _moments(self, image: Tensor) -> Tensor:
        moments: Tensor = self.encoder(image)
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def _picture(self, latents: Tensor) -> Tensor:
        picture: Tensor = self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))
        return picture


class Encoder(nn.Module):
    """(B, C_in, H, W) -> (B, 2 C, H / factor, W / factor)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, last, resnet = config.block_out_channels, config.levels - 1, _resnet(config)
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            EncoderBlock(channels[max(level - 1, 0)], count, config.layers_per_block, resnet, down=level < last)
            for level, count in enumerate(channels)
        )
        self.mid_block = MidBlock(_mid_spec(config))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for down in self.down_blocks:
            h = down(h)
        h = self.mid_block(h, None, UNCONDITIONED)
        out: Tensor = self.conv_out(norm_act(self.conv_norm_out, h, "silu"))
        return out


class Decoder(nn.Module):
    """(B, C, h, w) -> (B, C_out, factor h, factor w)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, last, resnet = config.block_out_channels[::-1], config.levels - 1, _resnet(config)
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock(_mid_spec(config))
        self.up_blocks = nn.ModuleList(
            DecoderBlock(channels[max(index - 1, 0)], count, config.layers_per_block + 1, resnet, up=index < last)
            for index, count in enumerate(channels)
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(channels[-1], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mid_block(self.conv_in(x), None, UNCONDITIONED)
        for up in self.up_blocks:
            h = up(h)
        out: Tensor = self.conv_out(norm_act(self.conv_norm_out, h, "silu"))
        return out


class EncoderBlock(nn.Module):
    """Residual blocks, then half the size where `down`: (B, C, H, W) -> (B, C', H / 2, W / 2)."""

    def __init__(self, in_channels: int, channels: int, layers: int, resnet: ResnetSpec, down: bool) -> None:
        super().__init__()
        self.resnets = _resnets(in_channels, channels, layers, resnet)
        self.downsamplers = nn.ModuleList([Downsample(channels, padding=0)] if down else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class DecoderBlock(nn.Module):
    """Residual blocks, then twice the size where `up`: (B, C, H, W) -> (B, C', 2 H, 2 W)."""

    def __init__(self, in_channels: int, channels: int, layers: int, resnet: ResnetSpec, up: bool) -> None:
        super().__init__()
        self.resnets = _resnets(in_channels, channels, layers, resnet)
        self.upsamplers = nn.ModuleList([Upsample(channels)] if up else [])

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        for upsampler in self.upsamplers:
            x = upsampler(x, (2 * x.shape[2], 2 * x.shape[3]))
        return x


def _resnet(config: AutoencoderConfig) -> ResnetSpec:
    return ResnetSpec(embed_dim=None, groups=config.norm_num_groups, eps=_EPS, act=config.act_fn)


def _mid_spec(config: AutoencoderConfig) -> BlockSpec:
    channels, attention = config.block_out_channels[-1], PixelSpec(heads=1, groups=config.norm_num_groups, eps=_EPS)
    return BlockSpec(
        in_channels=channels,
        out_channels=channels,
        layers=2,
        resnet=_resnet(config),
        attention=attention if config.mid_block_add_attention else None,
    )


def _resnets(in_channels: int, channels: int, layers: int, spec: ResnetSpec) -> nn.ModuleList:
    ins = [in_channels] + [channels] * (layers - 1)
    return nn.ModuleList(ResnetBlock(count, channels, spec) for count in ins)
