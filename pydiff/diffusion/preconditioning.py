"""EDM's preconditioning, around a network that was trained with it (Karras et al. 2022, equation 7)."""

from __future__ import annotations

import math

from pydiff.arrays import Array
from pydiff.diffusion.loop import Predict


def edm_denoiser(network: Predict, sigma_data: float = 0.5) -> Predict:
    """The denoiser D = c_skip x + c_out F of such a network F, whose prediction_type is "sample".

    For step tables of an EDMSchedule of this sigma_data: their rows give the network c_in x and t = ln(sigma) / 4.
    """

    def predict(x: Array, t: float, branches: tuple[int, ...], /) -> Array:
        sigma = math.exp(4 * t)
        size = math.hypot(sigma, sigma_data)
        return sigma_data**2 / size * x + sigma * sigma_data / size * network(x, t, branches)

    return predict
