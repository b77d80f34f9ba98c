"""One step of any sampler: guidance, the estimate of x0, thresholding, and the step row, in one operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from pydiff.ops import native

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


def guided_step(
    x: Tensor,
    predictions: Tensor,
    weights: Sequence[float],
    step: Step,
    *,
    prediction_type: str = "epsilon",
    threshold: Threshold = Threshold(),
    previous: Tensor | None = None,
    noise: Tensor | None = None,
    rescale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Take one sampler step; returns (x_next, denoised), new tensors (B, C, H, W) in x's dtype.

    x (B, C, H, W). predictions (R, B, C, H, W), or (R, B, 2C, H, W) whose second half are variance channels, of which
    branch 0's are used. weights: R floats, guided = sum_r weights[r] predictions[r]. prediction_type: "epsilon",
    "v_prediction" (Salimans and Ho 2022) or "sample". previous, noise (B, C, H, W): needed where their coefficient is
    not 0. rescale: phi in [0, 1] of guidance rescaling (Lin et al. 2023, section 3.4), towards the standard deviation
    of branch 0 over each picture. Arithmetic is in float32, or float64 when an input is.
    Raises ValueError when shapes, names or ranges do not fit.
    """
    call = _prepare(_Call(x, predictions, weights, step, prediction_type, threshold, previous, noise, rescale))
    module = native.serves(*call.tensors)
    if module is None or x.numel() == 0 or len(weights) > module.max_branches:
        return _reference(call)
    return _native(module, call)


