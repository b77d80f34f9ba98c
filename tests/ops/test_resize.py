"""Resizing, padding and pooling: NumPy's arrays get torch's numbers, tensors get torch's own calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pydiff.ops.resize import Mode, max_pool, pad_edges, resize

SIDES = st.integers(1, 300)
WEIGHTED: list[tuple[Mode, dict[str, bool]]] = [
    (mode, {"antialias": antialias, "align_corners": align_corners})
    for mode in ("bilinear", "bicubic")
    for antialias in (False, True)
    for align_corners in (False, True)
]


def picture(height: int, width: int, channels: int = 2, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.uniform(-1, 1, (1, channels, height, width)).astype(dtype)


def both(x: Any, size: tuple[int, int], mode: Mode, options: dict[str, bool]) -> tuple[Any, Any]:
    """The resized array, and the resized tensor."""
    made, expected = resize(x, size, mode, **options), resize(torch.from_numpy(x), size, mode, **options).numpy()
    assert made.dtype == expected.dtype == x.dtype
    assert made.shape == expected.shape == (*x.shape[:2], *size)
    return made, expected


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
@example(2, 94, 3, 123)  # 94 pixels of 2: pixel 47 takes pixel 0, for 47 * float32(2 / 94) < 1
@example(1024, 256, 7, 7)
def test_nearest_takes_the_same_pixels(height: int, new_height: int, width: int, new_width: int) -> None:
    pixels = np.arange(height * width, dtype=np.float32).reshape(1, 1, height, width)
    made, expected = both(pixels, (new_height, new_width), "nearest", {})
    assert np.array_equal(made, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mode", "options"), [("area", {}), *WEIGHTED])
@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, st.integers(2, 300))  # torch's antialias repeats the first row where the new width is 1
@example(64, 1024, 64, 1024)
@example(1024, 7, 1000, 255)
def test_equals_interpolate(
    mode: Mode, options: dict[str, bool], dtype: Any, height: int, new_height: int, width: int, new_width: int
) -> None:
    made, expected = both(picture(height, width, dtype=dtype), (new_height, new_width), mode, options)
    assert np.abs(made - expected).max() <= (1e-5 if dtype == np.float32 else 1e-11)


@pytest.mark.parametrize(("mode", "options"), [("nearest", {}), ("area", {}), *WEIGHTED])
def test_tensors_go_to_interpolate(mode: Mode, options: dict[str, bool]) -> None:
    x = torch.from_numpy(picture(20, 30))
    corners = options.get("align_corners")
    expected = F.interpolate(x, (33, 11), mode=mode, align_corners=corners, antialias=options.get("antialias", False))
    assert torch.equal(resize(x, (33, 11), mode, **options), expected)


@pytest.mark.parametrize(("mode", "options"), [("nearest", {}), ("area", {}), *WEIGHTED])
def test_constants_stay_and_half_precision_returns(mode: Mode, options: dict[str, bool]) -> None:
    made: Any = resize(np.full((2, 1, 9, 1), 0.5, np.float16), (31, 1), mode, **options)  # type: ignore[arg-type]
    assert made.dtype == np.float16
    assert made.shape == (2, 1, 31, 1)
    assert (made == 0.5).all()


@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (3, 1, 0, 2), (0, 0, 11, 0)])
def test_edges_are_repeated(pad: tuple[int, int, int, int]) -> None:
    x = picture(5, 7, channels=3)
    expected = F.pad(torch.from_numpy(x), pad, mode="replicate")
    assert torch.equal(pad_edges(torch.from_numpy(x), pad), expected)
    assert np.array_equal(pad_edges(x, pad), expected.numpy())


@pytest.mark.parametrize("size", [1, 3, 5])
def test_maxima(size: int) -> None:
    x = picture(9, 6)
    expected = F.max_pool2d(torch.from_numpy(x), size, stride=1, padding=size // 2)
    assert torch.equal(max_pool(torch.from_numpy(x), size), expected)
    assert np.array_equal(max_pool(x, size), expected.numpy())


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_bad_input(kind: str) -> None:
    x: Any = picture(4, 4) if kind == "numpy" else torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="mode is 'lanczos'; expected one of nearest, area"):
        resize(x, (2, 2), "lanczos")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="for bilinear and bicubic; mode is 'area'"):
        resize(x, (2, 2), "area", antialias=True)
    with pytest.raises(ValueError, match=r"cannot become \(0, 2\)"):
        resize(x, (0, 2))
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4\) cannot become"):
        resize(x[0], (2, 2))
    with pytest.raises(ValueError, match="pad is"):
        pad_edges(x, (0, -1, 0, 0))
    with pytest.raises(ValueError, match="expected an odd number"):
        max_pool(x, 2)
