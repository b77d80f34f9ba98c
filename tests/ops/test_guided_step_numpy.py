"""guided_step on NumPy's arrays: what it computes on torch's tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pydiff.ops import Paste, Threshold, guided_step, guided_step_reference, native
from pydiff.ops.guided_step import quantile
from tests.ops.guided_step_inputs import DYNAMIC, STEP, inputs, needs_core

SHAPE = (2, 3, 33, 31)
LEARNED = STEP._replace(log_variance=(-9.0, -2.0), c_noise=1.0)
CASES: list[dict[str, Any]] = [
    {},
    {"prediction_type": "v_prediction", "threshold": Threshold("static", max_value=0.7)},
    {"prediction_type": "sample", "threshold": DYNAMIC},
    {"threshold": Threshold("dynamic", 0.995, float("inf")), "rescale": 0.7},
]


def as_numpy(value: Any, dtype: Any = np.float32) -> Any:
    """The tensors of an argument, of a Paste, or of several arguments by name, as NumPy's arrays."""
    if isinstance(value, Tensor):
        return value.numpy().astype(dtype)
    if isinstance(value, Paste):
        return Paste(*(as_numpy(field, dtype) for field in value))
    return {key: as_numpy(own, dtype) for key, own in value.items()} if isinstance(value, dict) else value


def paste(given: dict[str, Any], rows: int = 1) -> Paste:
    mask = torch.linspace(-0.5, 1.5, SHAPE[2] * SHAPE[3]).clamp(0, 1).view(1, 1, *SHAPE[2:])
    return Paste(given["previous"][:rows] * 0.3, mask, 0.9, 0.4, given["noise"])


@needs_core
@pytest.mark.parametrize("options", CASES)
def test_the_core_is_one_for_both(options: dict[str, Any]) -> None:
    given = inputs(SHAPE, 3, variance=True)
    for step in (STEP, LEARNED):
        for extra in ({}, {"paste": paste(given)}, {"paste": paste(given, 2)}):
            call = given | options | extra
            for made, expected in zip(
                guided_step(**as_numpy(call), step=step), guided_step(**call, step=step), strict=True
            ):
                assert isinstance(made, np.ndarray)
                np.testing.assert_array_equal(made, expected.numpy(), strict=True)


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 3e-6), (np.float64, 1e-12), (np.float16, 2e-3)])
def test_the_reference_is_that_of_torch(options: dict[str, Any], dtype: Any, error: float) -> None:
    given = inputs(SHAPE, 3, variance=True)
    call = as_numpy(given | options | {"paste": paste(given)}, dtype)
    theirs = {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in call.items()}
    theirs["paste"] = Paste(*(torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in call["paste"]))
    for step in (STEP, LEARNED):
        for run in (guided_step, guided_step_reference):
            for made, expected in zip(run(**call, step=step), guided_step_reference(**theirs, step=step), strict=True):
                assert made.dtype == dtype
                np.testing.assert_allclose(made, expected.numpy(), rtol=error, atol=error * np.abs(made).max())


def test_any_layout_of_memory_and_no_input_is_changed() -> None:
    call = as_numpy(inputs(SHAPE))
    expected = guided_step(**call, step=STEP)
    strided = {
        key: own.swapaxes(-1, -2).copy().swapaxes(-1, -2) if key != "weights" else own for key, own in call.items()
    }
    for array in strided.values():
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    for made, other in zip(guided_step(**strided, step=STEP), expected, strict=True):
        np.testing.assert_allclose(made, other, rtol=1e-6, atol=1e-6)
        assert made.flags.writeable


@pytest.mark.parametrize("percentile", [0.0, 0.25, 0.995, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 3 * 64 * 64])
def test_quantiles_are_those_of_torch(percentile: float, count: int) -> None:
    values = torch.randn(3, count, generator=torch.Generator().manual_seed(count))
    made = quantile(values.numpy(), percentile)
    np.testing.assert_allclose(made, quantile(values, percentile).numpy(), rtol=1e-6, atol=1e-6, strict=True)


def test_kinds_are_not_mixed() -> None:
    given = inputs(SHAPE)
    for name in ("x", "predictions", "previous"):
        with pytest.raises(ValueError, match="arrays of several kinds; give tensors or NumPy arrays alone"):
            guided_step(**given | {name: given[name].numpy()}, step=STEP)


def test_what_does_not_fit_is_refused() -> None:
    call = as_numpy(inputs(SHAPE))
    with pytest.raises(ValueError, match=r"x is int64 \(2, 3, 33, 31\); expected floats"):
        guided_step(**call | {"x": call["x"].astype(np.int64)}, step=STEP)
    with pytest.raises(ValueError, match=r"paste\.mask is float32 \(1, 1, 2, 2\) on cpu; expected floats"):
        guided_step(**call, step=STEP, paste=Paste(call["x"], np.ones((1, 1, 2, 2), np.float32)))


@needs_core
def test_what_the_core_serves() -> None:
    x = np.zeros(2, np.float32)
    assert native.serves(x, None, x.astype(np.float16)) is native.core()
    for other in (x.astype(np.float64), x.astype(">f4"), torch.zeros(2)):
        assert native.serves(x, other) is None
        assert native.serves(other, x) is None


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), ("2,1", 2), ("", None), ("0", None), ("many", None)])
def test_threads(asked: str, expected: int | None) -> None:
    code = "import numpy; from pydiff.ops import native; print(native.memory(numpy.zeros(1)).threads())"
    environment = os.environ | {"OMP_NUM_THREADS": asked}
    made = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(made.stdout) == (len(os.sched_getaffinity(0)) if expected is None else expected)