def guided_step_reference(
    x: Tensor,
    predictions: Tensor,
    weights: Sequence[float],
    step: Step,
    *,
    prediction_type: str = "epsilon",
    threshold: Threshold = Threshold(),
    previous: Tensor | None = None,
    noise: Tensor | None = None,
    rescale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """What `guided_step` means, in plain torch operators: any device, any float type, differentiable."""
    return _reference(
        _prepare(_Call(x, predictions, weights, step, prediction_type, threshold, previous, noise, rescale))
    )


def quantile(values: Tensor, percentile: float) -> Tensor:
    """torch.quantile(values, percentile, dim=1) with linear interpolation, values (B, n) of any n; returns (B,)."""
    if values.shape[1] < 1 << 24:
        return torch.quantile(values, percentile, dim=1)
    rank = percentile * (values.shape[1] - 1)
    below, above = (values.kthvalue(int(k) + 1, dim=1).values for k in (math.floor(rank), math.ceil(rank)))
    between = torch.lerp(below, above, rank - math.floor(rank))
    return torch.where(values.isnan().any(dim=1), torch.nan, between)


def limit(denoised: Tensor, threshold: Threshold) -> Tensor:
    """The estimate of x0 (B, C, H, W) kept in range as `threshold` says."""
    if threshold.kind == "none":
        return denoised
    if threshold.kind == "static":
        return denoised.clamp(-threshold.max_value, threshold.max_value)
    s = quantile(denoised.abs().flatten(1), threshold.percentile).clamp(1, threshold.max_value).view(-1, 1, 1, 1)
    return torch.clamp(denoised, -s, s) / s


class _Call(NamedTuple):
    """The arguments of `guided_step`."""

    x: Tensor
    predictions: Tensor
    weights: Sequence[float]
    step: Step
    prediction_type: str
    threshold: Threshold
    previous: Tensor | None
    noise: Tensor | None
    rescale: float

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        return self.x, self.predictions, self.previous, self.noise


def _native(module: ModuleType, call: _Call) -> tuple[Tensor, Tensor]:
    x, predictions = call.x.float().contiguous(), call.predictions.float().contiguous()
    optional = [None if t is None else t.float().contiguous() for t in (call.previous, call.noise)]
    x_next, denoised = torch.empty_like(x), torch.empty_like(x)
    batch, n = x.shape[0], x.numel() // x.shape[0]
    threshold = call.threshold
    description = (
        *map(native.address, (x, predictions, *optional, x_next, denoised)),
        *(batch, n, predictions.numel() // (batch * len(call.weights))),
        list(call.weights),
        call.step[:7],
        call.step.log_variance,
        *(PREDICTION_TYPES.index(call.prediction_type), THRESHOLDS.index(threshold.kind)),
        *(threshold.percentile, threshold.max_value, call.rescale),
    )
    if x.is_cpu:
        module.guided_step(*description, 0, torch.get_num_threads())
    else:
        with torch.cuda.device(x.device):
            workspace = torch.empty(module.guided_step_workspace(batch, n), dtype=torch.uint8, device=x.device)
            module.guided_step(*description, workspace.data_ptr(), torch.cuda.current_stream().cuda_stream)
    dtype = call.x.dtype
    return (x_next, denoised) if dtype == torch.float32 else (x_next.to(dtype), denoised.to(dtype))


def _reference(call: _Call) -> tuple[Tensor, Tensor]:
    step, channels = call.step, call.x.shape[1]
    wide = any(tensor is not None and tensor.dtype == torch.float64 for tensor in call.tensors)
    dtype = torch.float64 if wide else torch.float32
    x = call.x.to(dtype)
    raw = _estimate(x, _guided(call, dtype), step, call.prediction_type)
    denoised = limit(raw, call.threshold)
    x_next = step.c_x * x + step.c_denoised * denoised
    if step.c_raw:
        x_next = x_next + step.c_raw * raw
    if call.previous is not None:
        x_next = x_next + step.c_previous * call.previous.to(dtype)
    if call.noise is not None:
        v = call.predictions[0, :, channels:].to(dtype)
        x_next = x_next + step.c_noise * _scaled(call.noise.to(dtype), v, step)
    return x_next.to(call.x.dtype), denoised.to(call.x.dtype)


def _guided(call: _Call, dtype: torch.dtype) -> Tensor:
    branches = [prediction[:, : call.x.shape[1]].to(dtype) for prediction in call.predictions]
    guided: Tensor = call.weights[0] * branches[0]
    for weight, branch in zip(call.weights[1:], branches[1:], strict=True):
        guided = guided + weight * branch
    if call.rescale:
        own, wide = (tensor.std(dim=(1, 2, 3), keepdim=True) for tensor in (branches[0], guided))
        guided = guided * (call.rescale * own / wide + (1 - call.rescale))
    return guided


def _estimate(x: Tensor, guided: Tensor, step: Step, prediction_type: str) -> Tensor:
    if prediction_type == "epsilon":
        return (x - step.sigma * guided) / step.alpha
    if prediction_type == "v_prediction":
        return step.alpha * x - step.sigma * guided
    return guided


def _scaled(noise: Tensor, v: Tensor, step: Step) -> Tensor:
    if step.log_variance is None:
        return noise
    low, high = step.log_variance
    f = (v + 1) / 2
    return noise * torch.exp(0.5 * (f * high + (1 - f) * low))


def _prepare(call: _Call) -> _Call:
    """The checked call, without the tensors that its step does not read."""
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
    )
    _check_tensors(call)
    return call


def _check_tensors(call: _Call) -> None:
    x, predictions, weights, step = call[:4]
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} {tuple(x.shape)}; expected floats (B, C, H, W)")
    batch, channels, *size = x.shape
    fits = [(len(weights), batch, k * channels, *size) for k in (1, 2)]
    if len(weights) == 0 or tuple(predictions.shape) not in fits or not predictions.is_floating_point():
        raise ValueError(
            f"predictions are {predictions.dtype} {tuple(predictions.shape)} for {len(weights)} weights and x "
            f"{tuple(x.shape)}; expected floats {fits[0]}, or {fits[1]} with variance channels"
        )
    for name, tensor, needed in (("previous", call.previous, step.c_previous), ("noise", call.noise, step.c_noise)):
        if needed and (tensor is None or tensor.shape != x.shape or not tensor.is_floating_point()):
            came = "None" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ValueError(f"{name} is {came} though c_{name} is {needed}; expected floats {tuple(x.shape)}")
    if call.noise is not None and step.log_variance is not None and predictions.shape[2] != 2 * channels:
        raise ValueError(
            f"the step learns its variance, but the predictions have {predictions.shape[2]} channels; "
            f"expected {2 * channels}: {channels} of the prediction and {channels} of the variance"
        )


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
