"""Merged pixels in plans: the steps against `pydiff.nn.merge`, networks against their modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pydiff.nn.cond import Prepared
from pydiff.nn.edit import AttentionEdit
from pydiff.nn.merge import left, match
from pydiff.ops import native
from pydiff.runtime.planned import PlannedUNet, planned
from pydiff.runtime.planned.recorder import Ending
from tests.models.test_unet import make
from tests.runtime.test_planned import WIDE, WIDE_IF, closeness, wide
from tests.runtime.test_planned_steps import TYPES, close, given_view, recorder, run

pytestmark = pytest.mark.skipif(
    not hasattr(native.core(), "Program"), reason="the core or the processor has no products of matrices"
)
types = st.sampled_from(TYPES)
sides, long_sides = st.integers(1, 9), st.integers(14, 24)
channels = st.integers(4, 40).map(lambda half: 2 * half)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def in_lines(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C)."""
    return x.flatten(2).mT


def steps(x: Tensor, count: int, *, gap: int = 0) -> tuple[Tensor, Tensor]:
    """What the core makes of the pixels of x (B, C, H, W) that are left, (B, C, 1, M), and of these in the place of all
    with x beside and halved, both in float64."""
    r = recorder(x.dtype)
    view = given_view(r, x, gap)
    matches = r.match(view[0], count)
    merged = r.merge(view[0], matches)
    merged.buffer.kept = True
    out = r.unmerge(merged, matches, Ending(residual=view[0], scale=0.5))
    made = run(r, out, view)
    r = recorder(x.dtype)
    view = given_view(r, x, gap)
    return run(r, r.merge(view[0], r.match(view[0], count)), view), made


@settings(deadline=None, max_examples=60, derandomize=True)  # others may hold ties but for rounding
@given(
    types, st.integers(1, 3), sides | long_sides, sides | long_sides, channels, st.floats(0, 0.74), st.integers(0, 3)
)
def test_steps_are_those_of_the_module(
    dtype: torch.dtype, batch: int, height: int, width: int, count: int, share: float, gap: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, count, height, width).to(dtype)
    pixels = in_lines(x).double()
    matches = match(pixels, (height, width), left((height, width), share))
    expected = matches.merged(pixels)
    merged, made = steps(x, matches.own.shape[1], gap=gap)
    close(in_lines(merged), expected, dtype)
    close(in_lines(made), (matches.unmerged(expected) + pixels) / 2, dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_pixels_that_are_the_same_stay_as_they_are(dtype: torch.dtype) -> None:
    x = torch.randn(2, 22, 1, 1).to(dtype).expand(2, 22, 18, 15).contiguous()
    for same in (x, torch.zeros_like(x)):
        merged, made = steps(same, 100)
        assert torch.equal(merged, same.double()[:, :, :1].flatten(2)[:, :, None, :1].expand_as(merged))
        assert torch.equal(made, same.double())


@pytest.mark.parametrize("dtype", TYPES)
def test_not_a_number_stays_in_its_row(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 6, 6).to(dtype)
    _, expected = steps(x, 20)
    x[0] = float("nan")
    _, made = steps(x, 20)
    assert bool(made[0].isnan().all())
    assert torch.equal(made[1], expected[1])


def merging(prepared: Prepared, share: float) -> Prepared:
    return prepared._replace(merge=share)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.7])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "x4", "if", "if_super", "if_text_only"])
def test_every_family_equals_its_module(name: str, share: float) -> None:
    case = make(name, torch.float32, 4)
    network = planned(case.unet)
    assert isinstance(network, PlannedUNet)
    prepared = merging(network.prepare(case.cond), share)
    ours, theirs = network(case.x, case.t, prepared), case.unet(case.x, case.t, prepared)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    plain = network(case.x, case.t, merging(prepared, 0))
    assert torch.equal(plain, network(case.x, case.t, network.prepare(case.cond)))
    assert torch.equal(plain, ours) == (name == "if_text_only")


@pytest.mark.parametrize("config", [WIDE, WIDE_IF], ids=["separate", "joint"])
@pytest.mark.parametrize("dtype", TYPES)
def test_wide_networks(config: dict[str, Any], dtype: torch.dtype) -> None:
    unet, x, cond = wide(config, size=(18, 22))
    t = torch.tensor(500)
    exact = unet.double()(x.double(), t, merging(unet.prepare(cond._replace(text=cond.text.double())), 0.5))
    unet.to(dtype)
    prepared = merging(unet.prepare(cond), 0.5)
    ours, theirs = (network(x.to(dtype), t, prepared) for network in (planned(unet), unet))
    assert closeness(ours, exact) < max(2 * closeness(theirs, exact), 2e-6)


def test_a_row_does_not_depend_on_the_batch() -> None:
    unet, x, cond = wide(rows=3)
    network, t = planned(unet), torch.tensor(500)
    prepared = merging(network.prepare(cond), 0.5)
    together = network(x, t, prepared)
    for row in range(3):
        own = prepared._replace(text=tuple((k[row : row + 1], v[row : row + 1]) for k, v in prepared.text))
        assert torch.equal(network(x[row : row + 1], t, own)[0], together[row])


def test_threads_do_not_change_a_bit() -> None:
    unet, x, cond = wide()
    network, t, threads = planned(unet), torch.tensor(500), torch.get_num_threads()
    prepared = merging(network.prepare(cond), 0.5)
    expected = network(x, t, prepared)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(network(x, t, prepared), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "if"])
def test_the_outermost_level_alone(name: str) -> None:
    case = make(name, torch.float32, 4)
    network, prepared = planned(case.unet), merging(case.unet.prepare(case.cond), 0.5)
    assert isinstance(network, PlannedUNet)
    (ours, deep), (theirs, expected) = (of.reusing(case.x, case.t, prepared, None) for of in (network, case.unet))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    torch.testing.assert_close(deep, expected, atol=2e-5, rtol=0)
    (ours, _), (theirs, _) = (of.reusing(case.x, case.t - 10, prepared, expected) for of in (network, case.unet))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_edits_do_not_go_with_it() -> None:
    unet, x, cond = wide()
    network = planned(unet)
    prepared = merging(network.prepare(cond), 0.5)._replace(edit=AttentionEdit(7))
    with pytest.raises(ValueError, match="attention is edited or captured"):
        network(x, torch.tensor(500), prepared)
