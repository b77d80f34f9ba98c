"""RePaint's zig-zag."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from pydiff.diffusion import Noise, NoiseSchedule, sample, step_table, unguided
from pydiff.diffusion.repaint import resampled, zigzag

SCHEDULE = NoiseSchedule.make()


@pytest.mark.parametrize(
    ("steps", "jump_length", "jump_n_sample", "transitions", "evaluations"),
    [
        (250, 10, 10, 4570, 2410),
        (250, 10, 1, 250, 250),
        (250, 1, 10, 4732, 2491),
        (100, 10, 10, 1720, 910),
        (50, 10, 10, 770, 410),
        (25, 10, 10, 385, 205),
        (250, 5, 10, 4660, 2455),
        (250, 20, 10, 4570, 2410),
        (250, 10, 5, 2170, 1210),
        (5, 2, 2, 13, 9),
    ],
)
def test_published_counts(steps, jump_length, jump_n_sample, transitions, evaluations):
    table = resampled(step_table("ddpm", SCHEDULE, steps), jump_length, jump_n_sample, faithful=True)
    assert len(table.rows) == transitions
    assert table.evaluations == evaluations
    fused = resampled(step_table("ddpm", SCHEDULE, steps), jump_length, jump_n_sample)
    assert fused.evaluations == evaluations
    assert len(fused.rows) == evaluations + (transitions - evaluations) // jump_length


def test_published_paths():
    assert zigzag(5, 2, 2) == [4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]
    assert zigzag(3, 1, 2) == [2, 1, 2, 1, 0, 1, 0, -1]


@pytest.mark.parametrize("faithful", [True, False])
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_every_row_starts_where_the_last_one_ended(sampler, faithful):
    table = resampled(step_table(sampler, SCHEDULE, 12, spacing="leading"), 3, 4, faithful=faithful)
    for row, following in pairwise(table.rows):
        step = row.step
        signal = step.c_x * step.alpha + step.c_denoised + step.c_raw
        assert math.isclose(signal, following.step.alpha, rel_tol=1e-9)
        assert math.isclose((step.c_x * step.sigma) ** 2 + step.c_noise**2, following.step.sigma**2, rel_tol=1e-9)
    assert table.levels == 12


def test_the_loop_runs_it():
    table = resampled(step_table("ddpm", SCHEDULE, 12), 3, 2)
    noise = Noise([1])
    states = list(
        sample(lambda x, t, b: 0.5 * x[None], table, unguided(12), x=noise((1, 2, 2), like=torch.empty(0)), noise=noise)
    )
    assert len(states) == len(table.rows)
    assert torch.isfinite(states[-1].x).all()


def test_bad_input_is_refused():
    for sampler in ("heun", "dpmpp_2m", "pndm"):
        with pytest.raises(ValueError, match="without memory"):
            resampled(step_table(sampler, SCHEDULE, 12))
    with pytest.raises(ValueError, match="jump_length is 0"):
        resampled(step_table("ddpm", SCHEDULE, 12), 0)
