"""What one sampler step is given, and the checks of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydiff.arrays import Array, is_floating

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
THRESHOLDS = ("none", "static", "dynamic")


class Threshold(NamedTuple):
    """How the estimate of x0 is kept in range (Saharia et al. 2022, Imagen, section 2.3).

    kind: "none", "static" (clip to [-max_value, max_value]) or "dynamic" (s = the percentile-quantile of |D| over a
    picture, clamped to [1, max_value]; D becomes clip(D, -s, s) / s). percentile in [0, 1].
    """

    kind: str = "none"
    percentile: float = 0.995
    max_value: float = 1.0


class Step(NamedTuple):
    """One row of a step table:  x' = c_x x + c_denoised D + c_raw D_raw + c_previous D_previous + c_noise noise.

    alpha, sigma: the level of x, x = alpha x0 + sigma noise. D is the thresholded estimate of x0, D_raw the one before
    thresholding, D_previous the D of the previous evaluated row. log_variance (log min, log max): the noise is also
    multiplied by exp((f log max + (1 - f) log min) / 2), f = (v + 1) / 2, v the network's variance channels
    (Nichol and Dhariwal 2021, equation 15).
    """

    alpha: float
    sigma: float
    c_x: float
    c_denoised: float
    c_raw: float = 0.0
    c_previous: float = 0.0
    c_noise: float = 0.0
    log_variance: tuple[float, float] | None = None


class Paste(NamedTuple):
    """What a step puts back after it:  x' becomes mask x' + (1 - mask) (c_x0 x0 + c_noise noise).

    x0 (B or 1, C, H, W): the known picture. mask (B or 1, 1, H, W) in [0, 1], which is not checked: 1 where the step's
    x' stays, bit for bit, 0 where what is known replaces it, bit for bit; NaN on the other side does not get through.
    noise (B, C, H, W): needed where c_noise is not 0, and may be the step's own. c_x0, c_noise: the level that the step
    leads to (RePaint, Lugmayr et al. 2022, equation 8; blended diffusion, Avrahami et al. 2022), or 1 and 0 for the
    clean picture (Palette, Saharia et al. 2022).
    """

    x0: Array
    mask: Array
    c_x0: float = 1.0
    c_noise: float = 0.0
    noise: Array | None = None


class Call(NamedTuple):
    """The arguments of `guided_step`."""

    x: Array
    predictions: Array
    weights: Sequence[float]
    step: Step
    prediction_type: str
    threshold: Threshold
    previous: Array | None
    noise: Array | None
    paste: Paste | None
    rescale: float

    @property
    def arrays(self) -> tuple[Array | None, ...]:
        known = () if self.paste is None else (self.paste.x0, self.paste.mask, self.paste.noise)
        return self.x, self.predictions, self.previous, self.noise, *known


def prepare(call: Call) -> Call:
    """The checked call, without the arrays that its step does not read. Raises ValueError."""
    step = call.step
    if call.prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type is {call.prediction_type!r}; expected one of {', '.join(PREDICTION_TYPES)}")
    if not 0 <= call.rescale <= 1:
        raise ValueError(f"rescale is {call.rescale}; expected a number in [0, 1]")
    if call.prediction_type == "epsilon" and step.alpha == 0:
        raise ValueError("alpha is 0, where epsilon says nothing about x0; use v_prediction or start below pure noise")
    _check_threshold(call.threshold)
    call = call._replace(
        previous=call.previous if step.c_previous else None,
        noise=call.noise if step.c_noise else None,
        paste=call.paste if call.paste is None or call.paste.c_noise else call.paste._replace(noise=None),
    )
    _check_arrays(call)
    if call.paste is not None:
        _check_paste(call.paste, call.x)
    return call


def _check_arrays(call: Call) -> None:
    x, predictions, weights, step = call[:4]
    if x.ndim != 4 or not is_floating(x):
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}; expected floats (B, C, H, W)")
    batch, channels, *size = x.shape
    fits = [(len(weights), batch, k * channels, *size) for k in (1, 2)]
    if len(weights) == 0 or tuple(predictions.shape) not in fits or not is_floating(predictions):
        raise ValueError(
            f"predictions are {predictions.dtype} {tuple(predictions.shape)} for {len(weights)} weights and x "
            f"{tuple(x.shape)}; expected floats {fits[0]}, or {fits[1]} with variance channels"
        )
    for name, array, needed in (("previous", call.previous, step.c_previous), ("noise", call.noise, step.c_noise)):
        if needed and (array is None or array.shape != x.shape or not is_floating(array)):
            came = "None" if array is None else f"{array.dtype} {tuple(array.shape)}"
            raise ValueError(f"{name} is {came} though c_{name} is {needed}; expected floats {tuple(x.shape)}")
    if call.noise is not None and step.log_variance is not None and predictions.shape[2] != 2 * channels:
        raise ValueError(
            f"the step learns its variance, but the predictions have {predictions.shape[2]} channels; "
            f"expected {2 * channels}: {channels} of the prediction and {channels} of the variance"
        )


def _check_paste(paste: Paste, x: Array) -> None:
    batch, channels, *size = x.shape
    fields: dict[str, tuple[Array | None, tuple[tuple[int, ...], ...]]] = {
        "x0": (paste.x0, ((batch, channels, *size), (1, channels, *size))),
        "mask": (paste.mask, ((batch, 1, *size), (1, 1, *size))),
    }
    if paste.c_noise:
        fields["noise"] = paste.noise, ((batch, channels, *size),)
    for name, (array, shapes) in fields.items():
        if array is None or array.shape not in shapes or not is_floating(array) or array.device != x.device:
            came = "None" if array is None else f"{array.dtype} {tuple(array.shape)} on {array.device}"
            why = f" though paste.c_noise is {paste.c_noise}" if name == "noise" else ""
            fits = " or ".join(map(str, dict.fromkeys(shapes)))
            raise ValueError(f"paste.{name} is {came}{why}; expected floats {fits} on {x.device}")


def _check_threshold(threshold: Threshold) -> None:
    if threshold.kind not in THRESHOLDS:
        raise ValueError(f"threshold.kind is {threshold.kind!r}; expected one of {', '.join(THRESHOLDS)}")
    if threshold.kind == "dynamic" and not (0 <= threshold.percentile <= 1 and threshold.max_value >= 1):
        raise ValueError(
            f"dynamic threshold has percentile {threshold.percentile} and max_value {threshold.max_value}; "
            "expected a percentile in [0, 1] and a max_value of at least 1"
        )
    if threshold.kind == "static" and not threshold.max_value > 0:
        raise ValueError(f"static threshold has max_value {threshold.max_value}; expected a positive number")
