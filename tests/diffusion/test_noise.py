"""Randomness per picture."""

from __future__ import annotations

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from pydiff.diffusion import Noise

FLOATS = torch.empty(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 2, 3)])
def test_draws_are_those_of_diffusers(dtype, shape):
    noise = Noise([0, 11, 2**63])
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 11, 2**63)]
    for _ in range(3):
        expected = randn_tensor((3, *shape), generators, dtype=dtype)
        torch.testing.assert_close(noise(shape, like=torch.empty(0, dtype=dtype)), expected, rtol=0, atol=0)


def test_a_picture_does_not_depend_on_its_batch():
    together = Noise([1, 2, 3])((3, 4, 4), like=FLOATS)
    torch.testing.assert_close(together[1:2], Noise([2])((3, 4, 4), like=FLOATS), rtol=0, atol=0)


def test_generators_are_used_where_they_stand():
    generator = torch.Generator().manual_seed(4)
    torch.randn(7, generator=generator)
    expected = torch.randn(1, 3, 2, 2, generator=generator.clone_state())
    torch.testing.assert_close(Noise([generator])((3, 2, 2), like=FLOATS), expected, rtol=0, atol=0)
    assert len(Noise([generator, 3])) == 2


@pytest.mark.parametrize("seeds", [[], 3, [1.5], [-1], [True], ["7"], [2**64]])
def test_bad_seeds_are_refused(seeds):
    with pytest.raises(ValueError, match="seed"):
        Noise(seeds)
