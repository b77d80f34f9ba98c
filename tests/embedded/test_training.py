"""A tiny run of every phase, its resumption and its export; the objective and the optimiser against plain formulas."""

from __future__ import annotations

import csv
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pydiff
from pydiff.diffusion.levels import NoiseSchedule
from pydiff.embedded import checkpoint, data, export, recipe, train
from pydiff.embedded.objective import betas_of, cosine_alphas, diffusion_loss, draw_times, noise_levels, shifted_alphas
from pydiff.embedded.optimizer import Muon, make_optimizers, orthogonalized
from pydiff.embedded.tokens import train_tokenizer
from pydiff.embedded.world import SHAPES
from tests.embedded.pairs_folder import draw_pairs

PHASE = recipe.Phase(steps=1, batch=2, learning_rate=1e-3, warmup=1, ema=0.5, drop_text=0.5)

COSINE = cosine_alphas()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(captions=300)


def phases(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(recipe, "PHASES", {name: PHASE._replace(steps=steps) for name in recipe.PHASES})


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_every_phase_goes_on_and_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tokenizer: Any
) -> None:
    for module in (train, export):
        monkeypatch.setattr(module, "train_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(export, "known_words", functools.partial(export.known_words, 50))
    phases(monkeypatch, 1)
    draw_pairs(tmp_path / "pairs", recipe.STAGE_SIZES[0])
    train.train(tmp_path, list(recipe.PHASES))
    first = {name: checkpoint.load(tmp_path / f"{name}.safetensors") for name in recipe.PHASES}
    phases(monkeypatch, 2)
    train.train(tmp_path, list(recipe.PHASES))
    said = capsys.readouterr().out
    for name in ("base", "super_256", "super_1024", "palette", "instruct"):
        assert f"{name}: goes on from step 1" in said
        tensors, facts = checkpoint.load(tmp_path / f"{name}.safetensors")
        assert (first[name][1]["step"], facts["step"]) == (1, 2)
        before = first[name][0]
        assert tensors.keys() == before.keys()
        moved = [key for key in tensors if key.startswith("model.") and not torch.equal(tensors[key], before[key])]
        assert len(moved) > 10
        assert any(key.endswith(".momentum") for key in tensors)
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    _check_export(tmp_path)


def _check_export(work: Path) -> None:
    home = work / "weights"
    export.export(work, home)
    pipe = pydiff.load([home / name for name in ("base", "super_256", "super_1024")])
    assert pipe.sizes == recipe.STAGE_SIZES
    average = checkpoint.part(checkpoint.load(work / "base.safetensors")[0], "ema.unet.")
    for name, tensor in pipe.cascade.stages[0].unet.module.state_dict().items():
        assert torch.equal(tensor, average[name])
    assert pipe.generate("a red ring", seed=1, size=256, num_inference_steps=[1, 1]).images[0].size == (256, 256)
    for name in ("palette", "instruct"):
        stage = pydiff.load(home / name).cascade.stages[0]
        average = checkpoint.part(checkpoint.load(work / f"{name}.safetensors")[0], "ema.unet.")
        assert all(torch.equal(tensor, average[key]) for key, tensor in stage.unet.module.state_dict().items())
    again = work / "again"
    export.unpack(home, again)
    assert {path.stem for path in again.iterdir()} == set(recipe.PHASES) - {"text"}
    assert checkpoint.load(again / "palette.safetensors")[0]["model.unet.conv_in.weight"].shape[1] == 6
    states = [checkpoint.load(folder / "instruct.safetensors")[0] for folder in (work, again)]
    assert states[0].keys() - {key for key in states[0] if key.startswith("optimizer.")} == states[1].keys()


def test_a_state_on_disk_comes_back_and_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    state = {"model.a": torch.arange(6.0).view(2, 3).T, "model.b": torch.ones(()), "ema.a": torch.zeros(1)}
    checkpoint.save(path, state, {"step": 3})
    tensors, facts = checkpoint.load(path)
    assert facts == {"step": 3}
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    assert set(checkpoint.part(tensors, "model.")) == {"a", "b"}

    def broken(tensors: Any, place: Path, metadata: Any) -> None:
        place.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, state, {"step": 4})
    assert checkpoint.load(path)[1] == {"step": 3}


def test_levels_are_those_of_the_exported_schedulers() -> None:
    schedule = NoiseSchedule.from_config(export.NOISING)
    assert np.allclose(COSINE.numpy(), schedule.alphas_cumprod, rtol=2e-5)  # one is of float32 betas
    shifted = shifted_alphas(-3.5)
    schedule = NoiseSchedule.from_config({**export.SCHEDULER, "trained_betas": betas_of(shifted)})
    assert np.allclose(shifted.numpy(), schedule.alphas_cumprod, rtol=1e-4)
    assert (torch.logit(shifted_alphas(0.0)) - torch.logit(shifted)).allclose(torch.tensor(3.5, dtype=torch.float64))
    alpha, sigma = noise_levels(torch.tensor([0, 500, 999]), COSINE)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(3, 1, 1, 1))


def test_times() -> None:
    times = draw_times(2000, torch.Generator().manual_seed(0))
    assert times.min() >= 0
    assert times.max() <= 999
    assert abs(times.float().mean().item() - 500) < 30
    finer = draw_times(2000, torch.Generator().manual_seed(0), fine=0.4)
    assert abs((finer < 250).float().mean().item() - (0.4 + 0.6 / 4)) < 0.04


