"""Endless batches of captions and pictures, drawn in a background thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pydiff.embedded.captions import caption
from pydiff.embedded.world import COLOURS, SHAPES, draw, place_things, sample_scene

T = TypeVar("T")
COLOUR_NAMES = tuple(COLOURS)
GRID = 8


class Layouts(NamedTuple):
    """Captions and what stands in each cell of a coarse grid: colour and shape, (B, GRID * GRID) indices."""

    captions: list[str]
    colours: Tensor
    shapes: Tensor


def layouts(rng: np.random.Generator, batch: int) -> Layouts:
    """Targets that teach the text encoder what stands where, without a picture."""
    captions, colours, shapes = [], [], []
    centres = (np.arange(GRID) + 0.5) / GRID
    for _ in range(batch):
        scene = sample_scene(rng)
        colour = np.full((GRID, GRID), COLOUR_NAMES.index(scene.background))
        shape = np.full((GRID, GRID), len(SHAPES))
        for thing in place_things(scene, rng):
            column, row = np.abs(centres - thing.x) < thing.radius, np.abs(centres - thing.y) < thing.radius
            inside = row[:, None] & column[None, :]
            colour[inside], shape[inside] = COLOUR_NAMES.index(thing.colour), SHAPES.index(thing.shape)
        captions.append(caption(scene, rng))
        colours.append(colour.ravel())
        shapes.append(shape.ravel())
    return Layouts(captions, torch.from_numpy(np.stack(colours)), torch.from_numpy(np.stack(shapes)))


def to_tensor(pictures: list[np.ndarray]) -> Tensor:
    """(B, H, W, 3) uint8 pictures as (B, 3, H, W) float in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class Pictures(NamedTuple):
    captions: list[str]
    images: Tensor  # (B, 3, size, size) in [-1, 1]


def pictures(rng: np.random.Generator, batch: int, size: int) -> Pictures:
    captions, images = [], []
    for _ in range(batch):
        scene = sample_scene(rng)
        captions.append(caption(scene, rng))
        images.append(draw(scene, place_things(scene, rng), size))
    return Pictures(captions, to_tensor(images))


class Crops(NamedTuple):
    """Windows of a picture and of its upsampled small version, both (B, 3, crop, crop) in [-1, 1]."""

    images: Tensor
    low_res: Tensor


def crops(rng: np.random.Generator, batch: int, small: int, large: int, crop: int) -> Crops:
    """Windows around the edges of things, where there is something to learn, and one in three anywhere."""
    images, low_res = [], []
    for _ in range(batch):
        scene = sample_scene(rng)
        things = place_things(scene, rng)
        image = to_tensor([draw(scene, things, large)])
        low = upsample(to_tensor([draw(scene, things, small)]), large)
        thing = things[int(rng.integers(len(things)))]
        angle = rng.uniform(0, 2 * np.pi)
        centre = rng.uniform(0, 1, 2)
        if rng.random() < 2 / 3:
            centre = np.array((thing.x, thing.y)) + thing.radius * np.array((np.cos(angle), np.sin(angle)))
        x, y = (int(np.clip(c * large - rng.uniform(0, crop), 0, large - crop)) for c in centre)
        images.append(image[..., y : y + crop, x : x + crop])
        low_res.append(low[..., y : y + crop, x : x + crop])
    return Crops(torch.cat(images), torch.cat(low_res))


def upsample(images: Tensor, size: int) -> Tensor:
    """As diffusers' IFSuperResolutionPipeline does before it adds noise."""
    return torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=True)


def background(make: Callable[[], T], ahead: int = 4) -> Iterator[T]:
    """Results of `make`, made in a thread while the caller computes; what it raises is raised here."""
    made: queue.Queue[T | Exception] = queue.Queue(maxsize=ahead)
    closing = threading.Event()

    def work() -> None:
        failed = False
        while not (failed or closing.is_set()):
            item: T | Exception
            try:
                item = make()
            except Exception as error:  # raised again where the results are taken
                item, failed = error, True
            while not closing.is_set():
                with contextlib.suppress(queue.Full):
                    made.put(item, timeout=0.2)
                    break

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item = made.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        closing.set()
        thread.join()
