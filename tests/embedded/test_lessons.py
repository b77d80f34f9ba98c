"""What the instruction network is taught: pairs there and back, mirrored, moved, partly dropped, and where it looks."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pydiff.embedded import instruct, recipe
from pydiff.embedded.instruct import EMPHASIS, INSIDE, SHIFT, Lessons, Pairs, drawn_pair, instruct_losses
from pydiff.embedded.instructions import change_of
from pydiff.embedded.judge import judge
from pydiff.embedded.objective import draw_times, shifted_alphas
from pydiff.images import open_image
from pydiff.nn.cond import Cond
from pydiff.tools.pairs import read_pairs
from tests.embedded.pairs_folder import draw_pairs

SIZE = 64  # at which the reader reads
HUES = {"red": (True, False), "green": (False, True), "black": (False, False)}  # whether red, and green, is above 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    draw_pairs(folder, SIZE)
    return folder


@pytest.fixture(autouse=True)
def _no_drawn_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruct, "DRAWN", 0.0)


def lessons(home: Path, batch: int = 400) -> Lessons:
    return Pairs(home).lessons(np.random.default_rng(1), batch)


def test_pairs_go_both_ways_and_are_mirrored(home: Path) -> None:
    batch, asked = lessons(home), set()
    for words, before, after in zip(batch.instructions, batch.before, batch.after, strict=True):
        named = [word for word in words.split() if word in HUES]
        if words and before.any():
            asked.add((_hue(before), _hue(after)))
            assert named[-1:] in ([], [_hue(after)])
            assert named[:-1] in ([], [_hue(before)])
    assert set(itertools.permutations(HUES, 2)) < asked  # green and black are of one picture
    assert len(set(batch.instructions)) > 30  # worded anew each time
    columns = (batch.after.amin(1) < 0).any(1).float()  # (B, W) where the circle is
    left = columns[:, : SIZE // 2].sum(1) > columns[:, SIZE // 2 :].sum(1)
    assert 0.4 < left.float().mean() < 0.6


def _hue(picture: Tensor) -> str:
    """The colour of the circle in a picture (3, H, W): of its darkest channel's pixels."""
    row, column = divmod(int(picture.amin(0).argmin()), SIZE)
    red, green, _ = (picture[:, row, column] > 0).tolist()
    return next(name for name, hue in HUES.items() if hue == (red, green))


def test_kinds_come_equally_often(home: Path) -> None:
    pairs, shares = Pairs(home), Counter[tuple[bool, ...]]()
    for share, (_, _, change) in zip(pairs.shares, pairs.pairs, strict=True):
        old, new = change.before.groups[0], change.after.groups[0]
        shares[old.colour != new.colour, old.shape != new.shape] += share
    assert len(pairs.pairs) == 6  # three of the source picture, and three of its targets
    assert list(shares.values()) == pytest.approx([1 / 3] * 3)


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


def test_pairs_are_moved_and_nothing_is_lost(home: Path) -> None:
    batch = lessons(home)
    middles, heights = set[float](), set[int]()
    for before, after in zip(batch.before, batch.after, strict=True):
        rows, columns = torch.cat([(one.amin(0) < 0).nonzero() for one in (before, after)]).unbind(1)
        assert min(rows.min(), columns.min()) >= INSIDE
        assert max(rows.max(), columns.max()) < SIZE - INSIDE
        middles.add(int(rows.min() + rows.max()) / 2)
        heights.add(int(rows.max() - rows.min()))
    assert 2 * SHIFT <= max(middles) - min(middles) <= 2 * SHIFT + 1
    assert len(heights) <= 4  # of three kinds of pairs: whole, wherever they are


def test_what_does_not_change_is_pasted(tmp_path: Path) -> None:
    """Where the target was made a little otherwise, far from what changes, it becomes the source."""
    draw_pairs(tmp_path, SIZE)
    changed = tmp_path / read_pairs(tmp_path)[0]["target"]
    picture = np.array(open_image(changed).convert("RGB"))
    picture[-8:, -8:] = (200, 240, 240)
    Image.fromarray(picture).save(changed)
    pairs = Pairs(tmp_path)
    (source, target, change), *_ = pairs.pairs
    before, after = pairs.pictures[source], pairs.pictures[target]
    assert np.array_equal(before[:, SIZE // 2 :], after[:, SIZE // 2 :])
    assert change == change_of(read_pairs(tmp_path)[0]["change"])
    assert np.abs(after.astype(int) - picture)[:, : SIZE // 2].max() <= 2


def test_drawn_pairs_change_what_they_say_and_no_other_pixel(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, several = np.random.default_rng(0), 0
    for _ in range(60):
        (before, after), change = drawn_pair(rng, SIZE)
        verdict = judge(change, before, after)
        assert verdict is not None
        assert verdict.done
        assert verdict.kept
        assert verdict.others > 0.99  # edges of other colours are read a little otherwise
        several += len(change.before.groups) > 1
    assert 35 < several < 55
    monkeypatch.setattr(instruct, "DRAWN", 1.0)
    batch = lessons(home, 60)
    assert len({words for words in batch.instructions if "circle" not in words}) > 20  # which the folder's all say


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
