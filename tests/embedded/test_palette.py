"""What the Palette network learns from: damaged pictures, its first weights, and the pixels that its loss counts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pydiff.embedded import recipe
from pydiff.embedded.objective import cosine_alphas, diffusion_loss, draw_times, shifted_alphas
from pydiff.embedded.palette import DAMAGES, Damaged, begin_from, damaged, palette_losses
from pydiff.embedded.world import draw, place_things, sample_scene
from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.cond import Cond
from pydiff.tasks.restore import MASKED, TASKS

SIZE = 64


def scene(seed: int) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    made = sample_scene(rng)
    return draw(made, place_things(made, rng), SIZE), rng


def test_every_task_has_its_damage() -> None:
    assert tuple(DAMAGES) == TASKS


def test_grey_is_luma() -> None:
    image, rng = scene(1)
    left = DAMAGES["colorize"](image, rng).picture
    assert (left == left[..., :1]).all()
    assert np.abs(left[..., 0] - image @ (0.299, 0.587, 0.114)).max() < 1


@pytest.mark.parametrize("task", MASKED)
def test_what_masks_leave(task: str) -> None:
    kinds = set()
    for seed in range(60):
        image, rng = scene(seed)
        left, mask = DAMAGES[task](image, rng)
        assert left is image
        assert mask is not None
        assert mask.shape == (SIZE, SIZE)
        assert 0.02 < mask.mean() < 0.8
        if task == "uncrop":
            rows, columns = np.nonzero(~mask)
            high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) == high * wide  # one rectangle
            kinds.add((rows.min() == 0, columns.min() == 0, rows.max() == SIZE - 1, columns.max() == SIZE - 1))
    if task == "uncrop":
        assert {sum(kind) for kind in kinds} == {0, 3}  # around the centre, or at one side
        assert len(kinds) == 5  # each of the four sides


def test_jpeg_changes_every_picture_a_little() -> None:
    errors = []
    for seed in range(20):
        image, rng = scene(seed)
        left, mask = DAMAGES["jpeg"](image, rng)
        assert mask is None
        errors.append(np.abs(left.astype(float) - image).mean())
    assert min(errors) > 0.1
    assert max(errors) < 20
    assert max(errors) > 3 * min(errors)  # of several qualities


def test_damage_is_repeatable_and_batches_hold_every_task() -> None:
    batch, again = (damaged(np.random.default_rng(7), 40, SIZE) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))
    assert batch.images.shape == batch.beside.shape == (40, 3, SIZE, SIZE)
    assert batch.mask.shape == (40, 1, SIZE, SIZE)
    assert batch.images.abs().max() <= 1
    holes = [i for i in range(40) if not batch.mask[i].all()]
    assert 5 < len(holes) < 35
    for i in holes:
        missing = batch.mask[i].expand(3, -1, -1) > 0
        assert torch.equal(batch.beside[i][~missing], batch.images[i][~missing])
        assert batch.beside[i][missing].std() == pytest.approx(1, abs=0.15)
    whole = set(range(40)) - set(holes)
    grey = [i for i in whole if torch.equal(batch.beside[i, 0], batch.beside[i, 1])]
    assert grey
    assert len(grey) < len(whole)


SMALL: dict[str, Any] = {**recipe.BASE, "block_out_channels": (8, 8, 32, 32), "layers_per_block": 1}


def small(channels: int) -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig.from_dict({**SMALL, "in_channels": channels}))


def test_it_begins_as_the_base_network() -> None:
    base, unet = small(3), small(6)
    begin_from(unet, base.state_dict())
    generator = torch.Generator().manual_seed(1)
    x, beside = (torch.randn(2, 3, 16, 24, generator=generator) for _ in range(2))
    cond, t = Cond(text=torch.randn(2, 5, 128, generator=generator)), torch.tensor([3, 800])
    made = unet(torch.cat([x, beside], dim=1), t, cond)
    assert (made - base(x, t, cond)).abs().max() < 1e-5
    made.square().mean().backward()
    assert unet.conv_in.weight.grad is not None
    assert unet.conv_in.weight.grad[:, 3:].abs().max() > 0  # and learns of the damaged picture at once


def test_the_loss_is_a_mean_over_the_mask() -> None:
    generator = torch.Generator().manual_seed(2)
    output = torch.randn(2, 6, 4, 5, generator=generator, requires_grad=True)
    x0, noise = (torch.randn(2, 3, 4, 5, generator=generator) for _ in range(2))
    mask = torch.zeros(2, 1, 4, 5)
    mask[0, :, 1:3, 2:] = mask[1, :, 0] = 1
    t, levels = torch.tensor([100, 700]), cosine_alphas()
    loss, variational = diffusion_loss(output, x0, noise, t, levels, mask)
    bar = levels[t].view(2, 1, 1, 1).float()
    error = (output[:, :3] - (bar.sqrt() * noise - (1 - bar).sqrt() * x0)).square()
    assert loss.item() == pytest.approx(error[mask.expand_as(error) > 0].mean().item(), rel=1e-5)
    (loss + variational).backward()
    assert output.grad is not None
    assert torch.equal(output.grad.abs().sum(1, keepdim=True) > 0, mask > 0)
    for plain, masked in zip(
        diffusion_loss(output, x0, noise, t, levels),
        diffusion_loss(output, x0, noise, t, levels, torch.ones(2, 1, 4, 5)),
        strict=True,
    ):
        assert plain.item() == pytest.approx(masked.item(), rel=1e-5)


class Spy(nn.Module):
    """Keeps what it is given and predicts nothing."""

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.x, self.t, self.cond = x, t, cond
        return torch.zeros(len(x), 6, *x.shape[2:])


def test_x_is_noisy_only_where_something_is_to_be_made() -> None:
    spy, levels = Spy(), shifted_alphas(recipe.BASE_SHIFT)
    batch = damaged(np.random.default_rng(3), 8, SIZE)
    states = torch.randn(1, 7, 128)
    batches: itertools.repeat[Damaged] = itertools.repeat(batch)
    next(palette_losses(spy, batches, states, levels, torch.Generator().manual_seed(0), 0.25))
    x, beside = spy.x.chunk(2, dim=1)
    assert torch.equal(beside, batch.beside)
    assert spy.cond.text is not None
    assert torch.equal(spy.cond.text, states.expand(8, -1, -1))
    missing = batch.mask.expand_as(x) > 0
    assert torch.equal(x[~missing], batch.images[~missing])
    noise = torch.Generator().manual_seed(0)
    assert torch.equal(spy.t, draw_times(8, noise, 0.25))
    bar = levels[spy.t].view(-1, 1, 1, 1)
    expected = bar.sqrt() * batch.images + (1 - bar).sqrt() * torch.randn(x.shape, generator=noise)
    assert (x - expected)[missing].abs().max() < 1e-5
