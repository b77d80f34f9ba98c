"""The range of dynamic thresholding, found by selection, against torch.quantile in float64."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor

from pydiff.ops import native
from pydiff.ops.guided_step import quantile

core = native.core()
pytestmark = pytest.mark.skipif(core is None, reason=str(native.why_missing()))

percentiles = st.one_of(st.sampled_from([0.0, 0.5, 0.95, 0.995, 1.0]), st.floats(0, 1))
floats = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1.5, 2.0, float(np.nextafter(np.float32(1), np.float32(2)))]),
    st.floats(-4, 4, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def native_range(values: Tensor, percentile: float, max_value: float, threads: int = 1) -> float:
    assert core is not None
    return float(core.dynamic_range(values.data_ptr(), len(values), percentile, max_value, threads))


def torch_range(values: Tensor, percentile: float, max_value: float) -> float:
    exact = quantile(values.double().abs()[None], percentile)
    return float(exact.clamp(1, max_value).float())


def check(values: Tensor, percentile: float, max_value: float) -> None:
    mine, expected = native_range(values, percentile, max_value), torch_range(values, percentile, max_value)
    np.testing.assert_allclose(mine, expected, rtol=2e-7)


@settings(deadline=None, max_examples=300)
@given(st.lists(floats, min_size=1, max_size=50), percentiles, st.sampled_from([1.0, 1.5, 3.0, 1e30, torch.inf]))
@example([3.0], 0.3, torch.inf)
@example([0.5, 2.0], 0.5, torch.inf)
@example([1.0, 5.0], 0.5, 4.0)
@example([3.4e38, 3.3e38], 0.5, torch.inf)
def test_lists(values: list[float], percentile: float, max_value: float) -> None:
    check(torch.tensor(values, dtype=torch.float32), percentile, float(np.float32(max_value)))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40000),
    st.integers(0, 2**31),
    percentiles,
    st.sampled_from([1.0, 1.5, 100.0, torch.inf]),
    st.sampled_from(["normal", "huge", "ties", "constant", "one bin"]),
)
def test_pictures(n: int, seed: int, percentile: float, max_value: float, kind: str) -> None:
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    if kind == "huge":
        values = values.mul(50).exp().clamp(max=3e38)
    if kind == "ties":
        values = values.mul(2).round()
    if kind == "constant":
        values = torch.full((n,), 2.5)
    if kind == "one bin":
        values = 2.0 + values * 1e-4
    check(values, percentile, max_value)
    alone, shared = (native_range(values, percentile, max_value, threads) for threads in (1, 2))
    assert alone == shared


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from([0.5, 2.0, torch.inf, -torch.inf]), min_size=1, max_size=12), percentiles)
def test_infinities(values: list[float], percentile: float) -> None:
    picture = torch.tensor(values)
    below = torch.quantile(picture.double().abs(), percentile, interpolation="lower")
    for max_value in (1.0, 1.5, torch.inf):
        found = native_range(picture, percentile, max_value)
        if below.isinf():  # inf - inf, as in torch
            assert np.isnan(found)
        elif np.isnan(torch_range(picture, percentile, max_value)):  # torch's lerp, counting down from inf
            assert found == max_value
        else:
            check(picture, percentile, max_value)


@settings(deadline=None, max_examples=50)
@given(st.lists(floats, min_size=1, max_size=12), st.data(), percentiles)
def test_nan(values: list[float], data: st.DataObject, percentile: float) -> None:
    values[data.draw(st.integers(0, len(values) - 1))] = torch.nan
    for max_value in (1.0, 1.5, torch.inf):
        assert np.isnan(native_range(torch.tensor(values, dtype=torch.float32), percentile, max_value))


def test_reference_has_no_size_limit() -> None:
    values = torch.rand(1, (1 << 24) + 1, generator=torch.Generator().manual_seed(0)) * 4
    found = quantile(values, 0.75)
    assert abs(float(found) - 3) < 1e-3
    assert native_range(values[0], 0.75, torch.inf) == float(found)
