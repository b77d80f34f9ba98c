"""Local blending against the notebooks' formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pydiff.diffusion.local_blend import BLENDS, LocalBlend, blend_mask, blended
from tests.text import google_formulas as google


def maps(batch: int, seed: int = 0) -> Tensor:
    """(B, L, 1, h, w, T): smooth heat with a few peaks."""
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(batch, 5, 1, 6, 4, 77, dtype=torch.float64, generator=generator)).exp()


def chosen(*tokens: list[int]) -> Tensor:
    """alpha_layers (B, 1, 1, 1, 1, T)."""
    alpha = torch.zeros(len(tokens), 1, 1, 1, 1, 77, dtype=torch.float64)
    for row, columns in enumerate(tokens):
        alpha[row, ..., columns] = 1
    return alpha


def heat(attention: Tensor, alpha: Tensor) -> Tensor:
    return (attention * alpha).sum(-1)[:, :, 0]


@pytest.mark.parametrize("size", [(12, 8), (13, 9), (6, 4), (3, 2)])
@pytest.mark.parametrize("threshold", [0.3, 0.05, 0.9])
def test_the_stable_notebook(size, threshold):
    A, alpha, x = maps(4), chosen([2], [2, 3], [5], [7]), torch.randn(4, 3, *size, dtype=torch.float64)
    mask = blend_mask(heat(A, alpha), size, LocalBlend(threshold))
    assert mask.shape == (4, 1, *size)
    for target in (1, 2, 3):
        pair = [0, target]
        expected = google.blend_stable(x[pair], A[pair], alpha[pair], threshold)
        assert torch.allclose(blended(x, mask)[pair], expected, atol=1e-15)
    assert torch.equal(blended(x, mask)[0], x[0])
    assert torch.equal(mask, blend_mask(7.5 * heat(A, alpha), size, LocalBlend(threshold)))  # a running sum will do


@pytest.mark.parametrize("excluded", [None, ([9], [9], [10, 11])])
def test_the_null_text_notebook(excluded):
    steps, blend = 10, BLENDS["null_text"]
    A, alpha, x = maps(3), chosen([2], [2, 3], [5]), torch.randn(3, 3, 13, 9, dtype=torch.float64)
    other = None if excluded is None else chosen(*excluded)
    mask = blend_mask(heat(A, alpha), (13, 9), blend, excluded=None if other is None else heat(A, other))
    assert mask.any()
    assert not mask.all()
    for step in range(steps):
        expected = google.blend_null_text(x, A, alpha, step, steps, other)
        made = blended(x, mask) if step >= blend.span(steps)[0] else x
        assert torch.allclose(made, expected, atol=1e-15)


def test_where_blending_begins():
    assert BLENDS["stable"].span(50) == (0, 50)
    assert [BLENDS["null_text"].span(levels)[0] for levels in (50, 9, 4)] == [10, 2, 1]
    assert [BLENDS["null_text"].span(levels, compat="google")[0] for levels in (50, 9, 4)] == [10, 1, 0]
    assert LocalBlend(start=1.0).span(10) == (10, 10)
    assert LocalBlend(start=0.2, stop=0.7).span(10) == (2, 7)


def test_words_that_nothing_looks_at():
    A, x = maps(2), torch.randn(2, 3, 12, 8, dtype=torch.float64)
    mask = blend_mask(heat(A, chosen([], [3])), (12, 8))
    assert not mask[0].any()
    assert mask[1].any()
    assert torch.equal(blended(x, mask)[0], x[0])
    assert not blend_mask(-heat(A, chosen([2], [3])), (12, 8)).any()  # re-weighted below 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"threshold": 1.0}, "threshold of the local blend is 1.0"),
        ({"threshold": float("nan")}, "threshold of the local blend is nan"),
        ({"excluded_threshold": -0.1}, "excluded_threshold of the local blend is -0.1"),
        ({"start": 1.5}, "start of the local blend is 1.5"),
        ({"start": "early"}, "start is 'early'; expected a number"),
    ],
)
def test_numbers_outside_their_ranges(changes, match):
    with pytest.raises(ValueError, match=match):
        LocalBlend(**changes).checked()
    assert BLENDS["stable"].checked() is BLENDS["stable"]


@pytest.mark.parametrize("shapes", [[(2, 4, 4)], [(0, 1, 4, 4)], [(2, 1, 4, 4), (2, 1, 8, 8)]])
def test_heat_of_another_shape(shapes):
    heat, *excluded = (torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match="the heat has shape"):
        blend_mask(heat, (8, 8), excluded=excluded[0] if excluded else None)
