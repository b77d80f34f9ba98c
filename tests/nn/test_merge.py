"""Token merging against loops in NumPy, and in layers of attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pydiff.models.unet import UNet, UNetConfig
from pydiff.models.unet2d import UNet2D, UNet2DConfig
from pydiff.nn.attention import PixelAttention, PixelSpec
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.edit import AttentionEdit
from pydiff.nn.merge import left, match
from tests.models.test_unet import CONFIGS, make

sides = st.integers(1, 9)
shares = st.floats(0, 0.74)


def groups(x: NDArray[Any], height: int, width: int, share: float) -> list[list[int]]:
    """The pixels of x (N, C) that become one, each group beginning with the pixel that stands for it."""
    pixels = range(height * width)
    destinations = [i for i in pixels if i // width % 2 == 0 and i % width % 2 == 0]
    sources = [i for i in pixels if i not in destinations]
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    nearest = {i: max(destinations, key=lambda j, i=i: float(unit[i] @ unit[j])) for i in sources}  # type: ignore[misc]
    ranked = sorted(sources, key=lambda i: -float(unit[i] @ unit[nearest[i]]))
    merged = ranked[: int(share * height * width)]
    made = [[j, *sorted(i for i in merged if nearest[i] == j)] for j in destinations]
    return made + [[i] for i in sources if i not in merged]


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 3), sides, sides, st.integers(2, 9), shares, st.integers(0, 1 << 30))
def test_matches_are_those_of_loops(
    batch: int, height: int, width: int, channels: int, share: float, seed: int
) -> None:
    x = np.random.default_rng(seed).normal(size=(batch, height * width, channels))
    count = left((height, width), share)
    matches = match(torch.from_numpy(x), (height, width), count)
    merged = matches.merged(torch.from_numpy(x))
    again = matches.unmerged(merged).numpy()
    for row in range(batch):
        expected = groups(x[row], height, width, share)
        assert len(expected) == count
        for place, group in enumerate(expected):
            mean = x[row, group].mean(0)
            np.testing.assert_allclose(merged[row, place].numpy(), mean, atol=1e-12)
            np.testing.assert_allclose(again[row, group], np.tile(mean, (len(group), 1)), atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(sides, sides, shares)
def test_at_least_the_destinations_are_left(height: int, width: int, share: float) -> None:
    pixels, destinations = height * width, -(-height // 2) * -(-width // 2)
    assert left((height, width), share) == max(pixels - int(share * pixels), destinations)
    assert left((height, width), 0) == pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [0.3, 0.74])
def test_pixels_that_are_the_same_stay_as_they_are(dtype: torch.dtype, share: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 12).to(dtype).expand(2, 35, 12).contiguous()
    matches = match(x, (5, 7), left((5, 7), share))
    assert torch.equal(matches.unmerged(matches.merged(x)), x)
    assert torch.equal(match(torch.zeros_like(x), (5, 7), 12).merged(x), x[:, :12])  # no direction at all


def test_rows_are_matched_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 64, 16)
    count = left((8, 8), 0.5)
    whole = match(x, (8, 8), count)
    for row in range(3):
        alone = match(x[row : row + 1], (8, 8), count)
        assert torch.equal(alone.place[0], whole.place[row])
        torch.testing.assert_close(alone.merged(x[row : row + 1])[0], whole.merged(x)[row], atol=1e-6, rtol=0)


def with_share(prepared: Prepared, share: float) -> Prepared:
    return prepared._replace(merge=share)


@torch.no_grad()
def test_a_layer_attends_over_what_is_left() -> None:
    torch.manual_seed(0)
    layer = PixelAttention(16, PixelSpec(heads=2, groups=None, eps=1e-5)).double().eval()
    layer.merges = True
    x, cond = torch.randn(2, 16, 6, 8, dtype=torch.float64), Prepared(None, (), None)
    plain = layer(x, cond)
    assert torch.equal(layer(x, with_share(cond, 0.01)), plain)  # less than one pixel
    pixels = x.flatten(2).mT
    matches = match(pixels, (6, 8), 24)
    small = matches.merged(pixels).mT.reshape(2, 16, 4, 6)
    expected = matches.unmerged((layer(small, cond) - small).flatten(2).mT).mT.reshape(x.shape)
    torch.testing.assert_close(layer(x, with_share(cond, 0.5)) - x, expected, atol=1e-12, rtol=0)
    layer.merges = False
    assert torch.equal(layer(x, with_share(cond, 0.5)), plain)


OUTERMOST = {
    "sd1": {"down_blocks.0", "up_blocks.1"},
    "sdxl": {"down_blocks.1", "up_blocks.1"},
    "if": {"down_blocks.1", "up_blocks.0", "mid_block"},
    "if_text_only": set[str](),
}


@pytest.mark.parametrize("name", OUTERMOST)
def test_the_outermost_level_that_attends_to_pixels_merges(name: str) -> None:
    unet = UNet(UNetConfig.from_dict(CONFIGS[name]))
    merging = {layer for layer, module in unet.layers.items() if module.merges}
    assert {".".join(layer.split(".")[:2]).removesuffix(".attentions") for layer in merging} == OUTERMOST[name]
    assert all("pixels" in unet.attention[layer] for layer in merging)


def test_levels_that_attend_to_text_alone_are_passed_over() -> None:
    unet = UNet(UNetConfig.from_dict(CONFIGS["x4"]))
    assert [name for name, layer in unet.layers.items() if layer.merges] == [
        "mid_block.attentions.0.transformer_blocks.0.attn1"
    ]


def of_pixels() -> tuple[UNet2D, Tensor]:
    torch.manual_seed(0)
    config = {
        "sample_size": 16,
        "block_out_channels": (16, 32),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "norm_num_groups": 8,
        "layers_per_block": 1,
    }
    return UNet2D(UNet2DConfig.from_dict(config)).eval(), torch.randn(2, 3, 16, 12)


@torch.no_grad()
def test_networks_of_pixels() -> None:
    unet, x = of_pixels()
    prepared, t = unet.prepare(Cond(None)), torch.tensor(500)
    plain = unet(x, t, prepared)
    assert torch.equal(unet(x, t, with_share(prepared, 0.0)), plain)
    merged = unet(x, t, with_share(prepared, 0.5))
    assert 1e-4 < (merged - plain).abs().max() < 1
    assert {name.split(".")[0] for name, layer in unet.layers.items() if layer.merges} == {"down_blocks", "up_blocks"}


@pytest.mark.parametrize("name", ["sd1", "sdxl", "if", "if_super"])
@torch.no_grad()
def test_every_family_merges(name: str) -> None:
    case = make(name, torch.float64, 2)
    prepared = case.unet.prepare(case.cond)
    plain, merged = (case.unet(case.x, case.t, with_share(prepared, share)) for share in (0.0, 0.5))
    assert torch.equal(plain, case.unet(case.x, case.t, prepared))
    assert merged.shape == plain.shape
    assert (merged - plain).abs().max() > 1e-6
    alone = case.unet(case.x[:1], case.t[:1], with_share(case.unet.prepare(case.cond.of(slice(0, 1))), 0.5))
    torch.testing.assert_close(alone, merged[:1], atol=1e-8, rtol=0)


def test_edits_do_not_go_with_it() -> None:
    case = make("sd1", torch.float32, 1)
    prepared = with_share(case.unet.prepare(case.cond), 0.5)
    with pytest.raises(ValueError, match="attention is edited or captured"):
        case.unet(case.x, case.t, prepared._replace(edit=AttentionEdit(9)))


def test_gradients_go_through_it() -> None:
    case = make("sd1", torch.float32, 1)
    x = case.x.clone().requires_grad_()
    case.unet(x, case.t, with_share(case.unet.prepare(case.cond), 0.5)).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
