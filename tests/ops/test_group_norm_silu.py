"""The native group_norm_silu against its reference in float64, and its laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pydiff.ops import native
from pydiff.ops.group_norm_silu import group_norm_silu, group_norm_silu_reference

SHAPES = [(1, 4, 1, 1), (2, 6, 3, 5), (1, 32, 17, 13), (3, 12, 64, 33), (2, 64, 7), (1, 8, 20001)]
LAYOUTS = ["contiguous", "last"]

needs_core = pytest.mark.skipif(native.core() is None, reason=str(native.why_missing()))


def arrange(x: Tensor, layout: str) -> Tensor:
    return x if layout == "contiguous" else x.movedim(1, -1).contiguous().movedim(-1, 1)


def inputs(shape: tuple[int, ...], layout: str = "contiguous", offset: float = 0.5) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    batch, channels = shape[:2]
    return {
        "x": arrange(draw(*shape) * 2 + offset, layout),
        "weight": draw(channels),
        "bias": draw(channels),
        "scale": draw(batch, channels),
        "shift": draw(batch, channels),
    }


def as_float64(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value.double() if isinstance(value, Tensor) else value for key, value in given.items()}


@needs_core
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_equals_reference(shape: tuple[int, ...], layout: str, silu: bool, offset: float) -> None:
    full = inputs(shape, layout, offset)
    for absent in ((), ("scale", "shift"), ("weight", "bias"), ("weight", "bias", "scale", "shift"), ("scale",)):
        given = full | dict.fromkeys(absent)
        for groups in (1, 2, shape[1]):
            mine = group_norm_silu(**given, groups=groups, silu=silu)
            plain = group_norm_silu_reference(**given, groups=groups, silu=silu)
            exact = group_norm_silu_reference(**as_float64(given), groups=groups, silu=silu)
            assert mine.stride() == given["x"].stride()
            tiny = 1e-6 * exact.abs().max().clamp(min=1)
            assert (mine - exact).abs().max() <= 2 * (plain - exact).abs().max() + tiny


@needs_core
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(5, 6, 7, 9), (3, 10, 71, 67)])
def test_a_batch_is_its_pictures_alone(shape: tuple[int, ...], layout: str) -> None:
    given = inputs(shape, layout)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        whole = group_norm_silu(**given, groups=2)
        torch.set_num_threads(1)
        for i in range(shape[0]):
            alone = given | {k: given[k][i : i + 1] for k in ("x", "scale", "shift")}
            assert torch.equal(whole[i : i + 1], group_norm_silu(**alone, groups=2))
    finally:
        torch.set_num_threads(threads)


@needs_core
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("channels", "n"), [(2, 1), (6, 7), (10, 1025), (32, 4097)])
def test_every_output_is_written_and_nothing_else(last: bool, channels: int, n: int) -> None:
    x, out = torch.randn(2 * channels * n), torch.full((2 * channels * n + 2,), torch.nan)
    core = native.core()
    assert core is not None
    core.group_norm_silu(x.data_ptr(), 0, 0, 0, 0, out[1:].data_ptr(), 2, channels, n, 2, 1e-5, True, last, 2)
    assert not out[1:-1].isnan().any()
    assert out[0].isnan()
    assert out[-1].isnan()


@needs_core
@pytest.mark.parametrize("layout", LAYOUTS)
def test_extreme_values(layout: str) -> None:
    constant = arrange(torch.full((1, 4, 5, 5), 1e20), layout)
    assert torch.equal(group_norm_silu(constant, 2, None, None), torch.zeros(1, 4, 5, 5))
    one_nan = arrange(torch.randn(1, 4, 5, 5), layout)
    one_nan[0, 0, 2, 2] = torch.nan
    out = group_norm_silu(one_nan, 2, None, None)
    assert out[:, :2].isnan().all()
    assert not out[:, 2:].isnan().any()
    wide = torch.linspace(-200, 200, 4001).view(1, 1, -1)
    gain = torch.tensor([float(wide.std(correction=0))])
    torch.testing.assert_close(group_norm_silu(wide, 1, gain, None, 0.0), F.silu(wide), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    given = {k: v.to(dtype) for k, v in inputs((2, 6, 3, 5)).items()}
    out = group_norm_silu(**given, groups=3)
    assert out.dtype == dtype
    expected = group_norm_silu_reference(**as_float64(given), groups=3).to(dtype)
    torch.testing.assert_close(out, expected, rtol=3e-2, atol=3e-2)


def test_a_strided_view_is_served() -> None:
    x = torch.randn(2, 8, 6, 6)[:, ::2, 1:, 1:]
    expected = group_norm_silu_reference(x.double(), 2, None, None).float()
    torch.testing.assert_close(group_norm_silu(x, 2, None, None), expected, rtol=1e-5, atol=1e-5)


def test_gradients() -> None:
    given = {k: v.requires_grad_() for k, v in as_float64(inputs((2, 4, 3, 2))).items()}
    names = list(given)

    def run(*tensors: Tensor) -> Tensor:
        return group_norm_silu(**dict(zip(names, tensors, strict=True)), groups=2)

    assert torch.autograd.gradcheck(run, tuple(given.values()))
    single = {k: v.detach().float() for k, v in given.items()}
    single["weight"].requires_grad_()
    assert group_norm_silu(**single, groups=2).requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 6)}, r"x is torch.float32 \(2, 6\)"),
        ({"x": torch.zeros(2, 6, 5, dtype=torch.int64)}, "x is torch.int64"),
        ({"groups": 4}, "groups is 4 for 6 channels"),
        ({"groups": 0}, "groups is 0"),
        ({"weight": torch.zeros(5)}, r"weight has shape \(5,\); expected \(6,\)"),
        ({"scale": torch.zeros(1, 6)}, r"scale has shape \(1, 6\); expected \(2, 6\)"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    for run in (group_norm_silu, group_norm_silu_reference):
        with pytest.raises(ValueError, match=message):
            run(**inputs((2, 6, 3, 5)) | {"groups": 2} | change)
