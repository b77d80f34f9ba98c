"""What an autoencoder does around its two networks, whatever runs them: posterior, scaling, slices and tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pydiff.arrays import Array, cast, is_floating, like, namespace
from pydiff.models.autoencoder_config import AutoencoderConfig
from pydiff.models.tiling import tiled

_LOGVAR = (-30.0, 20.0)


class Coding(ABC):
    """Pictures (B, C_in, H, W) in [-1, 1] to latents (B, C, H / factor, W / factor) and back.

    Kingma and Welling 2014; Rombach et al. 2022, section 3.1 and appendix G. A diffusion network works on
    `scaled(encode(image))`, and what it makes is seen as `decode(unscaled(z))`.
    """

    config: AutoencoderConfig

    @property
    @abstractmethod
    def like(self) -> Array:
        """One of its arrays: of the kind and type that it computes in, where it computes."""

    @abstractmethod
    def _moments(self, image: Array) -> Array:
        """Mean and logvar of the latents, (B, 2 C, h, w)."""

    @abstractmethod
    def _picture(self, latents: Array) -> Array:
        """(B, C_out, H, W)."""

    @property
    def factor(self) -> int:
        """Pixels per latent, along each edge."""
        return self.config.factor

    def encode(self, image: Array, noise: Array | None = None, *, tiling: bool = False, slicing: bool = False) -> Array:
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
        if noise is not None and (tuple(noise.shape) != shape or not is_floating(noise)):
            raise ValueError(f"noise is {noise.dtype} {tuple(noise.shape)}; expected floats {shape}, one per latent")
        moments = self._run(self._moments, image, self._overlaps() if tiling else None, slicing)
        mean, logvar = moments[:, : shape[1]], moments[:, shape[1] :]
        if noise is not None:
            xp = namespace(mean)
            mean = mean + xp.exp(xp.clip(logvar, *_LOGVAR) / 2) * like(noise, mean)
        return cast(mean, image.dtype)

    def decode(self, latents: Array, *, tiling: bool = False, slicing: bool = False) -> Array:
        """Pictures (B, C_out, H, W) of unscaled latents (B, C, h, w), in about [-1, 1], not clamped.

        tiling, slicing and dtypes as in `encode`. Raises ValueError for other shapes or numbers, and for tiling as
        `encode` does.
        """
        _check("latents", latents, self.config.latent_channels)
        overlaps = self._overlaps()[::-1] if tiling else None
        return cast(self._run(self._picture, latents, overlaps, slicing), latents.dtype)

    def scaled(self, latents: Array) -> Array:
        """Latents (B, C, h, w) of `encode` with the variance that a diffusion network expects, about 1.

        (z - mean) scaling_factor / std, where mean is latents_mean, shift_factor or 0, and std latents_std or 1
        (Rombach et al. 2022, appendix D.1). Raises ValueError for other shapes or numbers.
        """
        _check("latents", latents, self.config.latent_channels)
        mean, std = self._statistics(latents)
        return (latents - mean) * self.config.scaling_factor / std

    def unscaled(self, latents: Array) -> Array:
        """The inverse of `scaled`: what `decode` takes, of what a diffusion network made."""
        _check("latents", latents, self.config.latent_channels)
        mean, std = self._statistics(latents)
        return latents * std / self.config.scaling_factor + mean

    def _run(
        self, network: Callable[[Array], Array], x: Array, overlaps: tuple[int, int] | None, slicing: bool
    ) -> Array:
        """network(x) in the weights' dtype; in tiles where overlaps are given, in single pictures where slicing."""
        run = network if overlaps is None else partial(tiled, network, overlap=overlaps[0], overlap_out=overlaps[1])
        x = cast(x, self.like.dtype)
        if not slicing:
            return run(x)
        whole: Array = namespace(x).concat([run(x[row : row + 1]) for row in range(len(x))])
        return whole

    def _overlaps(self) -> tuple[int, int]:
        """What two tiles share, a quarter of their edge: in pixels, in latents."""
        edge, factor = self.config.tile_size, self.factor
        if edge % (4 * factor):
            raise ValueError(
                f"tiling needs a sample_size that {4 * factor} divides, since tiles overlap by a quarter of it; the "
                f"config says {edge}: leave tiling off"
            )
        return edge // 4, edge // (4 * factor)

    def _statistics(self, latents: Array) -> Any:
        """Mean and standard deviation of the latents: numbers, or arrays (C, 1, 1) like them."""
        config = self.config
        if config.latents_mean is None or config.latents_std is None:
            return config.shift_factor or 0.0, 1.0
        return like(np.array([config.latents_mean, config.latents_std])[..., None, None], latents)


def _check(name: str, x: Array, channels: int, factor: int = 1) -> None:
    """Raise ValueError unless x is floats (B, channels, H, W), and factor divides H and W."""
    if x.ndim != 4 or x.shape[1] != channels or not is_floating(x) or 0 in x.shape:
        raise ValueError(f"{name} is {x.dtype} {tuple(x.shape)}; expected floats (B, {channels}, H, W), none of them 0")
    height, width = x.shape[2:]
    if height % factor or width % factor:
        raise ValueError(
            f"{name} has {height}x{width} pixels; expected a height and width that {factor} divides: crop or resize it"
        )
