"""What the instruction network is taught: pairs there and back, mirrored, with parts dropped, and where it looks."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pydiff.embedded import recipe
from pydiff.embedded.instruct import EMPHASIS, Lessons, Pairs, instruct_losses
from pydiff.embedded.objective import draw_times, shifted_alphas
from pydiff.nn.cond import Cond
from tests.embedded.pairs_folder import draw_pairs

SIZE = 32


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    draw_pairs(folder, SIZE)
    return folder


def lessons(home: Path, batch: int = 400) -> Lessons:
    return Pairs(home).lessons(np.random.default_rng(1), batch)


def test_pairs_go_both_ways_and_are_mirrored(home: Path) -> None:
    batch = lessons(home)
    assert set(batch.instructions) == {
        "", "make it green", "make it black", "make the green circle red", "make the black circle red"
    }  # fmt: skip
    reds = (batch.after[:, 0] > 0.5) & (batch.after[:, 1] < 0)  # the circle of what is red afterwards
    for row, words in enumerate(batch.instructions):
        if words:
            assert bool(reds[row].any()) == words.endswith("red")
    columns = (batch.after.amin(1) < 0).any(1).float()  # (B, W) where the circle is
    left = columns[:, : SIZE // 2].sum(1) > columns[:, SIZE // 2 :].sum(1)
    assert 0.4 < left.float().mean() < 0.6


def test_a_share_is_dropped(home: Path) -> None:
    batch = lessons(home, 4000)
    silent = torch.tensor([not words for words in batch.instructions])
    blind = (batch.before == 0).flatten(1).all(1)
    shares = [part.float().mean().item() for part in (silent & ~blind, blind & ~silent, silent & blind)]
    assert shares == pytest.approx([0.05] * 3, abs=0.015)


def test_objects_weigh_more(home: Path) -> None:
    batch = lessons(home)
    seen = ~(batch.before == 0).flatten(1).all(1)
    shown = torch.maximum(*((1 - picture).amax(1, keepdim=True) for picture in (batch.before, batch.after))) > 0.3
    assert torch.equal(batch.weight[seen], 1 + EMPHASIS * shown[seen].float())
    assert 0.02 < shown[seen].float().mean() < 0.2


def test_the_network_sees_the_picture_beside_x(home: Path) -> None:
    batch, levels, seen = lessons(home, 6), shifted_alphas(recipe.BASE_SHIFT), list[tuple[Tensor, Tensor, Cond]]()

    def unet(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        seen.append((x, t, cond))
        return torch.zeros(len(x), 6, *x.shape[2:])

    def encode(words: list[str]) -> Tensor:
        return torch.tensor([[[float(len(one))]] for one in words])

    losses = instruct_losses(unet, itertools.repeat(batch), encode, levels, torch.Generator().manual_seed(0), 0.25)
    loss, _ = next(losses)
    x, t, cond = seen[0]
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(t, draw_times(6, generator, 0.25))
    noise, bar = torch.randn(batch.after.shape, generator=generator), levels[t].view(-1, 1, 1, 1).float()
    assert torch.allclose(x[:, :3], bar.sqrt() * batch.after + (1 - bar).sqrt() * noise, atol=1e-5)
    assert torch.equal(x[:, 3:], batch.before)
    assert cond.text is not None
    assert cond.text.flatten().tolist() == [len(words) for words in batch.instructions]
    error = (bar.sqrt() * noise - (1 - bar).sqrt() * batch.after).square()
    assert loss.item() == pytest.approx((error * batch.weight).sum().item() / (3 * batch.weight.sum().item()), rel=1e-4)


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no pairs; make some with `python -m pydiff\.tools\.pairs`"):
        Pairs(tmp_path)
