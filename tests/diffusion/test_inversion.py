"""DDIM backwards against diffusers' DDIMInverseScheduler, and null-text optimisation against Google's loop."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pydiff.diffusion import NoiseSchedule, classifier_free, sample, sampler_from_scheduler_config, step_table, unguided
from pydiff.diffusion.inversion import Tuning, inverted, null_text
from tests.checkpoints.makers import widened

SHAPE = (1, 3, 4, 5)
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
FOLDERS = {
    "offset": {**LATENT, "set_alpha_to_one": False, "steps_offset": 1},
    "to one": LATENT,
    "trailing": {**COSINE, "timestep_spacing": "trailing"},
}
SCHEDULE = NoiseSchedule.make("scaled_linear", beta_start=0.00085, beta_end=0.012)


def network(x: Tensor, t: float) -> Tensor:
    return 0.8 * torch.sin(1.3 * x + math.cos(float(t) / 150)) + 0.4 * x.roll(1, -1)


def picture() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def states(table, x, predict=network, kind="epsilon"):
    return list(sample(lambda x, t, b: predict(x, t)[None], table, unguided(table.levels), x=x, prediction_type=kind))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("steps", [1, 4, 7, 50])
def test_every_step_is_that_of_diffusers(name: str, kind: str, steps: int) -> None:
    config = {**FOLDERS[name], "prediction_type": kind}
    own_end = config.get("set_alpha_to_one", True)
    if kind == "sample" and own_end:
        pytest.skip("diffusers divides by 0 where the picture is clean")
    theirs = widened(diffusers.DDIMInverseScheduler(**config))
    theirs.initial_alpha_cumprod = theirs.initial_alpha_cumprod.double()
    theirs.set_timesteps(steps)
    folder = sampler_from_scheduler_config({"_class_name": "DDIMScheduler", **config})
    table = inverted(folder.table(steps), kind)
    assert [row.t for row in table.rows] == theirs.timesteps.tolist()
    x = expected = picture()
    for state, t in zip(states(table, x, kind=kind), theirs.timesteps, strict=True):
        expected = theirs.step(network(expected, t), t, expected).prev_sample
        assert (state.x - expected).abs().max() < 1e-6 * expected.abs().max()  # tables of diffusers are float32


@pytest.mark.parametrize("timesteps", [None, (981, 700, 333, 5)])
@pytest.mark.parametrize("name", FOLDERS)
def test_an_eps_that_does_not_see_x_leads_back_exactly(name: str, timesteps: tuple[int, ...] | None) -> None:
    folder = sampler_from_scheduler_config({"_class_name": "DDIMScheduler", **FOLDERS[name]})
    table = folder.table(None if timesteps else 9, timesteps=timesteps)
    x = picture()

    def told(_: Tensor, t: float) -> Tensor:
        return torch.full(SHAPE, math.sin(t / 90), dtype=torch.float64) * torch.arange(5)

    noise = states(inverted(table, "epsilon"), x, told)[-1].x
    assert (noise - x).abs().max() > 0.5
    assert (states(table, noise, told)[-1].x - x).abs().max() < 1e-9


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_refinements_converge_to_the_way_forward(kind: str) -> None:
    table, x = step_table("ddim", SCHEDULE, 20), picture()
    errors = []
    for refinements in (0, 1, 3, 40):
        backwards = inverted(table, kind, refinements=refinements)
        assert backwards.evaluations == 20 * (1 + refinements)
        noise = states(backwards, x, lambda x, t: 0.2 * network(x, t), kind)[-1].x
        back = states(table, noise, lambda x, t: 0.2 * network(x, t), kind)[-1].x
        errors.append((back - x).abs().max().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[3] < 1e-8


@pytest.mark.parametrize(("sampler", "options"), [("ddim", {"eta": 0.5}), ("ddpm", {}), ("dpmpp_2m", {}), ("pndm", {})])
def test_other_samplers_are_refused(sampler: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="only a table of ddim with eta 0 can be inverted"):
        inverted(step_table(sampler, SCHEDULE, 5, **options), "epsilon")


def test_a_turn_by_a_right_angle_is_refused() -> None:
    schedule = NoiseSchedule.make(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    table = step_table("ddim", schedule, 1, spacing="trailing")
    assert len(inverted(table, "v_prediction").rows) == 1
    with pytest.raises(ValueError, match="use more steps, or no refinements"):
        inverted(table, "v_prediction", refinements=1)
    with pytest.raises(ValueError, match="refinements"):
        inverted(table, "v_prediction", refinements=-1)


STEPS, GUIDANCE = 12, 7.5
WEIGHT = torch.randn(6, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 8
TEXT = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
NULL = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def told(x: Tensor, t: float, words: Tensor) -> Tensor:
    """A network that reads words (1, T, D)."""
    return 0.5 * network(x, t) + 0.3 * torch.tanh(torch.sin(words).sum(1) @ WEIGHT + x.flatten(1)).view(SHAPE)


def googles(trajectory: list[Tensor], early_stop: float, inner_steps: int) -> tuple[list[Tensor], Tensor]:
    """null_optimization of null_text_w_ptp.ipynb, as its formulas say."""
    scheduler = widened(diffusers.DDIMScheduler(**FOLDERS["offset"]))
    scheduler.set_timesteps(STEPS)
    abar, stride = scheduler.alphas_cumprod, 1000 // STEPS
    x, null, found = trajectory[-1], NULL, []

    def stepped(eps: Tensor, t: int, x: Tensor) -> Tensor:
        a, b = abar[t], abar[t - stride] if t >= stride else scheduler.final_alpha_cumprod
        return b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps

    for i, t in enumerate(scheduler.timesteps.tolist()):
        null = null.clone().detach().requires_grad_()
        optimizer = torch.optim.Adam([null], lr=1e-2 * (1.0 - i / 100.0))
        conditional = told(x, t, TEXT)
        for _ in range(inner_steps):
            unconditional = told(x, t, null)
            eps = unconditional + GUIDANCE * (conditional - unconditional)
            loss = F.mse_loss(stepped(eps, t, x), trajectory[-2 - i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if loss.item() < early_stop + i * 2e-5:
                break
        found.append(null.detach())
        with torch.no_grad():
            unconditional = told(x, t, null)
            x = stepped(unconditional + GUIDANCE * (conditional - unconditional), t, x)
    return found, x


@pytest.mark.parametrize(("early_stop", "inner_steps"), [(1e-5, 10), (0.24, 10), (1e-5, 1)])
def test_null_states_are_those_of_googles_loop(early_stop: float, inner_steps: int) -> None:
    table = sampler_from_scheduler_config({"_class_name": "DDIMScheduler", **FOLDERS["offset"]}).table(STEPS)
    x = picture()
    trajectory = [x, *(s.x for s in states(inverted(table, "epsilon"), x, lambda x, t: told(x, t, TEXT)))]
    expected, end = googles(trajectory, early_stop, inner_steps)
    seen: list[tuple[int, int, float]] = []
    tuning = Tuning(inner_steps, early_stop, lambda *inner: seen.append(inner))
    guidance = classifier_free(GUIDANCE, STEPS)

    def predict(x: Tensor, t: float, states: Tensor | None) -> Tensor:
        return told(x, t, TEXT if states is None else states)

    made = list(null_text(predict, table, guidance, trajectory, NULL, tuning=tuning))
    assert max((ours.null - theirs).abs().max() for ours, theirs in zip(made, expected, strict=True)) < 1e-5
    assert (made[-1].x - end).abs().max() < 1e-5
    assert len({one.level for one in made}) == STEPS
    assert [level for level, *_ in seen] == sorted(level for level, *_ in seen)
    if early_stop > 0.1:
        assert len(seen) < STEPS * inner_steps  # it stopped early somewhere


def test_levels_that_are_not_guided_keep_their_null_states() -> None:
    table = step_table("ddim", SCHEDULE, 3)
    trajectory = [picture()] * 4
    guidance = classifier_free([1.0, 3.0, 1.0], 3)
    made = list(null_text(lambda x, t, s: told(x, t, TEXT if s is None else s), table, guidance, trajectory, NULL))
    assert torch.equal(made[0].null, NULL)
    assert math.isnan(made[0].loss)
    assert not torch.equal(made[1].null, NULL)
    assert torch.equal(made[2].null, made[1].null)
