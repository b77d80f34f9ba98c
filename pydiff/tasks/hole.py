"""Pictures with holes: which part is run, at which size, and how what is made is laid over what is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import Array, cast, expand, hosted, is_torch, like, namespace, on_host, wide
from pydiff.images import mask_from_user, pictures_from_user
from pydiff.ops.resize import max_pool, pad_edges, resize
from pydiff.tasks.checks import is_list
from pydiff.tasks.sizes import Size


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def window(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Hole:
    """given (B or 1, 3, H, W) in [-1, 1], the pictures; weight (B or 1, 1, H, W) in [0, 1], what share of a pixel is
    made. image (B or 1, 3, h, w) and mask (B or 1, 1, h, w), 1 = made, 0 = kept: what is run. boxes: the parts of the
    pictures that these are; none where they are the whole pictures, enlarged at all sides, with the corner of what was
    given at origin."""

    given: Array
    weight: Array
    image: Array
    mask: Array
    boxes: tuple[Box, ...] = ()
    origin: Size = (0, 0)

    @property
    def size(self) -> Size:
        return self.image.shape[2], self.image.shape[3]

    def __len__(self) -> int:
        return max(len(self.image), len(self.mask))

    def repeated(self, times: int) -> Hole:
        """Every picture `times` times."""
        if times == 1:
            return self
        parts = (self.given, self.weight, self.image, self.mask)
        rows = [row for row in range(len(self)) for _ in range(times)]
        given, weight, image, mask = (part if len(part) == 1 else part[rows] for part in parts)
        return Hole(given, weight, image, mask, tuple(box for box in self.boxes for _ in range(times)), self.origin)

    def at(self, size: Size) -> tuple[Array, Array]:
        """image and mask at a smaller size: means over the pixels of each, and 1 where any of them is made."""
        if size == self.size:
            return self.image, self.mask
        image, mask = (resize(part, size, mode="area") for part in (self.image, self.mask))
        return image, cast(mask > 0, mask.dtype)

    def finish(self, made: Array) -> Array:
        """The pictures that were made (B, 3, h, w), laid over those given; what is kept is kept to the bit."""
        made, xp = wide(made), namespace(made)
        given, weight = (like(part, made) for part in (self.given, self.weight))
        given = expand(given, len(made))
        if self.boxes:
            made = xp.concat([self._laid(made[row : row + 1], row, given) for row in range(len(made))])
        (top, left), (height, width) = self.origin, given.shape[2:]
        made = made[..., top : top + height, left : left + width]
        return xp.where(weight == 0, given, xp.where(weight == 1, made, _mixed(given, made, weight)))

    def _laid(self, made: Array, index: int, given: Array) -> Array:
        box = self.boxes[index if len(self.boxes) > 1 else 0]
        whole = namespace(given).asarray(given[index : index + 1], copy=True)
        scaled = resize(made, (box.height, box.width), mode="bicubic", antialias=True)
        whole[(..., *box.window)] = scaled.clip(-1, 1)
        return whole


def _mixed(given: Array, made: Array, weight: Array) -> Array:
    """given + weight (made - given), counted from the nearer end."""
    if is_torch(made):
        return given.lerp(made, weight)
    return namespace(made).where(weight < 0.5, given + weight * (made - given), made - (made - given) * (1 - weight))


def make_hole(image: Any, mask: Any, step: Size, x: Array) -> Hole:
    """Of pictures and masks as callers give them, in arrays of x's kind; see `hole_in`."""
    return hole_in(hosted(pictures_from_user(image), x), mask, step)


