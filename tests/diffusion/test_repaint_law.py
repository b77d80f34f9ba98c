"""RePaint where all is known: two coordinates of a Gaussian, whose score needs no network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pydiff.diffusion import NoiseSchedule, sample, step_table, unguided
from pydiff.diffusion.loop import Known
from pydiff.diffusion.repaint import resampled

SCHEDULE = NoiseSchedule.make()
COVARIANCE = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
KNOWN = 1.5
MEAN, VARIANCE = 0.9 * KNOWN, 1 - 0.9**2  # of the other coordinate, given this one
CHAINS, STEPS = 4000, 100


def epsilon(x: Tensor, t: float, _: tuple[int, ...]) -> Tensor:
    """E[noise | x] = s C_t^-1 x, C_t = a^2 C + s^2 I. x (B, 1, 1, 2)."""
    level = SCHEDULE.level(int(t))
    at = level.alpha**2 * COVARIANCE + level.sigma**2 * torch.eye(2, dtype=torch.float64)
    return (level.sigma * x @ torch.linalg.inv(at))[None]


def filled(jump_n_sample: int, faithful: bool = False) -> Tensor:
    """What is made of the second coordinate by so many chains."""
    generator = torch.Generator().manual_seed(5)

    def noise(shape: tuple[int, ...], *, like: Tensor) -> Tensor:
        return torch.randn((CHAINS, *shape), generator=generator, dtype=like.dtype)

    table = resampled(step_table("ddpm", SCHEDULE, STEPS), 10, jump_n_sample, faithful=faithful)
    known = Known(
        torch.tensor([KNOWN, 0.0], dtype=torch.float64).view(1, 1, 1, 2),
        torch.tensor([0.0, 1.0], dtype=torch.float64).view(1, 1, 1, 2),
    )
    x = noise((1, 1, 2), like=torch.empty(0, dtype=torch.float64))
    *_, last = sample(epsilon, table, unguided(table.levels), x=x, noise=noise, known=known)
    assert (last.x[..., 0] == KNOWN).all()
    return last.x[..., 1].flatten()


@pytest.mark.parametrize("faithful", [False, True])
def test_resampling_makes_what_is_made_agree_with_what_is_known(faithful: bool) -> None:
    """Blending alone makes a mean of about 0.93 in the place of 1.35, however many steps it takes."""
    once, often = (filled(count, faithful) for count in (1, 10))
    assert abs(abs(float(once.mean()) - MEAN) - 0.42) < 0.05
    assert abs(float(often.mean()) - MEAN) < 0.08
    assert float(once.var()) > 0.26
    assert abs(float(often.var()) - VARIANCE) < 0.04
