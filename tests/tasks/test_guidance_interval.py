"""Guidance in an interval of noise: rows of the same table, and branches that are not evaluated outside of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import pydiff
from pydiff import cli
from pydiff.diffusion.guidance import classifier_free, noise_shares, within
from pydiff.diffusion.levels import EDMSchedule, NoiseSchedule
from pydiff.diffusion.samplers import step_table
from pydiff.images import read_settings
from pydiff.tasks.generate import generate
from pydiff.tasks.request import Call
from pydiff.walk import Network

PROMPT = "a red circle left of a blue square"
CALL: dict[str, Any] = {"size": 64, "num_inference_steps": 6, "output_type": "np", "seed": 7}


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The branches of every evaluation."""
    seen: list[tuple[int, ...]] = []
    call = Network.__call__

    def told(self: Network, x: Any, t: float, branches: tuple[int, ...]) -> Any:
        seen.append(branches)
        return call(self, x, t, branches)

    monkeypatch.setattr(Network, "__call__", told)
    return seen


def test_the_levels_of_the_paper() -> None:
    """EDM's sigmas, where alpha is 1: guided are those in (sigma_lo, sigma_hi]."""
    low, high = 0.28, 2.9
    table = step_table("edm", EDMSchedule(), 16)
    shares = noise_shares(table)
    sigmas = {row.level: row.step.sigma / row.step.alpha for row in reversed(table.rows) if row.evaluate}
    interval = (2 * math.atan(low) / math.pi, 2 * math.atan(high) / math.pi)
    made = within(classifier_free(3.0, table.levels), shares, *interval)
    assert [row == (3.0, -2.0) for row in made.weights] == [low < sigmas[level] <= high for level in range(len(shares))]
    assert {(3.0, -2.0), (1.0, 0.0)} == set(made.weights)


def test_shares_fall_from_one_to_none() -> None:
    shares = noise_shares(step_table("ddim", NoiseSchedule.from_config({"num_train_timesteps": 1000}), 10))
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] < 0.2 < 0.9 < shares[0] < 1


def test_outside_of_it_one_branch_is_evaluated(pipe: pydiff.Pipeline, evaluated: list[tuple[int, ...]]) -> None:
    (plan,) = generate(pipe.cascade, Call(PROMPT, seed=7, options={"num_inference_steps": 6}), size=64).plans
    shares = noise_shares(plan.table)
    made = pipe.generate(PROMPT, guidance_interval=(shares[4], shares[1]), **CALL)
    assert evaluated == [(0,), (0, 1), (0, 1), (0, 1), (0,), (0,)]
    assert made.settings[0]["guidance_interval"] == [[shares[4], shares[1]]]
    scales = [1.0, *[plan.said["guidance_scale"]] * 3, 1.0, 1.0]
    listed = pipe.generate(PROMPT, guidance_scale=[scales], **CALL)
    assert np.array_equal(made.images, listed.images)


def test_all_of_it_is_the_picture_without(pipe: pydiff.Pipeline) -> None:
    plain = pipe.generate(PROMPT, **CALL)
    assert plain.settings[0]["guidance_interval"] == [None]
    assert np.array_equal(plain.images, pipe.generate(PROMPT, guidance_interval=(0, 1), **CALL).images)


def test_an_edit_takes_it(pipe: pydiff.Pipeline, evaluated: list[tuple[int, ...]]) -> None:
    pipe.edit(PROMPT, "a green circle left of a blue square", guidance_interval=(0.5, 0.9), **CALL)
    assert {(0,), (0, 1)} == set(evaluated)


def test_an_interval_that_no_level_is_in_guides_nothing(
    pipe: pydiff.Pipeline, evaluated: list[tuple[int, ...]]
) -> None:
    pipe.generate(PROMPT, guidance_interval=[0.0, 0.001], **CALL)
    assert evaluated == [(0,)] * 6


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, r"guidance_interval is 0\.5; expected two numbers"),
        ((0.1, 0.5, 0.9), "but 1 stages run|expected two numbers"),
        ((0.9, 0.1), "expected low before high"),
        ((0.5, 1.5), "guidance_interval is 1.5"),
        ((-0.1, 0.5), r"guidance_interval is -0\.1"),
        (("a", "b"), "guidance_interval"),
    ],
)
def test_others_are_refused(pipe: pydiff.Pipeline, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.generate(PROMPT, guidance_interval=value, **CALL)


def test_a_stage_that_is_not_guided_takes_none(pipe: pydiff.Pipeline) -> None:
    with pytest.raises(ValueError, match="that stage is not guided"):
        pipe.generate(PROMPT, guidance_interval=(0.1, 0.9), guidance_scale=1, **CALL)


def test_the_command(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = ["generate", PROMPT, "--size", "64", "--steps", "2", "--seed", "7"]
    assert cli.main([*call, "--guidance-interval", "0.2", "0.9", "--low-memory", "-o", "a.png"]) == 0
    settings = read_settings(tmp_path / "a.png")
    assert (settings["guidance_interval"], settings["low_memory"]) == ([[0.2, 0.9]], [True])
    assert cli.main(["generate", "--from", "a.png", "-o", "b.png"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
