from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from pydiff.embedded.reader import Reading, read
from pydiff.embedded.world import (
    BACKGROUNDS,
    COLOURS,
    OBJECT_COLOURS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    draw,
    place_things,
    sample_scene,
)

Drawn = tuple[Scene, tuple[Thing, ...]]


def scenes(number: int, seed: int) -> Iterator[Drawn]:
    rng = np.random.default_rng(seed)
    for i in range(number):
        scene = sample_scene(rng, unseen=i % 4 == 0)
        yield scene, place_things(scene, rng)


def mosaics(seed: int) -> Iterator[Drawn]:
    """Every colour, shape and size on every background, four to a picture."""
    rng = np.random.default_rng(seed)
    for background, size in itertools.product(BACKGROUNDS, SIZES):
        pairs = [(c, s) for c in OBJECT_COLOURS if c != background for s in SHAPES]
        for four in (pairs[i : i + 4] for i in range(0, len(pairs), 4)):
            slots = itertools.product((0.26, 0.74), repeat=2)
            jitter = rng.uniform(-0.01, 0.01, (4, 2))
            yield (
                Scene((), None, None, background, True),
                tuple(
                    Thing(c, s, size, x + dx, y + dy, SIZES[size] * rng.uniform(0.94, 1.06))
                    for (c, s), (x, y), (dx, dy) in zip(four, slots, jitter, strict=False)
                ),
            )


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft, noisy and slightly off in colour, as a network's picture may be: (64, 64, 3) to (256, 256, 3)."""
    soft = np.round(gaussian_filter(image.astype(float), (1, 1, 0), mode="nearest")).astype(np.uint8)
    large = np.asarray(Image.fromarray(soft).resize((256, 256), Image.Resampling.BILINEAR), float)
    large = large + rng.uniform(-12, 12, 3) + rng.normal(0, 8, large.shape)
    return np.round(large.clip(0, 255)).astype(np.uint8)


def right(reading: Reading, scene: Scene, things: tuple[Thing, ...]) -> bool:
    """Whether everything was found where it is, as what it is, and nothing else was."""
    if reading.background != scene.background or len(reading.objects) != len(things):
        return False
    pairs = [(min(reading.objects, key=lambda f: abs(f.x - t.x) + abs(f.y - t.y)), t) for t in things]
    return all(
        f[:3] == t[:3] and abs(f.x - t.x) + abs(f.y - t.y) < 0.03 and abs(f.radius / t.radius - 1) < 0.15
        for f, t in pairs
    )


@pytest.mark.parametrize(("size", "stride"), [(64, 7), (256, 7), (1024, 60)])
def test_reads_what_was_drawn(size: int, stride: int) -> None:
    drawn = [*itertools.islice(mosaics(size), None, None, stride), *scenes(300 // stride, size)]
    marks = [right(read(draw(*picture, size)), *picture) for picture in drawn]
    assert np.mean(marks) > 0.995


def test_reads_through_blur_noise_and_shifted_colours() -> None:
    rng = np.random.default_rng(1)
    drawn = [*itertools.islice(mosaics(1), 0, None, 4), *scenes(40, 1)]
    marks = [right(read(degrade(draw(*picture, 64), rng)), *picture) for picture in drawn]
    assert np.mean(marks) > 0.97


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_picture_has_no_objects(background: str) -> None:
    rng = np.random.default_rng(0)
    image = draw(Scene((), None, None, background, True), (), 64)
    assert read(image) == Reading(background, ())
    assert read(degrade(image, rng)) == Reading(background, ())


def test_specks_are_not_objects() -> None:
    scene, thing = Scene((), None, None, "white", True), Thing("red", "circle", "large", 0.5, 0.5, 0.2)
    image = draw(scene, (thing,), 256)
    image[20:30, 20:30] = COLOURS["blue"]
    assert [f[:3] for f in read(image).objects] == [("red", "circle", "large")]


def test_two_colours_that_touch_are_two_objects() -> None:
    image = draw(Scene((), None, None, "white", True), (), 256)
    image[80:140, 60:128], image[80:140, 128:200] = COLOURS["red"], COLOURS["blue"]
    assert {f.colour for f in read(image).objects} == {"red", "blue"}


def test_what_fits_no_shape_is_unknown() -> None:
    image = draw(Scene((), None, None, "white", True), (), 256)
    image[100:130, 40:200] = COLOURS["green"]
    assert [f.shape for f in read(image).objects] == ["unknown"]


def test_noise_alone_reads_as_something() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert read(image).background in COLOURS


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64, 3), np.float32), "float32"),
        (np.zeros((64, 64), np.uint8), r"\(64, 64\)"),
        (np.zeros((64, 128, 3), np.uint8), "square"),
        (np.zeros((32, 32, 3), np.uint8), "32 pixels"),
        (np.zeros((1025, 1025, 3), np.uint8), "1025 pixels"),
        ("picture.png", "uint8"),
    ],
)
def test_refuses_what_is_no_picture(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(image)
