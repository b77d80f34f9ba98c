"""One step of any sampler: guidance, the estimate of x0, thresholding, and the step row, in one operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from pydiff.arrays import Array, cast, is_torch, namespace
from pydiff.gpu import is_on_gpu
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
    x: Array,
    predictions: Array,
    weights: Sequence[float],
    step: Step,
    *,
    prediction_type: str = "epsilon",
    threshold: Threshold = Threshold(),
    previous: Array | None = None,
    noise: Array | None = None,
    paste: Paste | None = None,
    rescale: float = 0.0,
) -> tuple[Array, Array]:
    """Take one sampler step; returns (x_next, denoised), new arrays (B, C, H, W) in x's dtype, all of one kind.

    x (B, C, H, W). predictions (R, B, C, H, W), or (R, B, 2C, H, W) whose second half are variance channels, of which
    branch 0's are used. weights: R floats, guided = sum_r weights[r] predictions[r]. prediction_type: "epsilon",
    "v_prediction" (Salimans and Ho 2022) or "sample". previous, noise (B, C, H, W): needed where their coefficient is
    not 0. paste: what is put back into x_next; denoised is left as it is. rescale: phi in [0, 1] of guidance rescaling
    (Lin et al. 2023, section 3.4), towards the standard deviation of branch 0 over each picture. Arithmetic is in
    float32, or float64 when an input is.
    Raises ValueError when shapes, names or ranges do not fit.
    """
    call = prepare(Call(x, predictions, weights, step, prediction_type, threshold, previous, noise, paste, rescale))
    module = native.serves(*call.arrays)
    if module is None or 0 in x.shape or len(weights) > module.max_branches:
        return _reference(call)
    return _native(module, call)


def guided_step_reference(
    x: Array,
    predictions: Array,
    weights: Sequence[float],
    step: Step,
    *,
    prediction_type: str = "epsilon",
    threshold: Threshold = Threshold(),
    previous: Array | None = None,
    noise: Array | None = None,
    paste: Paste | None = None,
    rescale: float = 0.0,
) -> tuple[Array, Array]:
    """What `guided_step` means, in plain operators: any device, any float type, differentiable."""
    return _reference(
        prepare(Call(x, predictions, weights, step, prediction_type, threshold, previous, noise, paste, rescale))
    )


def quantile(values: Array, percentile: float) -> Array:
    """The quantile along axis 1 with linear interpolation, values (B, n) of any n; returns (B,)."""
    if is_on_gpu(values):
        return _ranked(values, percentile)
    if not is_torch(values):
        return np.quantile(values, percentile, axis=1)  # type: ignore[return-value]
    import torch

    if values.shape[1] < 1 << 24:
        return torch.quantile(values, percentile, dim=1)
    rank = percentile * (values.shape[1] - 1)
    below, above = (values.kthvalue(int(k) + 1, dim=1).values for k in (math.floor(rank), math.ceil(rank)))
    between = torch.lerp(below, above, rank - math.floor(rank))
    return torch.where(values.isnan().any(dim=1), torch.nan, between)


def _ranked(values: Array, percentile: float) -> Array:
    """The quantile by the functions of the array API standard; NaN where there is one."""
    xp = namespace(values)
    ranked, rank = xp.sort(values, axis=1), percentile * (values.shape[1] - 1)
    below, above = (ranked[:, int(k)] for k in (math.floor(rank), math.ceil(rank)))
    between = below + (above - below) * (rank - math.floor(rank))
    nothing = xp.any(xp.isnan(values), axis=1)
    return xp.where(nothing, xp.full_like(between, math.nan), xp.where(below == above, below, between))


def limit(denoised: Array, threshold: Threshold) -> Array:
    """The estimate of x0 (B, C, H, W) kept in range as `threshold` says."""
    if threshold.kind == "none":
        return denoised
    if threshold.kind == "static":
        return denoised.clip(-threshold.max_value, threshold.max_value)
    s = quantile(abs(denoised).reshape((len(denoised), -1)), threshold.percentile).clip(1, threshold.max_value)
    s = s.reshape((-1, 1, 1, 1))
    return denoised.clip(-s, s) / s


def _native(module: ModuleType, call: Call) -> tuple[Array, Array]:
    memory = native.memory(call.x)
    with native.device(call.x):
        return _by_core(module, call, memory)


def _by_core(module: ModuleType, call: Call, memory: native.Memory) -> tuple[Array, Array]:
    x, predictions = memory.dense(call.x), memory.dense(call.predictions)
    previous, noise, *known = (None if one is None else memory.dense(one) for one in call.arrays[2:])
    x_next, denoised = memory.empty_like(x), memory.empty_like(x)
    places = [
        0 if one is None else memory.address(one) for one in (x, predictions, previous, noise, x_next, denoised, *known)
    ]
    batch, channels, height, width = x.shape
    threshold = call.threshold
    description = (
        *places[:6],
        *(batch, channels * height * width, predictions.shape[2] * height * width),
        list(call.weights),
        call.step[:7],
        call.step.log_variance,
        None if call.paste is None else (*places[6:], *_layout(call.paste)),
        *(PREDICTION_TYPES.index(call.prediction_type), THRESHOLDS.index(threshold.kind)),
        *(threshold.percentile, threshold.max_value, call.rescale),
    )
    if native.is_cuda(x):
        workspace = memory.workspace(module.guided_step_workspace(batch, channels * height * width))
        module.guided_step(*description, memory.address(workspace), memory.stream())
    else:
        module.guided_step(*description, 0, memory.threads())
    dtype = call.x.dtype
    return (x_next, denoised) if x.dtype == dtype else (cast(x_next, dtype), cast(denoised, dtype))


def _layout(paste: Paste) -> tuple[float, ...]:
    """Elements from one picture of x0, and of the mask, to the next; elements of a mask; coefficients."""
    picture, plane = math.prod(paste.x0.shape[1:]), math.prod(paste.mask.shape[1:])
    steps = (picture if paste.x0.shape[0] > 1 else 0, plane if paste.mask.shape[0] > 1 else 0)
    return *steps, plane, paste.c_x0, paste.c_noise


def _reference(call: Call) -> tuple[Array, Array]:
    step, channels, xp = call.step, call.x.shape[1], _namespace(call)
    wide = any(array is not None and array.dtype == xp.float64 for array in call.arrays)
    dtype = xp.float64 if wide else xp.float32
    x = cast(call.x, dtype)
    raw = _estimate(x, _guided(xp, call, dtype), step, call.prediction_type)
    denoised = limit(raw, call.threshold)
    x_next = step.c_x * x + step.c_denoised * denoised
    if step.c_raw:
        x_next = x_next + step.c_raw * raw
    if call.previous is not None:
        x_next = x_next + step.c_previous * cast(call.previous, dtype)
    if call.noise is not None:
        v = cast(call.predictions[0, :, channels:], dtype)
        x_next = x_next + step.c_noise * _scaled(xp, cast(call.noise, dtype), v, step)
    if call.paste is not None:
        x_next = _put_back(xp, x_next, call.paste)
    return cast(x_next, call.x.dtype), cast(denoised, call.x.dtype)


def _namespace(call: Call) -> Any:
    try:
        return namespace(*call.arrays)
    except TypeError as error:
        raise ValueError("the step got arrays of several kinds; give tensors or NumPy arrays alone") from error


def _guided(xp: Any, call: Call, dtype: Any) -> Array:
    branches = [cast(prediction[:, : call.x.shape[1]], dtype) for prediction in call.predictions]
    guided: Array = call.weights[0] * branches[0]
    for weight, branch in zip(call.weights[1:], branches[1:], strict=True):
        guided = guided + weight * branch
    if call.rescale:
        own, wide = (xp.std(one, axis=(1, 2, 3), correction=1, keepdims=True) for one in (branches[0], guided))
        guided = guided * (call.rescale * own / wide + (1 - call.rescale))
    return guided


def _estimate(x: Array, guided: Array, step: Step, prediction_type: str) -> Array:
    if prediction_type == "epsilon":
        return (x - step.sigma * guided) / step.alpha
    if prediction_type == "v_prediction":
        return step.alpha * x - step.sigma * guided
    return guided


def _scaled(xp: Any, noise: Array, v: Array, step: Step) -> Array:
    if step.log_variance is None:
        return noise
    low, high = step.log_variance
    f = (v + 1) / 2
    return noise * xp.exp(0.5 * (f * high + (1 - f) * low))


def _put_back(xp: Any, made: Array, paste: Paste) -> Array:
    mask, known = cast(paste.mask, made.dtype), paste.c_x0 * cast(paste.x0, made.dtype)
    if paste.noise is not None:
        known = known + paste.c_noise * cast(paste.noise, made.dtype)
    mixed = mask * made + (1 - mask) * known
    return xp.where(mask == 1, made, xp.where(mask == 0, known, mixed))