def hole_in(
    given: Array,
    mask: Any,
    step: Size,
    *,
    feather: float = 0.0,
    soft: bool = False,
    crop: int | None = None,
    crop_size: Size = (0, 0),
) -> Hole:
    """given (B, 3, H, W) in [-1, 1]; mask: one as callers give them, or a list: one for all pictures, one for each, or
    several for one picture.

    step: what the sides that are run must be multiples of. feather: pixels over which what is made fades in, inside of
    the hole. soft: the mask's grays are shares; else a pixel is made where it is at least half white. crop: only the
    holes and so many pixels around them are run, at crop_size.
    Raises ValueError for masks that do not fit the pictures, and for a mask without a hole.
    """
    size = (given.shape[2], given.shape[3])
    masks = [mask_from_user(one, size, soft=soft) for one in (mask if is_list(mask) else [mask])]
    if not masks:
        raise ValueError("mask is an empty list; expected a mask, or one per picture")
    weight = hosted(np.concatenate(masks), given)
    if len(given) > 1 < len(weight) and len(given) != len(weight):
        raise ValueError(f"{len(given)} pictures and {len(weight)} masks are given; give one, or equally many")
    region = cast(weight > 0, weight.dtype)
    black = [row for row, one in enumerate(region) if not one.any()]
    if black:
        which = f"mask {black[0]}" if len(region) > 1 else "mask"
        raise ValueError(f"{which} is black everywhere; expected white on what is to be made")
    if feather:
        weight = _feathered(weight, feather)
    if crop is not None:
        boxes = tuple(_box(one[0] > 0, crop, crop_size) for one in on_host(region))
        image = _cropped(given, boxes, crop_size, mode="bicubic", antialias=True).clip(-1, 1)
        touched = _cropped(region, boxes, crop_size, mode="area") > 0  # no hole is too small to be made
        return Hole(given, weight, image, cast(touched, region.dtype), boxes)
    return whole_hole(given, weight, region, step)


def whole_hole(given: Array, weight: Array, region: Array, step: Size, origin: Size = (0, 0)) -> Hole:
    """The whole pictures are run, enlarged so that their corner is at origin and their sides are multiples of step;
    region (B or 1, 1, H, W): 1 = made, 0 = kept."""
    (top, left), (height, width) = origin, given.shape[2:]
    pad = (left, -(left + width) % step[1], top, -(top + height) % step[0])
    image, mask = (pad_edges(part, pad) if any(pad) else part for part in (given, region))
    return Hole(given, weight, image, mask, origin=origin)


def _feathered(weight: Array, feather: float) -> Array:
    """weight min(1, d / (feather + 1)), d = 1, 2, ... pixels from what is kept (rows or columns, whichever are more):
    it fades inside of the hole, and nothing is made where nothing was to be made."""
    kept = cast(weight == 0, weight.dtype)
    depth = namespace(weight).zeros_like(weight)
    for _ in range(math.ceil(feather) + 1):
        depth += 1 - kept
        kept = max_pool(kept, 3)
    return (depth / (feather + 1)).clip(max=1) * weight


def _box(region: NDArray[np.bool_], pad: int, size: Size) -> Box:
    """Around all holes of (H, W) bools, `pad` pixels more on every side, of the shape of `size` as far as the picture
    reaches."""
    sides = []
    for axis, limit in enumerate(region.shape):
        (places,) = np.nonzero(region.any(axis=1 - axis))
        low, high = int(places.min()), int(places.max()) + 1
        sides.append((max(0, low - pad), min(limit, high + pad)))
    (top, bottom), (left, right) = sides
    height, width = bottom - top, right - left
    tall, wide = max(height, width * size[0] // size[1]), max(width, height * size[1] // size[0])
    top, height = _grown(top, height, tall, region.shape[0])
    left, width = _grown(left, width, wide, region.shape[1])
    return Box(top, left, height, width)


def _grown(start: int, length: int, wanted: int, limit: int) -> tuple[int, int]:
    """A stretch made as long as is wanted, about its middle, within the limits."""
    wanted = min(wanted, limit)
    return max(0, min(start - (wanted - length) // 2, limit - wanted)), wanted


def _cropped(part: Array, boxes: Sequence[Box], size: Size, **how: Any) -> Array:
    """Of every picture its box, at one size. how: to scale it."""
    rows = expand(part, max(len(part), len(boxes)))
    boxes = list(boxes) if len(boxes) > 1 else list(boxes) * len(rows)
    cut = [rows[(slice(row, row + 1), ..., *box.window)] for row, box in enumerate(boxes)]
    return namespace(part).concat([resize(one, size, **how) for one in cut])
