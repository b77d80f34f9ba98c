"""How alike two pictures are: PSNR, and SSIM of Wang et al. 2004."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

LEAST_ERROR = 1 / 12  # mean square of what rounding to 8 bits changes: pictures that are equal are no more alike
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # of pictures in [0, 1]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two (H, W, 3) pictures in decibels, at most 58.9. ValueError for unequal shapes."""
    first, second = (_checked(picture, like) for picture, like in ((a, b), (b, a)))
    error = float(np.square(first.astype(np.float64) - second).mean())
    return 10 * math.log10(255**2 / max(error, LEAST_ERROR))


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Structural similarity of two (H, W, 3) pictures in [-1, 1], with Gaussian weights (equation 13): the mean over
    channels and over every window that lies wholly inside. ValueError for unequal shapes or sides below 11 pixels."""
    x, y = (_unit(_checked(picture, like)) for picture, like in ((a, b), (b, a)))
    if min(x.shape[2:]) < WINDOW:
        raise ValueError(f"the pictures are {a.shape[1]}x{a.shape[0]}; expected sides of at least {WINDOW} pixels")
    mean_x, mean_y = _weighted(x), _weighted(y)
    var_x, var_y = _weighted(x * x) - mean_x**2, _weighted(y * y) - mean_y**2
    covariance = _weighted(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return float((luminance * structure).mean())


def _checked(picture: NDArray[Any], like: NDArray[Any]) -> NDArray[np.uint8]:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape != like.shape:
        raise ValueError(f"a picture is {picture.dtype} {picture.shape}, the other {like.shape}; expected equal uint8")
    return picture


def _unit(picture: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) uint8 as (3, 1, H, W) float64 in [0, 1]."""
    return torch.from_numpy(picture.astype(np.float64) / 255).permute(2, 0, 1)[:, None]


def _weighted(x: Tensor) -> Tensor:
    """Means under a Gaussian window around each pixel where it fits, (3, 1, H - 10, W - 10)."""
    places = torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
