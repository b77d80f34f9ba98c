"""Normal numbers without torch: torch.randn's, from the native core and from the plain reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pydiff.ops import native
from pydiff.ops.generator import PART, Generator, Reference
from tests.ops.guided_step_inputs import needs_core

SEEDS = [0, 1, 2**31, 2**32 + 5, 2**63 - 1, 2**64 - 1]
TYPES = {np.float32: (torch.float32, 2e-6), np.float64: (torch.float64, 1e-12)}
WAYS = [pytest.param(Generator, marks=needs_core, id="native"), pytest.param(Reference, id="reference")]

Draws = list[tuple[tuple[int, ...], type]]


def check(way: Any, seed: int, draws: Draws) -> None:
    """Draws one after another from one generator of each kind."""
    ours, theirs = way(seed), torch.Generator().manual_seed(seed)
    for shape, dtype in draws:
        kind, tolerance = TYPES[dtype]
        made, expected = ours.normal(shape, dtype), torch.randn(shape, generator=theirs, dtype=kind).numpy()
        assert made.dtype == dtype
        assert made.shape == shape
        assert np.abs(made - expected).max(initial=0) <= tolerance


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_equals_torch(way: Any, seed: int, dtype: type) -> None:
    shapes = [(16,), (1, 3, 64, 64), (1000,), (3, 5, 7), (PART + 17,), (2, 2 * PART)]
    check(way, seed, [(shape, dtype) for shape in shapes])


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(st.tuples(st.integers(0, 40), st.integers(0, 3)), st.sampled_from(list(TYPES))), max_size=12),
)
@example(0, [((3, 1), np.float32), ((1, 1), np.float64), ((1000, 1), np.float32), ((15, 1), np.float32)])
def test_the_stream_continues(way: Any, seed: int, draws: Draws) -> None:
    check(way, seed, draws)


@needs_core
def test_the_core_equals_the_reference() -> None:
    for dtype, (_, tolerance) in TYPES.items():
        made, expected = Generator(7).normal((3, 333, 333), dtype), Reference(7).normal((3, 333, 333), np.dtype(dtype))
        assert np.abs(made - expected).max() <= tolerance


@needs_core
def test_generators_are_apart() -> None:
    one, two = Generator(1), Generator(1)
    assert np.array_equal(one.normal((5,)), two.normal((5,)))
    assert not np.array_equal(one.normal((64,)), one.normal((64,)))


def test_without_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "core", lambda: None)
    check(Generator, 3, [((2, 3), np.float32), ((4, 5), np.float64)])


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, None])
def test_other_seeds(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"expected an integer in \[0, 2\^64\)"):
        Generator(seed)


@pytest.mark.parametrize("dtype", [np.float16, np.int64])
def test_other_types(dtype: type) -> None:
    with pytest.raises(ValueError, match="expected float32 or float64"):
        Generator(0).normal((2,), dtype)
