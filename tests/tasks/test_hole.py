"""Holes: what is run of a picture, and how what is made is laid over what is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from torch import Tensor

from pydiff.arrays import hosted, on_host
from pydiff.images import mask_from_user, pictures_from_user, to_pil
from pydiff.tasks.hole import Hole, hole_in, make_hole

TORCH = torch.empty(0)  # a network's kind of array


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def tensors(picture: Any) -> Tensor:
    return torch.from_numpy(pictures_from_user(picture))


def made_up(hole: Hole, count: int = 1, scale: float = 0.9) -> Tensor:
    """In the place of what a network makes."""
    generator = torch.Generator().manual_seed(1)
    return scale * (torch.rand(count, 3, *hole.size, generator=generator) * 2 - 1)


def laid(hole: Hole, made: Tensor) -> list[np.ndarray]:
    return [np.asarray(one) for one in to_pil(hole.finish(made))]


masks = array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=13).flatmap(lambda shape: arrays(bool, shape))


@given(masks, st.integers(1, 8), st.sampled_from([None, 0, 3]), st.sampled_from([0.0, 2.0, 3.5]))
@settings(max_examples=150, deadline=None)
def test_what_is_black_is_kept_to_the_bit(mask: np.ndarray, step: int, crop: int | None, feather: float) -> None:
    if not mask.any():
        mask[0, -1] = True
    picture = pixels(*mask.shape)
    hole = hole_in(tensors(picture), mask, (step, step), crop=crop, crop_size=(8, 12), feather=feather)
    if crop is None:
        assert all(side % step == 0 for side in hole.size)
        assert hole.image.shape[2:] == hole.mask.shape[2:] == hole.size
    assert hole.mask.sum() > 0
    for wide in (torch.float32, torch.float64, torch.bfloat16):
        final = laid(hole, made_up(hole).to(wide))[0]
        assert final.shape == picture.shape
        assert np.array_equal(final[~mask], picture[~mask])
    nothing = laid(hole, torch.full((1, 3, *hole.size), torch.nan))[0]  # what is made in the margin is not seen
    assert np.array_equal(nothing[~mask], picture[~mask])


def test_what_is_white_is_what_was_made() -> None:
    mask = np.zeros((7, 9), bool)
    mask[2:5, 3:8] = True
    hole = make_hole(pixels(7, 9), mask, (4, 4), TORCH)
    assert hole.size == (8, 12)
    made = made_up(hole)
    final = hole.finish(made)
    white = torch.from_numpy(mask)
    assert torch.equal(final[..., white], made[..., :7, :9][..., white])
    assert torch.equal(hole.image[..., 7, :9], hole.image[..., 6, :9])  # edges are repeated


def test_grays_are_shares() -> None:
    mask = np.zeros((4, 6), np.float32)
    mask[1, :5] = (0.0, 0.25, 0.5, 0.75, 1.0)
    picture = pixels(4, 6)
    hole = hole_in(tensors(picture), mask, (1, 1), soft=True)
    made = made_up(hole)
    final, kept = hole.finish(made), hole.given
    share = torch.from_numpy(mask)
    assert torch.allclose(final, kept + share * (made - kept), atol=1e-6)
    assert torch.equal(final[..., share == 0], kept[..., share == 0])
    assert torch.equal(final[..., share == 1], made[..., share == 1])
    assert torch.equal(hole.mask[0, 0], (share > 0).float())  # wherever a share is made, all of it is run


@pytest.mark.parametrize("feather", [1, 3, 2.5])
def test_a_feather_fades_inside_of_the_hole(feather: float) -> None:
    mask = np.zeros((21, 24), bool)
    mask[3:18, :15] = mask[19, 20] = True  # to the picture's left edge, which is no edge of the hole
    weight = hole_in(tensors(pixels(21, 24)), mask, (1, 1), feather=feather).weight[0, 0]
    depth = torch.tensor([min(1.0, d / (feather + 1)) for d in range(1, 8)])
    assert torch.equal(weight > 0, torch.from_numpy(mask))
    assert torch.allclose(weight[10, 8:15].flip(0), depth)
    assert torch.allclose(weight[3:10, 5], depth)
    assert torch.allclose(weight[10, :3], torch.ones(3))
    assert weight[19, 20] > 0  # the smallest hole is not lost


def test_no_feather_is_no_feather() -> None:
    mask = np.eye(5, dtype=bool)
    weight = hole_in(tensors(pixels(5, 5)), mask, (1, 1), feather=0.0).weight
    assert torch.equal(weight[0, 0], torch.from_numpy(mask).float())


@given(
    st.integers(8, 60),
    st.integers(8, 60),
    st.integers(0, 20),
    st.sampled_from([(16, 16), (12, 16), (32, 16)]),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_crops_are_those_of_diffusers(height: int, width: int, pad: int, size: tuple[int, int], data: Any) -> None:
    mask = np.zeros((height, width), bool)
    for _ in range(data.draw(st.integers(1, 3))):
        mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = True
    hole = hole_in(tensors(pixels(height, width)), mask, (1, 1), crop=pad, crop_size=size)
    left, top, right, bottom = VaeImageProcessor.get_crop_region(Image.fromarray(mask), size[1], size[0], pad)
    (box,) = hole.boxes
    assert (box.top, box.left, box.height, box.width) == (top, left, bottom - top, right - left)
    assert hole.size == size
    assert hole.mask.any()


def test_a_crop_is_laid_back_where_it_was_cut() -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 56), indexing="ij")
    picture = torch.stack([rows, columns, rows * columns])
    mask = np.zeros((40, 56), bool)
    mask[10:22, 30:44] = True
    hole = hole_in(tensors(picture), mask, (1, 1), crop=4, crop_size=(32, 32))
    assert hole.boxes == ((5, 26, 22, 22),)
    again = hole.finish(hole.image)
    assert (again - hole.given).abs().max() < 0.01  # smooth pictures survive being enlarged and shrunk
    inside = torch.zeros(40, 56, dtype=torch.bool)
    inside[10:22, 30:44] = True
    assert torch.equal(hole.finish(-hole.image)[..., ~inside], hole.given[..., ~inside])


def test_every_picture_has_its_own_box() -> None:
    holes = np.zeros((2, 30, 30), bool)
    holes[0, 3:6, 4:7] = holes[1, 20:28, 10:12] = True
    given = tensors([pixels(30, 30), pixels(30, 30, 1)])
    both = hole_in(given, list(holes), (1, 1), crop=2, crop_size=(16, 16))
    made = made_up(both, 2)
    final = both.finish(made)
    for index in (0, 1):
        alone = hole_in(given[index : index + 1], holes[index], (1, 1), crop=2, crop_size=(16, 16))
        assert torch.equal(alone.image[0], both.image[index])
        assert torch.equal(alone.finish(made[index : index + 1])[0], final[index])
    assert len(both.repeated(3)) == len(both.repeated(3).boxes) == 6


@pytest.mark.parametrize(("pictures", "holes"), [(1, 3), (3, 1), (3, 3)])
def test_pictures_and_masks_go_together(pictures: int, holes: int) -> None:
    hole = hole_in(
        tensors([pixels(6, 6, seed) for seed in range(pictures)]),
        [np.roll(np.eye(6, dtype=bool), shift, 0) for shift in range(holes)],
        (4, 4),
    )
    assert len(hole) == 3
    assert hole.finish(made_up(hole, 3)).shape == (3, 3, 6, 6)
    twice = hole.repeated(2)
    made = made_up(twice, 6)
    assert torch.equal(twice.finish(made)[::2], hole.finish(made[::2]))


def test_smaller_pictures_have_all_that_is_made() -> None:
    mask = np.zeros((16, 16), bool)
    mask[5, 6] = True
    hole = make_hole(pixels(16, 16), mask, (4, 4), TORCH)
    image, small = hole.at((4, 4))
    assert small[0, 0].nonzero().tolist() == [[1, 1]]
    assert torch.allclose(image, torch.nn.functional.avg_pool2d(hole.image, 4))


@given(
    st.tuples(st.integers(4, 20), st.integers(4, 20)).flatmap(
        lambda size: st.tuples(arrays(np.uint8, (2, *size, 3)), arrays(np.uint8, (2, *size)))
    ),
    st.integers(1, 8),
    st.sampled_from([None, 0, 3]),
    st.sampled_from([0.0, 2.5]),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_arrays_of_either_kind_make_the_same_holes(
    given_: tuple[np.ndarray, np.ndarray], step: int, crop: int | None, feather: float, soft: bool
) -> None:
    pictures, holes = given_
    holes[:, 0, 0] = 255
    how: dict[str, Any] = {"feather": feather, "soft": soft, "crop": crop, "crop_size": (8, 12)}
    read = pictures_from_user(list(pictures))
    ours, theirs = (hole_in(hosted(read, kind), list(holes), (step, step), **how) for kind in (np.empty(0), TORCH))
    assert (ours.boxes, ours.size, len(ours)) == (theirs.boxes, theirs.size, len(theirs))
    small = (max(1, ours.size[0] // 2), max(1, ours.size[1] // 3))
    made = np.random.default_rng(0).uniform(-1, 1, (4, 3, *ours.size)).astype(np.float32)
    parts = [
        (twice.given, twice.weight, twice.image, twice.mask, *twice.at(small), twice.finish(hosted(made, kind)))
        for twice, kind in ((ours.repeated(2), np.empty(0)), (theirs.repeated(2), TORCH))
    ]
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float32 for part in parts[0])
    for own, other in zip(*parts, strict=True):
        np.testing.assert_allclose(own, on_host(other), atol=1e-5, rtol=0)


def test_bad_holes_are_refused() -> None:
    given, hole = tensors(pixels(6, 8)), np.eye(6, 8, dtype=bool)
    with pytest.raises(ValueError, match="mask is an empty list"):
        hole_in(given, [], (1, 1))
    with pytest.raises(ValueError, match="mask is black everywhere; expected white on what is to be made"):
        hole_in(given, hole & False, (1, 1))
    with pytest.raises(ValueError, match="mask 1 is black everywhere"):
        hole_in(given, [hole, hole & False], (1, 1))
    with pytest.raises(ValueError, match="2 pictures and 3 masks are given; give one, or equally many"):
        hole_in(torch.cat([given, given]), [hole] * 3, (1, 1))
    with pytest.raises(ValueError, match="are 8x6, 9x6; expected one size"):
        make_hole([pixels(6, 8), pixels(6, 9)], hole, (1, 1), TORCH)
    with pytest.raises(ValueError, match=r"mask has values outside \[0, 1\]"):
        mask_from_user(np.full((6, 8), np.nan), (6, 8), soft=True)
