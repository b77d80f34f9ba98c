"""Windows over a large x: they cover it, their shares sum to 1, and what is the same in all comes back whole."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pydiff.diffusion.windows import Windows, make_windows

sides = st.integers(1, 70)
overlaps = st.floats(0, 0.9)


@given(sides, sides, sides, sides, overlaps)
@settings(deadline=None)
def test_windows_cover_all_and_their_shares_sum_to_one(height: int, width: int, high: int, wide: int, overlap: float):
    made = make_windows((height, width), (high, wide), overlap)
    if height <= high and width <= wide:
        assert made is None
        return
    assert made is not None
    assert made.size == (min(height, high), min(width, wide))
    for side, length, window in zip(made, (height, width), made.size, strict=True):
        assert (side.starts[0], side.starts[-1]) == (0, length - window)
        assert all(0 < after - before <= max(1, window * (1 - overlap)) for before, after in pairwise(side.starts))
        total = np.zeros(length)
        for start, share in zip(side.starts, side.shares, strict=True):
            total[start : start + window] += share
        assert (side.shares > 0).all()
        np.testing.assert_allclose(total, 1, atol=1e-12, rtol=0)


@given(st.integers(9, 30), st.integers(9, 30), overlaps, st.integers(1, 3), st.integers(1, 2))
@settings(deadline=None)
def test_what_does_to_each_place_the_same_is_the_whole(
    height: int, width: int, overlap: float, rows: int, branches: int
) -> None:
    windows = make_windows((height, width), (8, 10), overlap)
    assert windows is not None
    x = torch.randn(branches, rows, 3, height, width, dtype=torch.float64)
    parts = torch.stack([windows.split(branch) for branch in x])
    assert parts.shape == (branches, len(windows) * rows, 3, *windows.size)
    torch.testing.assert_close(windows.merged(parts.sin()), x.sin(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_types(dtype: torch.dtype, error: float) -> None:
    windows = make_windows((12, 31), (12, 8), 0.5)
    assert windows is not None
    x = torch.rand(1, 2, 3, 12, 31, dtype=dtype)
    made = windows.merged(windows.split(x[0])[None])
    assert made.dtype == dtype
    torch.testing.assert_close(made, x, atol=error, rtol=0)


def test_rows_are_window_by_window_then_picture_by_picture() -> None:
    windows = make_windows((10, 12), (8, 8), 0.5)
    assert windows is not None
    x = torch.arange(2 * 10 * 12).view(2, 1, 10, 12)
    corners = [x[:, 0, top, left].tolist() for top, left in product((0, 2), (0, 4))]
    assert windows.split(x)[:, 0, 0, 0].tolist() == [value for corner in corners for value in corner]


def test_a_window_counts_less_at_its_edges() -> None:
    made = make_windows((8, 24), (8, 16), 0.5)
    assert isinstance(made, Windows)
    first = made.width.shares[0]
    assert first[:8].tolist() == [1.0] * 8
    assert (np.diff(first[8:]) < 0).all()
    assert first[8] > 0.98
    assert first[-1] < 0.02
