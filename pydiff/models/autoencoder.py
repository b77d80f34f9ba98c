"""The autoencoder of latent diffusion: pictures to latents and back, eight times smaller in Stable Diffusion.

    image -> encoder -> quant_conv -> mean, logvar of the latents         latents -> post_quant_conv -> decoder -> image

Modules carry the names of the checkpoint's keys (diffusers' AutoencoderKL), so state dicts load without a map.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pydiff.models.autoencoder_config import AutoencoderConfig
from pydiff.models.tiling import tiled
from pydiff.nn.activations import norm_act
from pydiff.nn.attention import PixelSpec
from pydiff.nn.blocks import BlockSpec, MidBlock
from pydiff.nn.cond import UNCONDITIONED
from pydiff.nn.resnet import Downsample, ResnetBlock, ResnetSpec, Upsample

__all__ = ["Autoencoder", "AutoencoderConfig"]

_EPS = 1e-6  # of every norm
_LOGVAR = (-30.0, 20.0)


class Autoencoder(nn.Module):
    """Pictures (B, C_in, H, W) in [-1, 1] to latents (B, C, H / factor, W / factor) and back.

    Kingma and Welling 2014; Rombach et al. 2022, section 3.1 and appendix G. A diffusion network works on
    `scaled(encode(image))`, and what it makes is seen as `decode(unscaled(z))`.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.use_post_quant_conv else None

    @property
    def factor(self) -> int:
        """Pixels per latent, along each edge."""
        return self.config.factor

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, in which the network computes."""
        return self.decoder.conv_in.weight.dtype

    @property
    def needs_upcast(self) -> bool:
        """Whether activations may overflow: the weights are float16 and the config says force_upcast.

        The caller then runs the network in float32: `autoencoder.float()`, or better, weights loaded as float32, which
        lose nothing on the way. Nothing is converted here; pictures and latents of any float type are taken.
        """
        return self.config.force_upcast and self.dtype == torch.float16

    def encode(
        self, image: Tensor, noise: Tensor | None = None, *, tiling: bool = False, slicing: bool = False
    ) -> Tensor:
        """Latents (B, C, h, w) of image (B, C_in, H, W) in [-1, 1], not scaled: the mean of q(z | image), or a sample.

        noise: standard normal (B, C, h, w); the latents are then mean + std noise. tiling: where H or W exceeds the
        config's sample_size, work on tiles of that size and blend them; norms see one tile at a time, so colours may
        drift between tiles. slicing: one picture at a time, with the same result in less memory. Computes in the
        weights' dtype, returns image's. Raises ValueError for other shapes or numbers, H or W that `factor` does not
        divide, and tiling with a sample_size that 4 factor does not divide.
        """
        config, factor = self.config, self.factor
        _check("image", image, config.in_channels, factor)
        shape = (image.shape[0], config.latent_channels, image.shape[2] // factor, image.shape[3] // factor)
        if noise is not None and (tuple(noise.shape) != shape or not noise.is_floating_point()):
            raise ValueError(f"noise is {noise.dtype} {tuple(noise.shape)}; expected floats {shape}, one per latent")
        moments = self._run(self._moments, image, self._overlaps() if tiling else None, slicing)
        mean, logvar = moments.chunk(2, dim=1)
        if noise is not None:
            mean = mean + torch.exp(logvar.clamp(*_LOGVAR) / 2) * noise.to(mean)
        return mean.to(image.dtype)

    def decode(self, latents: Tensor, *, tiling: bool = False, slicing: bool = False) -> Tensor:
        """Pictures (B, C_out, H, W) of unscaled latents (B, C, h, w), in about [-1, 1], not clamped.

        tiling, slicing and dtypes as in `encode`. Raises ValueError for other shapes or numbers, and for tiling as
        `encode` does.
        """
        _check("latents", latents, self.config.latent_channels)
        overlaps = self._overlaps()[::-1] if tiling else None
        return self._run(self._picture, latents, overlaps, slicing).to(latents.dtype)

    def scaled(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) of `encode` with the variance that a diffusion network expects, about 1.

        (z - mean) scaling_factor / std, where mean is latents_mean, shift_factor or 0, and std latents_std or 1
        (Rombach et al. 2022, appendix D.1). Raises ValueError for other shapes or numbers.
        """
        _check("latents", latents, self.config.latent_channels)
        mean, std = self._statistics(latents)
        return (latents - mean) * self.config.scaling_factor / std

    def unscaled(self, latents: Tensor) -> Tensor:
        """The inverse of `scaled`: what `decode` takes, of what a diffusion network made."""
        _check("latents", latents, self.config.latent_channels)
        mean, std = self._statistics(latents)
        return latents * std / self.config.scaling_factor + mean

    def _moments(self, image: Tensor) -> Tensor:
        """Mean and logvar of the latents, (B, 2 C, h, w)."""
        moments: Tensor = self.encoder(image)
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def _picture(self, latents: Tensor) -> Tensor:
        picture: Tensor = self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))
        return picture

    def _run(
        self, network: Callable[[Tensor], Tensor], x: Tensor, overlaps: tuple[int, int] | None, slicing: bool
    ) -> Tensor:
        """network(x) in the weights' dtype; in tiles where overlaps are given, in single pictures where slicing."""
        run = network if overlaps is None else partial(tiled, network, overlap=overlaps[0], overlap_out=overlaps[1])
        x = x.to(self.dtype)
        return torch.cat([run(one) for one in x.split(1)]) if slicing else run(x)

    def _overlaps(self) -> tuple[int, int]:
        """What two tiles share, a quarter of their edge: in pixels, in latents."""
        edge, factor = self.config.tile_size, self.factor
        if edge % (4 * factor):
            raise ValueError(
                f"tiling needs a sample_size that {4 * factor} divides, since tiles overlap by a quarter of it; the "
                f"config says {edge}: leave tiling off"
            )
        return edge // 4, edge // (4 * factor)

    def _statistics(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Mean and standard deviation of the latents: numbers, or (C, 1, 1) tensors."""
        config = self.config
        if config.latents_mean is None or config.latents_std is None:
            return config.shift_factor or 0.0, 1.0
        mean, std = torch.tensor([config.latents_mean, config.latents_std], dtype=torch.float64).to(like)
        return mean[:, None, None], std[:, None, None]


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


def _check(name: str, x: Tensor, channels: int, factor: int = 1) -> None:
    """Raise ValueError unless x is floats (B, channels, H, W), and factor divides H and W."""
    if x.ndim != 4 or x.shape[1] != channels or not x.is_floating_point() or x.numel() == 0:
        raise ValueError(f"{name} is {x.dtype} {tuple(x.shape)}; expected floats (B, {channels}, H, W), none of them 0")
    height, width = x.shape[2:]
    if height % factor or width % factor:
        raise ValueError(
            f"{name} has {height}x{width} pixels; expected a height and width that {factor} divides: crop or resize it"
        )
