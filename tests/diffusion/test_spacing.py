"""Spacings of timesteps and sigmas."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
from diffusers.pipelines.deepfloyd_if import timesteps as deepfloyd
from hypothesis import given
from hypothesis import strategies as st

from pydiff.diffusion.spacing import RESPACINGS, SPACINGS, exponential, karras, respaced, spaced_timesteps


@pytest.mark.parametrize("name", RESPACINGS)
def test_named_respacings_are_those_of_deepfloyd(name):
    assert list(respaced(name)) == getattr(deepfloyd, f"{name}_timesteps")
    assert respaced(RESPACINGS[name]) == respaced(name)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_number_of_steps_is_that_of_diffusers(spacing):
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
    for steps in range(1, 1001):
        scheduler.set_timesteps(steps)
        mine = spaced_timesteps(1000, steps, spacing)
        theirs = scheduler.timesteps.numpy()[:steps]  # trailing has one too many, -1, for some numbers
        np.testing.assert_array_equal(mine, theirs)


@given(st.integers(1, 1200), st.integers(1, 1200), st.sampled_from(SPACINGS), st.booleans(), st.booleans())
def test_spacings_descend_within_the_schedule(total, steps, spacing, rounded, open_end):
    steps = min(steps, total - open_end)
    if steps < 1:
        return
    times = spaced_timesteps(total, steps, spacing, rounded=rounded, open_end=open_end)
    assert len(times) == steps
    assert (np.diff(times) < 0).all()
    assert times[-1] >= 0
    assert times[0] < total
    assert not (open_end and spacing != "trailing") or times[-1] > 0


def test_steps_offset_of_stable_diffusion():
    assert spaced_timesteps(1000, 5, "leading", 1).tolist() == [801, 601, 401, 201, 1]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_respacing_keeps_so_many_of_each_section(counts):
    times = respaced(",".join(map(str, counts)), 1000)
    assert len(times) == sum(counts)
    assert (np.diff(times) < 0).all()


def test_sigma_spacings():
    np.testing.assert_allclose(karras(0.1, 10, 7)[[0, -1]], [10, 0.1])
    np.testing.assert_allclose(np.diff(karras(0.1, 10, 7) ** (1 / 7), 2), 0, atol=1e-12)
    np.testing.assert_allclose(np.diff(np.log(exponential(0.1, 10, 7)), 2), 0, atol=1e-12)


def test_bad_input_is_refused():
    for match, call in [
        ("spacing 'even'", lambda: spaced_timesteps(1000, 10, "even")),
        ("do not fit", lambda: spaced_timesteps(1000, 1000, "leading", 1)),
        ("'fast' is unknown; expected one of fast27", lambda: respaced("fast")),
        ("takes 600", lambda: respaced("600,1")),
        ("takes 0", lambda: respaced("0,1")),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
