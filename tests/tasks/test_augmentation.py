"""Conditioning augmentation, truncated: what a stage leaves at a noise level is the next one's low-res picture."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pydiff
from pydiff.cascade import State
from pydiff.diffusion.guidance import unguided
from pydiff.diffusion.loop import sample
from pydiff.diffusion.noise import Noise
from pydiff.tasks.begin import Micro, Now, augmented
from pydiff.tasks.plan import make_options, plan_stages

PROMPT = "a red circle"
PARTS = {"conditioning": None}
QUICK = {"num_inference_steps": [3, 1]}
STD = 0.5


def run(pipe: pydiff.Pipeline, **options: Any) -> tuple[pydiff.Result, list[State]]:
    states: list[State] = []
    made = pipe.generate(PROMPT, size=256, seed=7, output_type="pt", watch=states.append, **{**QUICK, **options})
    return made, states


def nothing_drawn(*_: object, **__: object) -> Tensor:
    raise AssertionError("noise was drawn")


def test_what_the_stage_before_leaves_is_not_noised_again(
    pipe: pydiff.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[Tensor] = []
    monkeypatch.setattr("pydiff.tasks.begin.augmented", lambda now: beside.append(augmented(now)) or beside[-1])
    made, states = run(pipe, noise_level=200, conditioning="truncated")
    left = next(state for state in states if state.stage_done)
    torch.testing.assert_close(beside[0], F.interpolate(left.x, size=(256, 256), mode="bilinear", align_corners=True))
    assert made.settings[0]["conditioning"] == [None, "truncated"]
    settings = {name: value for name, value in made.settings[0].items() if name not in ("task", "model", "version")}
    assert torch.equal(pipe.generate(**settings, output_type="pt").images, made.images)
    plain, _ = run(pipe, noise_level=200)
    assert plain.settings[0]["conditioning"] == [None, "non_truncated"]
    assert not torch.equal(made.images, plain.images)


def test_a_truncated_low_res_picture_draws_nothing(pipe: pydiff.Pipeline) -> None:
    options = make_options({"conditioning": "truncated", "noise_level": 60})
    _, plan = plan_stages(pipe.cascade.stages[:2], options, parts=PARTS)
    before = torch.randn(1, 3, 64, 64) * 2
    now = Now(plan, None, Noise([0]), before, Micro())
    same = augmented(now._replace(noise=nothing_drawn))  # type: ignore[arg-type]
    torch.testing.assert_close(same, F.interpolate(before, size=(256, 256), mode="bilinear", align_corners=True))


# the last: how much the sampler itself misses at so many steps (ddpm's smaller variance is that of data without any)
@pytest.mark.parametrize(
    ("sampler", "steps", "own"), [("dpmpp_2m", 100, 0.01), ("ddpm", 400, 0.043), ("edm", 50, 0.01)]
)
def test_truncated_and_noised_anew_are_equal_in_law(
    pipe: pydiff.Pipeline, sampler: str, steps: int, own: float
) -> None:
    """With the exact network of N(0, STD^2) in the place of the embedded base, every pixel is a chain of its own."""
    base = pipe.cascade.stages[0]
    fixed = dataclasses.replace(base.sampling, options={"variance_type": "fixed_small"})
    stages = (dataclasses.replace(base, sampling=fixed), pipe.cascade.stages[1])
    level = stages[1].noising.level(300)  # type: ignore[union-attr]
    law = level.alpha**2 * STD**2 + level.sigma**2
    for kind in ("truncated", "non_truncated"):
        options = {"conditioning": kind, "noise_level": 300, "sampler": sampler, "num_inference_steps": steps}
        table = plan_stages(stages, make_options({**options, "thresholding": "none"}), parts=PARTS)[0].table
        at = {row.t: (row.step.alpha, row.step.sigma) for row in table.rows}

        def velocity(x: Tensor, t: float, branches: tuple[int, ...], at: Any = at) -> Tensor:
            alpha, sigma = at[t]  # E[v | x], v = alpha eps - sigma x0, of variance preserving levels
            return (alpha * sigma * (1 - STD**2) / (alpha**2 * STD**2 + sigma**2) * x)[None]

        noise = Noise(range(4))
        x = table.initial_scale * noise((3, 64, 64), like=torch.empty(0, dtype=torch.float64))
        walk = sample(velocity, table, unguided(table.levels), x=x, noise=noise, prediction_type="v_prediction")
        *_, last = walk
        z = last.x
        if kind == "non_truncated":
            z = level.alpha * z + level.sigma * torch.randn(z.shape, generator=torch.manual_seed(1), dtype=z.dtype)
        assert abs(float(z.mean())) < 4 * (law / z.numel()) ** 0.5
        assert float(z.var()) == pytest.approx(law, rel=own + 0.02)  # of 49152 chains: three deviations


def test_enlarged_noise_is_not_the_noise_that_the_network_learned_from(pipe: pydiff.Pipeline) -> None:
    """What the documentation says of it: 4 / 9 of the variance, and neighbours alike."""
    small = torch.randn(8, 1, 64, 64, generator=torch.manual_seed(0))
    large = F.interpolate(small, size=(256, 256), mode="bilinear", align_corners=True)
    assert float(large.var()) == pytest.approx(4 / 9, rel=0.05)
    assert float((large[..., 1:] * large[..., :-1]).mean() / large.var()) > 0.9


def test_levels_of_every_stage(pipe: pydiff.Pipeline) -> None:
    stages = pipe.cascade.stages
    options = {"conditioning": "truncated", "noise_level": [None, 300, 20], "sampler": ["ddim"] * 3}
    cut = plan_stages(stages, make_options(options), parts=PARTS)
    whole = plan_stages(stages, make_options({**options, "conditioning": None}), parts=PARTS)
    assert [len(plan.table.rows) - len(other.table.rows) for plan, other in zip(cut, whole, strict=True)] == [-1, 0, 0]
    assert [plan.said["conditioning"] for plan in cut] == [None, "truncated", "truncated"]
    for plan, after in pairwise(cut):
        step, level = plan.table.rows[-1].step, after.stage.noising.level(after.noise_level)  # type: ignore[union-attr]
        made = step.c_x * step.alpha + step.c_denoised + step.c_raw, step.c_x * step.sigma  # of D = x0
        assert made == pytest.approx((level.alpha, level.sigma), rel=1e-9)
    alone = plan_stages(stages, make_options({**options, "conditioning": [None, None, "truncated"]}), parts=PARTS)
    assert alone[0].table == whole[0].table
    assert alone[1].table == cut[1].table


def test_at_noise_level_0_nothing_is_saved(pipe: pydiff.Pipeline) -> None:
    cut, whole = (
        plan_stages(pipe.cascade.stages[:2], make_options({"noise_level": 0, "conditioning": kind}), parts=PARTS)
        for kind in ("truncated", "non_truncated")
    )
    assert [row.step for row in cut[0].table.rows[:-1]] == [row.step for row in whole[0].table.rows[:-1]]
    assert cut[0].table.rows[-1].step.c_x * cut[0].table.rows[-1].step.sigma < 0.01


def test_a_picture_that_is_noised_and_walked_back_may_be_truncated(pipe: pydiff.Pipeline) -> None:
    picture = torch.rand(3, 64, 64, generator=torch.manual_seed(0))
    changed = pipe.image_to_image(
        picture, PROMPT, size=256, strength=0.5, num_inference_steps=[4, 1], seed=1,
        conditioning="truncated", noise_level=[None, 250], output_type="pt",
    )  # fmt: skip
    assert changed.settings[0]["strength"][0] == 0.5
    assert not torch.equal(changed.stages[0], changed.stages[0].clamp(0.01, 0.99))


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioning": "truncate"}, "conditioning is 'truncate'; expected one of non_truncated, truncated"),
        ({"conditioning": 3}, "conditioning is 3; expected one of"),
        ({"conditioning": ["truncated", None]}, "conditioning is 'truncated' for a base stage, which takes no low-res"),
        ({"conditioning": "truncated", "size": 64}, "conditioning is for super-resolution stages, but none runs"),
        ({"conditioning": "truncated", "denoising_end": 0.8}, "'truncated' and denoising_end is given: both end"),
        ({"conditioning": "truncated", "noise_level": 999}, "above which none of its steps is left"),
        ({"conditioning": "truncated", "sampler": "pndm"}, "pndm's weights are those of evenly spaced timesteps"),
    ],
)
def test_refused(pipe: pydiff.Pipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.generate(PROMPT, **{"size": 256, **options})


@pytest.mark.usefixtures("idle")
def test_refused_where_no_stage_before_is_stopped(pipe: pydiff.Pipeline) -> None:
    picture, mask = torch.rand(3, 64, 64), torch.zeros(64, 64)
    mask[:32] = 1
    with pytest.raises(ValueError, match="stage 1 has no stage before to stop; give 'non_truncated' there"):
        pipe.upscale(picture, PROMPT, size=1024, conditioning="truncated")
    with pytest.raises(ValueError, match="stage 2 is of a task that needs finished pictures"):
        pipe.inpaint(picture, mask, PROMPT, size=256, conditioning="truncated")
    first = dataclasses.replace(pipe.cascade.stages[0], codec=object())
    with pytest.raises(ValueError, match="the stage before stage 2 walks through latents"):
        plan_stages((first, pipe.cascade.stages[1]), make_options({"conditioning": "truncated"}), parts=PARTS)
