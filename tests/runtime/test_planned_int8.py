"""Products of bytes against the same in float64 of what the bytes stand for, and networks against exact ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pydiff
from pydiff.ops import native
from pydiff.runtime.planned import PlannedUNet
from pydiff.runtime.planned.recorder import GEGLU, NONE, SILU, Ending, Head, Recorder
from pydiff.runtime.planned.weights import Weights
from tests.runtime.test_planned import WIDE, WIDE_IF, closeness, wide
from tests.runtime.test_planned_steps import ACTS, close, conv, given_view, run

pytestmark = pytest.mark.skipif(
    not getattr(native.core(), "byte_products", False), reason="the core or the processor has no products of bytes"
)
TYPES = [torch.float32, torch.bfloat16]
types = st.sampled_from(TYPES)
sides = st.integers(1, 13)
ROWS, COLUMNS = 1, -1


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def recorder(dtype: torch.dtype) -> Recorder:
    return Recorder(Weights(dtype, int8=True))


def rounded(x: Tensor, dim: int) -> Tensor:
    """x as bytes stand for it, in float64: 127 steps to the largest of each row."""
    scale = x.float().abs().amax(dim, keepdim=True) / 127
    steps = x.float() * (1 / scale) if dim == ROWS else x.float() / scale  # which halves of a step tell apart
    return steps.round().double() * scale.double()


@settings(deadline=None, max_examples=60)
@given(types, st.integers(1, 3), sides, sides, st.integers(1, 40), st.integers(1, 140), st.data())
def test_layers(
    dtype: torch.dtype, batch: int, height: int, width: int, fours: int, outs: int, data: st.DataObject
) -> None:
    torch.manual_seed(0)
    layer, act, gap = conv(4 * fours, outs, 1), data.draw(st.sampled_from([NONE, SILU])), data.draw(st.integers(0, 3))
    x, beside = (torch.randn(batch, size, height, width).to(dtype) for size in (4 * fours, outs))
    r = recorder(dtype)
    inputs = [given_view(r, x, gap), given_view(r, beside, gap)]
    out = r.conv(inputs[0][0], layer.to(dtype), Ending(None, act, inputs[1][0], 0.5))
    made = run(r, out, *inputs)
    assert layer.bias is not None
    sums = F.conv2d(rounded(x, ROWS), rounded(layer.weight[..., 0, 0], COLUMNS)[..., None, None], layer.bias.double())
    close(made, (ACTS[act](sums) + beside.double()) / 2, dtype, 4 * fours)


@pytest.mark.parametrize("dtype", TYPES)
def test_gated_layers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 192), torch.randn(2, 48, 5, 7).to(dtype)
    r = recorder(dtype)
    view = given_view(r, x)
    made = run(r, r.product(view[0], r.weights.gated(layer.to(dtype)), Ending(act=GEGLU)), view)
    sums = F.linear(rounded(x, ROWS).movedim(1, 3), rounded(layer.weight, COLUMNS), layer.bias.double())
    h, gate = sums.chunk(2, -1)
    close(made, (h * F.gelu(gate)).movedim(3, 1), dtype, 48)


@settings(deadline=None, max_examples=40)
@given(types, st.integers(1, 3), st.integers(7, 20), st.integers(7, 20), st.integers(4, 9), st.integers(64, 150))
def test_minimal_filtering(dtype: torch.dtype, batch: int, height: int, width: int, ins: int, outs: int) -> None:
    torch.manual_seed(0)
    layer, norm = conv(16 * ins, outs, 3), nn.GroupNorm(4, 16 * ins)
    x = (3 * torch.randn(batch, 16 * ins, height, width) + 1).to(dtype)
    r = recorder(dtype)
    view = given_view(r, x, 2)
    out = r.conv(view[0], layer.to(dtype), head=Head(r.statistics(view[0], norm), SILU))
    expected = layer.double()(F.silu(norm.double()(x.double())))
    assert closeness(run(r, out, view), expected) < 0.02


def test_a_row_is_rounded_alone() -> None:
    """A row comes out the same whatever rows stand beside it, one of zeros as its bias, and NaN only where it was."""
    torch.manual_seed(0)
    layer, x = conv(64, 70, 1), torch.randn(1, 64, 5, 4)
    x[:, :, 1, 2], x[:, 3, 2, 1], x[:, :, 4] = 0, torch.nan, 1e30
    made = []
    for picture in (x, x[:, :, :2]):
        r = recorder(torch.float32)
        view = given_view(r, picture)
        made.append(run(r, r.conv(view[0], layer), view))
    torch.testing.assert_close(made[0][:, :, :2], made[1], atol=0, rtol=0)
    assert layer.bias is not None
    assert torch.equal(made[0][0, :, 1, 2].float(), layer.bias)
    wrong = torch.zeros(5, 4, dtype=torch.bool)
    wrong[2, 1] = True
    assert torch.equal(made[0][0].isnan().any(0), wrong)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("config", [WIDE, WIDE_IF], ids=["separate", "joint"])
def test_networks_are_near(config: dict[str, Any], dtype: torch.dtype) -> None:
    unet, x, cond = wide(config)
    exact = unet(x, torch.tensor(500), cond)
    unet.to(dtype)
    cond = cond._replace(text=None if cond.text is None else cond.text.to(dtype))
    made = PlannedUNet(unet, int8=True)(x.to(dtype), torch.tensor(500), cond)
    assert 1e-4 < closeness(made, exact) < 0.05


def test_pictures_are_near_and_still_editable() -> None:
    call: dict[str, Any] = {"seed": 1, "size": 64, "num_inference_steps": 3, "output_type": "np"}
    exact, near = pydiff.load(), pydiff.load(int8=True)
    made, expected = (pipe.generate("a red circle", **call).images for pipe in (near, exact))
    assert 0 < abs(made - expected).mean() < 0.02
    edited = near.edit("a red circle", "a blue circle", **call).images
    assert abs(edited[0] - made[0]).mean() < 0.02
    assert near.generate("a red circle", capture=["circle"], **call).heat is not None
