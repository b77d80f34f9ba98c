"""Damaged pictures and what the Palette network is taught of them (Saharia et al. 2022, Palette, sections 3 and 4).

Four tasks, one network: the damaged picture stands beside x, and nothing tells the network which task it is. Palette
tells its network gamma, the share of signal in x, where this one is told t: gamma is alphas_cumprod[t], which falls
strictly with t, so that the one says what the other does, and t is what the base network, where it starts, knows.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from pydiff.embedded.checkpoint import State
from pydiff.embedded.data import to_tensor
from pydiff.embedded.objective import diffusion_loss, draw_times, noise_levels
from pydiff.embedded.world import draw, place_things, sample_scene
from pydiff.nn.cond import Cond

Picture = NDArray[np.uint8]  # (H, W, 3)
JPEG_QUALITY = (5, 30)
STROKE = (0.06, 0.20)  # width of a brush stroke as a share of the picture's side
BOX = (0.15, 0.50)  # side of a hole, likewise
ONE_SIDE = (0.20, 0.50)  # what uncropping adds at one side, likewise
FOUR_SIDES = (0.50, 0.80)  # side of the centre that uncropping all around begins from, likewise


class Damage(NamedTuple):
    """picture (H, W, 3): what is left of one. mask (H, W): where nothing is left; None if something is everywhere."""

    picture: Picture
    mask: NDArray[np.bool_] | None = None


def grey(image: Picture, rng: np.random.Generator) -> Damage:
    """Its luma (ITU-R 601-2) in all three channels."""
    return Damage(np.asarray(Image.fromarray(image).convert("L").convert("RGB")))


def holed(image: Picture, rng: np.random.Generator) -> Damage:
    """One to three boxes, one to three brush strokes, or both."""
    while True:
        canvas = Image.new("1", (image.shape[1], image.shape[0]))
        pen, kind = ImageDraw.Draw(canvas), int(rng.integers(3))
        for draw_hole, drawn in ((_box, kind != 1), (_stroke, kind != 0)):
            for _ in range(int(rng.integers(1, 4)) if drawn else 0):
                draw_hole(pen, canvas.size, rng)
        mask = np.array(canvas)
        if 0.02 < mask.mean() < 0.75:
            return Damage(image, mask)


def _box(pen: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator) -> None:
    width, height = (max(1, round(side * rng.uniform(*BOX))) for side in size)
    x, y = int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=1)


def _stroke(pen: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator) -> None:
    """A walk of straight pieces, each turned a little from the one before, with round joints."""
    width = max(1, round(min(size) * rng.uniform(*STROKE)))
    x, y, angle = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0, 2 * np.pi)
    points = [(x, y)]
    for _ in range(int(rng.integers(2, 7))):
        angle += rng.uniform(-1.2, 1.2)
        length = min(size) * rng.uniform(0.1, 0.3)
        x, y = x + length * np.cos(angle), y + length * np.sin(angle)
        points.append((x, y))
    pen.line(points, fill=1, width=width)
    for x, y in points:
        pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=1)


def cropped(image: Picture, rng: np.random.Generator) -> Damage:
    """A part at one side is missing, or all around the centre."""
    height, width = image.shape[:2]
    mask = np.ones((height, width), bool)
    if rng.random() < 0.5:
        side = int(rng.integers(4))
        kept = 1 - rng.uniform(*ONE_SIDE)
        rows, columns = (round(height * kept), width) if side % 2 else (height, round(width * kept))
        top, left = (height - rows, width - columns) if side >= 2 else (0, 0)
    else:
        share = rng.uniform(*FOUR_SIDES)
        rows, columns = round(height * share), round(width * share)
        top, left = (height - rows) // 2, (width - columns) // 2
    mask[top : top + rows, left : left + columns] = False
    return Damage(image, mask)


def compressed(image: Picture, rng: np.random.Generator) -> Damage:
    """What JPEG of a low quality makes of it."""
    file = io.BytesIO()
    low, high = JPEG_QUALITY
    Image.fromarray(image).save(file, "JPEG", quality=int(rng.integers(low, high + 1)))
    return Damage(np.asarray(Image.open(file).convert("RGB")))


DAMAGES: dict[str, Callable[[Picture, np.random.Generator], Damage]] = {
    "colorize": grey,
    "inpaint": holed,
    "uncrop": cropped,
    "jpeg": compressed,
}
SHARES = (0.35, 0.15, 0.15, 0.35)  # of the lessons: what shows through everywhere takes longest to tell apart


class Damaged(NamedTuple):
    """images (B, 3, H, W) whole and beside (B, 3, H, W) damaged, noise in their holes, both in [-1, 1] but for that
    noise; mask (B, 1, H, W), 1 where the network is to make something, everywhere in tasks without holes."""

    images: Tensor
    beside: Tensor
    mask: Tensor


def damaged(rng: np.random.Generator, batch: int, size: int) -> Damaged:
    """Scenes of the world, each damaged in the way of a random task, drawn by SHARES."""
    images, lefts, masks = [], [], []
    for task in rng.choice(list(DAMAGES), batch, p=SHARES):
        scene = sample_scene(rng)
        image = draw(scene, place_things(scene, rng), size)
        damage = DAMAGES[task](image, rng)
        left, mask = to_tensor([damage.picture]), torch.ones(1, 1, size, size)
        if damage.mask is not None:
            mask = torch.from_numpy(damage.mask)[None, None].float()
            left = torch.where(mask > 0, torch.from_numpy(rng.standard_normal(left.shape, np.float32)), left)
        images.append(image)
        lefts.append(left)
        masks.append(mask)
    return Damaged(to_tensor(images), torch.cat(lefts), torch.cat(masks))


def begin_from(unet: nn.Module, base: State) -> None:
    """The base network's weights; the channels of the damaged picture, after those of x, begin at zero."""
    weight = base["conv_in.weight"]  # (C, 3, 3, 3)
    unet.load_state_dict({**base, "conv_in.weight": torch.cat([weight, torch.zeros_like(weight)], dim=1)})


def palette_losses(
    unet: Callable[..., Tensor],
    batches: Iterator[Damaged],
    states: Tensor,
    levels: Tensor,
    generator: torch.Generator,
    fine: float,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Loss and variational term of each batch: x is noisy where the network is to make something and clean elsewhere,
    as it is when a picture is restored, and only the former is learned from.

    states (1, T, D): the encoded empty caption, all that this network ever reads. levels: cumulative products of alpha.
    """
    for batch in batches:
        count = len(batch.images)
        t = draw_times(count, generator, fine)
        noise = torch.randn(batch.images.shape, generator=generator)
        alpha, sigma = noise_levels(t, levels)
        x = torch.where(batch.mask > 0, alpha * batch.images + sigma * noise, batch.images)
        output = unet(torch.cat([x, batch.beside], dim=1), t, Cond(text=states.expand(count, -1, -1)))
        yield diffusion_loss(output, batch.images, noise, t, levels, batch.mask)
