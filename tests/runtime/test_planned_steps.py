"""The steps of plans against torch in float64: sizes of every remainder, views with gaps, memory full of NaN before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pydiff.ops import native
from pydiff.runtime.planned.memory import Arena, Buffer, View
from pydiff.runtime.planned.recorder import GEGLU, GELU, NONE, SILU, Ending, Head, Recorder
from pydiff.runtime.planned.weights import Weights

pytestmark = pytest.mark.skipif(
    not hasattr(native.core(), "Program"), reason="the core or the processor has no products of matrices"
)
BFLOAT16 = getattr(native.core(), "bfloat16_products", False)
TYPES = [torch.float32, torch.bfloat16] if BFLOAT16 else [torch.float32]
ACTS: dict[int, Callable[[Tensor], Tensor]] = {NONE: lambda x: x, SILU: F.silu, GELU: F.gelu}
types = st.sampled_from(TYPES)
sides = st.integers(1, 13)
channels = st.integers(1, 40).map(lambda half: 2 * half)


def recorder(dtype: torch.dtype) -> Recorder:
    return Recorder(Weights(dtype))


def given_view(r: Recorder, x: Tensor, gap: int = 0, dtype: torch.dtype | None = None) -> tuple[View, Tensor]:
    """A view for x (B, C, H, W), with other channels before and behind its own; and what is written to it."""
    batch, width, height, length = x.shape
    whole = r.new((batch, height, length, width + 2 * gap), dtype, kept=True)
    return whole.columns(gap, gap + width), x


def run(r: Recorder, out: View, *inputs: tuple[View, Tensor]) -> Tensor:
    """What the steps make of the inputs, (B, C, H, W) in float64, on one thread and on three."""
    program, arena = r.written()
    made = []
    for threads in (1, 3):
        arena.memory.fill_(255)  # NaN of either type
        for view, x in inputs:
            arena.tensor(view).copy_(x.permute(0, 2, 3, 1))
        program.run(0, len(program), threads)
        made.append(arena.tensor(out).permute(0, 3, 1, 2).double())
    torch.testing.assert_close(*made, atol=0, rtol=0, equal_nan=True)
    return made[0]


def tolerance(dtype: torch.dtype, depth: int) -> float:
    """Of values of about 1: one rounding of the result in bfloat16, or of as many sums in float32."""
    return 0.02 if dtype == torch.bfloat16 else 2e-6 * max(depth, 16) ** 0.5


def close(out: Tensor, expected: Tensor, dtype: torch.dtype, depth: int = 1) -> None:
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(out, expected, atol=scale * tolerance(dtype, depth), rtol=0)


def conv(ins: int, outs: int, kernel: int, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    made = nn.Conv2d(ins, outs, kernel, stride, kernel // 2 if padding is None else padding).requires_grad_(False)
    nn.init.normal_(made.weight, std=(ins * kernel * kernel) ** -0.5)
    return made


def exactly(module: nn.Module, dtype: torch.dtype) -> Any:
    """The module of weights as they are rounded, in float64."""
    return module.to(dtype).double()


@settings(deadline=None, max_examples=60)
@given(types, st.integers(1, 3), sides, sides, channels, st.integers(1, 140), st.sampled_from([1, 3, 5]), st.data())
def test_convolutions(
    dtype: torch.dtype, batch: int, height: int, width: int, ins: int, outs: int, kernel: int, data: st.DataObject
) -> None:
    torch.manual_seed(0)
    layer = conv(ins, outs, kernel)
    act, gap = data.draw(st.sampled_from([NONE, SILU, GELU])), data.draw(st.integers(0, 3))
    x, beside = (torch.randn(batch, size, height, width).to(dtype) for size in (ins, outs))
    told = torch.randn(batch, outs, 1, 1)
    r = recorder(dtype)
    inputs = [given_view(r, x, gap), given_view(r, beside, gap), given_view(r, told, 0, torch.float32)]
    out = r.conv(inputs[0][0], layer.to(dtype), Ending(inputs[2][0], act, inputs[1][0], 0.5))
    made = run(r, out, *inputs)
    sums = exactly(layer, dtype)(x.double()) + told.double()
    close(made, (ACTS[act](sums) + beside.double()) / 2, dtype, ins * kernel * kernel)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("outs", [16, 32, 48, 64, 112])
def test_sums_of_several_chunks(dtype: torch.dtype, outs: int) -> None:
    torch.manual_seed(0)
    layer, x = conv(4200, outs, 1), torch.randn(1, 4200, 3, 5).to(dtype)
    r = recorder(dtype)
    view = given_view(r, x)
    close(run(r, r.conv(view[0], layer.to(dtype)), view), exactly(layer, dtype)(x.double()), dtype, 4200)


@settings(deadline=None, max_examples=40)
@given(types, st.integers(1, 3), st.integers(7, 20), st.integers(7, 20), st.integers(4, 9), st.integers(64, 150))
def test_minimal_filtering(dtype: torch.dtype, batch: int, height: int, width: int, ins: int, outs: int) -> None:
    torch.manual_seed(0)
    layer, norm = conv(16 * ins, outs, 3), nn.GroupNorm(4, 16 * ins).requires_grad_(False)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = (3 * torch.randn(batch, 16 * ins, height, width) + 1).to(dtype)
    r = recorder(dtype)
    view = given_view(r, x, 2)
    out = r.conv(view[0], layer.to(dtype), head=Head(r.statistics(view[0], norm), SILU))
    made = run(r, out, view)
    h = F.silu(norm.double()(x.double()))
    expected = exactly(layer, dtype)(h)
    rounded = layer.to(dtype)(h.to(dtype)).double()  # what torch makes of it
    error, theirs = (made - expected).norm(), (rounded - expected).norm()
    assert error <= 2 * theirs + 1e-6 * expected.norm()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("size", "padding"), [((8, 6), 1), ((8, 6), 0), ((7, 9), 1)])
def test_halving(dtype: torch.dtype, size: tuple[int, int], padding: int) -> None:
    torch.manual_seed(0)
    layer, x = conv(20, 24, 3, stride=2, padding=padding), torch.randn(2, 20, *size).to(dtype)
    r = recorder(dtype)
    view = given_view(r, x)
    made = run(r, r.conv(view[0], layer.to(dtype)), view)
    padded = x.double() if padding else F.pad(x.double(), (0, 1, 0, 1))
    close(made, exactly(layer, dtype)(padded), dtype, 180)


@pytest.mark.parametrize("dtype", TYPES)
def test_gated_layers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 192).requires_grad_(False), torch.randn(2, 48, 5, 7).to(dtype)
    r = recorder(dtype)
    view = given_view(r, x)
    made = run(r, r.product(view[0], r.weights.gated(layer.to(dtype)), Ending(act=GEGLU)), view)
    h, gate = exactly(layer, dtype)(x.double().movedim(1, 3)).chunk(2, -1)
    close(made, (h * F.gelu(gate)).movedim(3, 1), dtype, 48)


@settings(deadline=None, max_examples=40)
@given(types, st.integers(1, 3), sides, sides, st.integers(1, 12), st.sampled_from([1, 2, 4]), st.booleans())
def test_norms(dtype: torch.dtype, batch: int, height: int, width: int, each: int, groups: int, scaled: bool) -> None:
    torch.manual_seed(0)
    count = each * groups
    norm = nn.GroupNorm(groups, count, eps=1e-4).requires_grad_(False)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x, told = (torch.randn(batch, count, height, width) + 2).to(dtype), torch.randn(batch, 2 * count, 1, 1)
    r = recorder(dtype)
    view, both = given_view(r, x, 3), given_view(r, told, 0, torch.float32)
    parts = [both[0].columns(i * count, (i + 1) * count) if scaled else None for i in range(2)]
    out = r.normalise(view[0], Head(r.statistics(view[0], norm, *parts), SILU), edge=1)
    made = run(r, out, view, both)
    h = torch.group_norm(x.double(), groups, norm.weight.double(), norm.bias.double(), 1e-4)
    if scaled:
        h = h * (1 + told[:, :count].double()) + told[:, count:].double()
    close(made, F.silu(h), dtype, 64)


@settings(deadline=None, max_examples=30)
@given(types, st.integers(1, 300), st.integers(1, 5))
def test_layer_norms(dtype: torch.dtype, width: int, items: int) -> None:
    torch.manual_seed(0)
    norm, x = nn.LayerNorm(width).requires_grad_(False), (5 * torch.randn(2, width, 1, items) + 3).to(dtype)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    r = recorder(dtype)
    view = given_view(r, x, 1)
    made = run(r, r.layer_norm(view[0], norm), view)
    close(made, norm.double()(x.double().movedim(1, 3)).movedim(3, 1), dtype, 64)


@settings(deadline=None, max_examples=30)
@given(types, sides, sides, sides, sides, st.integers(1, 40))
def test_sizes(dtype: torch.dtype, height: int, width: int, high: int, long: int, count: int) -> None:
    x = torch.randn(2, count, height, width).to(dtype)
    r = recorder(dtype)
    view = given_view(r, x, 1)
    made = run(r, r.resample(view[0], high, long, mean=False), view)
    assert torch.equal(made, F.interpolate(x, size=(high, long)).double())
    if min(height, width) > 1:
        r = recorder(dtype)
        view = given_view(r, x, 1)
        made = run(r, r.resample(view[0], height // 2, width // 2, mean=True), view)
        close(made, F.avg_pool2d(x.double(), 2), dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_not_a_number_stays_one(dtype: torch.dtype) -> None:
    x = torch.randn(1, 16, 4, 4).to(dtype)
    x[0, 3, 2, 1] = float("nan")
    r = recorder(dtype)
    view = given_view(r, x)
    made = run(r, r.conv(view[0], conv(16, 16, 1).to(dtype), Ending(act=GELU)), view)
    assert bool(made[0, :, 2, 1].isnan().all())
    assert int(made.isnan().sum()) == 16


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 20), st.integers(0, 6), st.booleans()), min_size=1))
def test_buffers_of_one_time_do_not_overlap(drawn: list[tuple[int, int, int, bool]]) -> None:
    buffers = [Buffer(size, kept, first, first + length) for size, first, length, kept in drawn]
    arena = Arena()
    arena.place(buffers)
    assert arena.memory.data_ptr() % 64 == 0
    for index, one in enumerate(buffers):
        assert one.offset % 64 == 0
        assert one.offset + one.size <= len(arena.memory)
        for other in buffers[:index]:
            together = one.first <= other.last and other.first <= one.last
            assert not together or one.offset >= other.offset + other.size or other.offset >= one.offset + one.size