@pytest.mark.parametrize("t", [0, 1, 2, 300, 998, 999])
def test_the_variational_term_is_the_divergence_of_the_two_normals(t: int) -> None:
    generator = torch.Generator().manual_seed(t)
    x0 = torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1
    noise = torch.randn(x0.shape, generator=generator)
    output = torch.randn(1, 6, 4, 4, generator=generator)
    loss, variational = diffusion_loss(output, x0, noise, torch.tensor([t]), COSINE)
    v, share = (part.double() for part in output.chunk(2, dim=1))
    bar = float(COSINE[t])
    alpha, sigma = math.sqrt(bar), math.sqrt(1 - bar)
    assert loss.item() == pytest.approx(((v - (alpha * noise - sigma * x0)) ** 2).mean().item(), rel=1e-5)
    if t == 0:
        assert variational.item() == 0
        return
    previous = float(COSINE[t - 1])
    beta = 1 - bar / previous
    x = alpha * x0.double() + sigma * noise
    wanted, predicted = (
        math.sqrt(previous) * beta / (1 - bar) * d + math.sqrt(1 - beta) * (1 - previous) / (1 - bar) * x
        for d in (x0.double(), (alpha * x - sigma * v).clamp(-1, 1))
    )
    posterior = torch.tensor(beta * (1 - previous) / (1 - bar), dtype=torch.float64)
    deviation = ((share + 1) / 2 * math.log(beta) + (1 - share) / 2 * posterior.log()).div(2).exp()
    truth = torch.distributions.Normal(wanted, posterior.sqrt().expand_as(wanted))
    exact = torch.distributions.kl_divergence(truth, torch.distributions.Normal(predicted, deviation)).mean()
    assert variational.item() == pytest.approx(exact.item(), rel=1e-3, abs=1e-5)


def test_the_variational_term_trains_only_the_variance() -> None:
    output = torch.randn(2, 6, 4, 4, requires_grad=True)
    x0, noise = torch.zeros(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    _, variational = diffusion_loss(output, x0, noise, torch.tensor([10, 500]), COSINE)
    variational.backward()
    assert output.grad is not None
    assert (output.grad[:, :3] == 0).all()
    assert (output.grad[:, 3:] != 0).any()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 40), (2, 72, 8), (1, 1, 9)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    matrices = matrices + 0.01 * torch.eye(*shape[1:])  # no singular value close to 0
    made = orthogonalized(matrices)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert (made * (left @ right)).sum() / (made.norm() * (left @ right).norm()) > 0.95
    assert (orthogonalized(torch.zeros(shape)) == 0).all()


def test_every_parameter_has_one_optimiser_and_descends() -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    for name, layer in (("conv_in", nn.Conv2d(3, 8, 3)), ("inner", nn.Conv2d(8, 8, 3)), ("norm", nn.GroupNorm(2, 8))):
        model.add_module(name, layer)
    optimizers = make_optimizers(model, rate=0.01)
    owned = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in owned} == {id(p) for p in model.parameters()}
    assert len(owned) == len(list(model.parameters()))
    muon = next(optimizer for optimizer in optimizers if isinstance(optimizer, Muon))
    assert [p.shape for group in muon.param_groups for p in group["params"]] == [(8, 8, 3, 3)]
    x, target, losses = torch.randn(4, 3, 9, 9), torch.randn(4, 8, 5, 5), []
    for _ in range(30):
        loss = (model(x) - target).square().mean()
        losses.append(loss.item())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


def test_batches() -> None:
    rng = np.random.default_rng(0)
    layouts = data.layouts(rng, 3)
    assert layouts.colours.shape == layouts.shapes.shape == (3, data.GRID**2)
    assert layouts.shapes.max() <= len(SHAPES)
    assert (layouts.shapes < len(SHAPES)).any(dim=1).all()
    pictures = data.pictures(rng, 2, 64)
    assert pictures.images.shape == (2, 3, 64, 64)
    assert pictures.images.abs().max() <= 1
    crops = data.crops(rng, 2, 64, 256, 64)
    assert crops.images.shape == crops.low_res.shape == (2, 3, 64, 64)
    assert (crops.images - crops.low_res).abs().mean() < 0.3  # the same window of the same scene


def test_a_background_thread_ends_with_its_reader() -> None:
    import threading

    before = threading.active_count()
    numbers = iter(range(1000))
    reader = data.background(lambda: next(numbers))
    assert [next(reader) for _ in range(5)] == [0, 1, 2, 3, 4]
    reader.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_the_log_is_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phases(monkeypatch, 100)
    run = train.Run("super_256", {"unet": nn.Linear(2, 2)}, tmp_path)
    weight = run.model["unet"].weight
    run.learn((weight.square().mean(), weight.mean() * 0) for _ in range(200))
    with (tmp_path / "super_256.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["50", "100"]
    again = train.Run("super_256", {"unet": nn.Linear(2, 2)}, tmp_path)
    assert again.step == 100
    assert torch.equal(again.model["unet"].weight, weight)
    rates = []
    for again.step in range(100):
        rates.append(again._rate())
    assert max(rates) == PHASE.learning_rate
    assert rates[-1] < 0.05 * PHASE.learning_rate
