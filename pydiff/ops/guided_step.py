"""One step of any sampler: guidance, the estimate of x0, thresholding, and the step row, in one operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from pydiff.ops import native
from pydiff.ops.guided_step_call import PREDICTION_TYPES, THRESHOLDS, Call, Paste, Step, Threshold, prepare

__all__ = [
    "PREDICTION_TYPES",
    "THRESHOLDS",
    "Paste",
    "Step",
    "Threshold",
    "guided_step",
    "guided_step_reference",
    "limit",
    "quantile",
]


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
    paste: Paste | None = None,
    rescale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Take one sampler step; returns (x_next, denoised), new tensors (B, C, H, W) in x's dtype.

    x (B, C, H, W). predictions (R, B, C, H, W), or (R, B, 2C, H, W) whose second half are variance channels, of which
    branch 0's are used. weights: R floats, guided = sum_r weights[r] predictions[r]. prediction_type: "epsilon",
    "v_prediction" (Salimans and Ho 2022) or "sample". previous, noise (B, C, H, W): needed where their coefficient is
    not 0. paste: what is put back into x_next; denoised is left as it is. rescale: phi in [0, 1] of guidance rescaling
    (Lin et al. 2023, section 3.4), towards the standard deviation of branch 0 over each picture. Arithmetic is in
    float32, or float64 when an input is.
    Raises ValueError when shapes, names or ranges do not fit.
    """
    call = prepare(Call(x, predictions, weights, step, prediction_type, threshold, previous, noise, paste, rescale))
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
    paste: Paste | None = None,
    rescale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """What `guided_step` means, in plain torch operators: any device, any float type, differentiable."""
    return _reference(
        prepare(Call(x, predictions, weights, step, prediction_type, threshold, previous, noise, paste, rescale))
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


def _native(module: ModuleType, call: Call) -> tuple[Tensor, Tensor]:
    x, predictions = call.x.float().contiguous(), call.predictions.float().contiguous()
    optional = [None if t is None else t.float().contiguous() for t in call.tensors[2:]]
    x_next, denoised = torch.empty_like(x), torch.empty_like(x)
    batch, n = x.shape[0], x.numel() // x.shape[0]
    threshold = call.threshold
    description = (
        *map(native.address, (x, predictions, *optional[:2], x_next, denoised)),
        *(batch, n, predictions.numel() // (batch * len(call.weights))),
        list(call.weights),
        call.step[:7],
        call.step.log_variance,
        None if call.paste is None else (*map(native.address, optional[2:]), *_layout(call.paste)),
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


def _layout(paste: Paste) -> tuple[float, ...]:
    """Elements from one picture of x0, and of the mask, to the next; elements of a mask; coefficients."""
    picture, plane = paste.x0.shape[1:].numel(), paste.mask.shape[1:].numel()
    steps = (picture if paste.x0.shape[0] > 1 else 0, plane if paste.mask.shape[0] > 1 else 0)
    return *steps, plane, paste.c_x0, paste.c_noise


def _reference(call: Call) -> tuple[Tensor, Tensor]:
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
    if call.paste is not None:
        x_next = _put_back(x_next, call.paste)
    return x_next.to(call.x.dtype), denoised.to(call.x.dtype)


def _guided(call: Call, dtype: torch.dtype) -> Tensor:
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


def _put_back(made: Tensor, paste: Paste) -> Tensor:
    mask, known = paste.mask.to(made.dtype), paste.c_x0 * paste.x0.to(made.dtype)
    if paste.noise is not None:
        known = known + paste.c_noise * paste.noise.to(made.dtype)
    mixed = mask * made + (1 - mask) * known
    return torch.where(mask == 1, made, torch.where(mask == 0, known, mixed))
