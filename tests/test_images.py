"""Pictures of every mode and range come in; damaged ones are refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as options
from hypothesis import strategies as st
from PIL import Image

from pydiff import images


def unit(picture: Any) -> np.ndarray:
    """(H, W, 3) in [0, 1]."""
    array = images.from_user(picture)
    assert array.dtype == np.float32
    assert array.shape[:2] == (1, 3)
    assert array.min() >= -1
    assert array.max() <= 1
    made: np.ndarray = (array[0].transpose(1, 2, 0) + 1) / 2
    return made


# For every mode a colour and what it looks like.
MODES: list[tuple[str, Any, tuple[float, float, float]]] = [
    ("1", 1, (1, 1, 1)),
    ("L", 51, (0.2, 0.2, 0.2)),
    ("LA", (51, 255), (0.2, 0.2, 0.2)),
    ("LA", (0, 0), (1, 1, 1)),
    ("La", (0, 0), (1, 1, 1)),
    ("PA", (0, 0), (1, 1, 1)),
    ("RGB", (255, 51, 0), (1, 0.2, 0)),
    ("RGBX", (255, 51, 0, 0), (1, 0.2, 0)),
    ("RGBA", (255, 51, 0, 255), (1, 0.2, 0)),
    ("RGBA", (255, 0, 0, 0), (1, 1, 1)),
    ("RGBA", (255, 0, 0, 51), (1, 0.8, 0.8)),
    ("RGBa", (0, 0, 0, 0), (1, 1, 1)),
    ("CMYK", (0, 255, 255, 0), (1, 0, 0)),
    ("YCbCr", (255, 128, 128), (1, 1, 1)),
    ("HSV", (0, 255, 255), (1, 0, 0)),
    ("I", 51, (0.2, 0.2, 0.2)),
    ("I", 65535, (1, 1, 1)),
    ("I", -5, (0, 0, 0)),
    ("F", 51.0, (0.2, 0.2, 0.2)),
    ("F", 65535.0, (1, 1, 1)),
    ("I;16", 13107, (0.2, 0.2, 0.2)),
    ("I;16", 257, (1 / 255, 1 / 255, 1 / 255)),
    ("I;16", 100, (0, 0, 0)),
    ("I;16B", 13107, (0.2, 0.2, 0.2)),
]


@pytest.mark.parametrize(("mode", "colour", "expected"), MODES)
def test_every_mode(mode: str, colour: Any, expected: tuple[float, float, float]) -> None:
    array = unit(Image.new(mode, (5, 3), colour))
    assert array.shape == (3, 5, 3)
    assert np.allclose(array, expected, atol=0.005)


def test_palettes_and_their_transparent_colour(tmp_path: Path) -> None:
    palette = Image.new("RGB", (4, 2), (255, 51, 0)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.allclose(unit(palette), (1, 0.2, 0), atol=0.01)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    assert np.allclose(unit(tmp_path / "p.png"), 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "LA"])
@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_files(tmp_path: Path, mode: str, kind: str) -> None:
    if kind != "png" and mode not in ("L", "RGB"):
        return
    Image.new(mode, (6, 4)).save(tmp_path / f"a.{kind}")
    assert unit(str(tmp_path / f"a.{kind}")).shape == (4, 6, 3)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_exif_rotation_is_applied(tmp_path: Path, kind: str) -> None:
    picture = Image.new("RGB", (32, 16))
    picture.paste("white", (0, 0, 32, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate a quarter clockwise
    picture.save(tmp_path / f"a.{kind}", exif=exif, quality=95)
    array = unit(tmp_path / f"a.{kind}")
    assert array.shape == (32, 16, 3)
    assert array[:, 9:].min() > 0.9
    assert array[:, :7].max() < 0.1


def test_arrays_and_tensors_agree() -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    want = unit(Image.fromarray(array))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for same in (array, array / 255, (array / 255).astype(np.float16), tensor, tensor[None], tensor / 255):
        assert np.allclose(unit(same), want, atol=1e-3)
    assert np.allclose(unit(array[:, ::-1]), want[:, ::-1])
    original = np.full((2, 2, 3), 0.5, np.float32)
    images.from_user(original)[...] = 0
    assert (original == 0.5).all()


@pytest.mark.parametrize(
    ("given_image", "message"),
    [
        (None, "image is a NoneType"),
        (b"png", "image is a bytes"),
        ([[1, 2], [3, 4]], "image is a list"),
        (np.array([["a"]]), "image is a ndarray"),
        (np.zeros((4, 5, 3), complex), "image is a ndarray"),
        (torch.zeros(3, 4, 5, dtype=torch.complex64), "image is a Tensor"),
        (np.zeros((4, 5)), r"image has shape \(4, 5\)"),
        (np.zeros((4, 5, 4)), r"image has shape \(4, 5, 4\)"),
        (np.zeros((0, 0, 3)), r"image has shape \(0, 0, 3\)"),
        (torch.zeros(2, 3, 4, 5), r"image has shape \(2, 3, 4, 5\)"),
        (Image.new("RGB", (0, 0)), r"image has shape \(0, 0, 3\)"),
        (np.full((4, 5, 3), 128.0), r"values outside \[0, 1\]"),
        (np.full((4, 5, 3), -0.1), r"values outside \[0, 1\]"),
        (np.full((4, 5, 3), np.nan), r"values outside \[0, 1\]"),
        (torch.full((3, 4, 5), torch.inf), r"values outside \[0, 1\]"),
        (Image.new("F", (3, 3), float("nan")), "image is no readable picture: it holds values that are not finite"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_pictures_that_are_none(given_image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images.from_user(given_image)


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    for name, message in (
        ("none.png", "does not exist"),
        ("", "is a directory"),
        ("text.png", "is no readable PNG, JPEG, WEBP picture"),
        ("empty.png", "is no readable"),
        ("a.gif", "is no readable"),
    ):
        with pytest.raises(ValueError, match=message):
            images.open_image(tmp_path / name)


def test_a_truncated_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.png"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"a\.png is no readable"):
        images.from_user(path)
    with Image.open(path) as lazy, pytest.raises(ValueError, match="image is no readable picture"):
        images.from_user(lazy)


def test_a_picture_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    for side in (9_000, 20_000):  # Pillow itself refuses only the second
        Image.new("RGB", (1, 1)).save(path)
        data = path.read_bytes()
        head = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
        path.write_bytes(data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:])
        with pytest.raises(ValueError, match=r"bomb\.png is no readable .* pixels"):
            images.open_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.binary(max_size=400), st.integers(0, 2000), st.integers(1, 60))
@options(max_examples=150, deadline=None)
def test_damaged_files_raise_nothing_but_value_errors(junk: bytes, place: int, cut: int) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((24, 16), 40).convert("RGB").save(buffer, "PNG" if place % 2 else "JPEG", exif=exif)
    data = buffer.getvalue()
    place %= len(data)
    buffer = io.BytesIO(data[:place] + junk + data[place + cut :])
    try:
        images.from_user(images.open_image(buffer))  # type: ignore[arg-type]  # Pillow takes a file too
    except ValueError:
        return


def test_outputs() -> None:
    x = torch.linspace(-1.5, 1.5, 2 * 3 * 4 * 5).view(2, 3, 4, 5)
    pil, array, tensor, latent = (images.to_output(x, kind) for kind in images.OUTPUT_TYPES)
    assert torch.equal(latent, x)
    assert array.shape == (2, 4, 5, 3)
    assert torch.equal(tensor, (x / 2 + 0.5).clamp(0, 1))
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert [picture.size for picture in pil] == [(5, 4)] * 2
    assert np.array_equal(np.asarray(pil[1]), (array[1] * 255).round().astype(np.uint8))


@pytest.mark.parametrize("kind", ["np", "pt", "latent"])
def test_outputs_are_the_callers_own(kind: str) -> None:
    """Nothing of inference mode, and no memory shared with the run."""
    with torch.inference_mode():
        x = torch.full((1, 3, 4, 5), 0.5)
    for given_x in (x, np.full((1, 3, 4, 5), 0.5, np.float32)):
        made = images.to_output(given_x, kind)
        made *= 0
        assert (given_x == 0.5).all()


def test_outputs_of_either_kind_of_array_agree() -> None:
    x = np.linspace(-1.5, 1.5, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    ours, torchs = ([images.to_output(one, kind) for kind in images.OUTPUT_TYPES] for one in (x, torch.from_numpy(x)))
    for kind, our, theirs in zip(images.OUTPUT_TYPES, ours, torchs, strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(our, theirs, strict=True))
        assert kind == "latent" or type(our) is type(theirs)


def square(mask: Any, height: int = 4, width: int = 6) -> list[tuple[int, int]]:
    """Rows and columns that are repainted."""
    array = images.mask_from_user(mask, (height, width))
    assert (array.dtype, array.shape) == (np.float32, (1, 1, height, width))
    assert set(np.unique(array).tolist()) <= {0.0, 1.0}
    return [tuple(place) for place in np.argwhere(array[0, 0]).tolist()]


def test_masks_of_every_kind_agree(tmp_path: Path) -> None:
    array = np.zeros((4, 6), bool)
    array[1:3, 2:5] = True
    grey = np.where(array, 128, 127).astype(np.uint8)  # white from the middle on
    want = [(row, column) for row in (1, 2) for column in (2, 3, 4)]
    for same in (array, grey, grey / 255, (grey / 255).astype(np.float16), array.astype(np.int64), array[::-1][::-1]):
        assert square(same) == want
    tensor = torch.from_numpy(array)
    for same in (tensor, tensor[None], tensor[None, None], tensor.float(), torch.from_numpy(grey)):
        assert square(same) == want
    picture = Image.fromarray(grey)
    picture.save(tmp_path / "m.png")
    for same in (picture, picture.convert("RGB"), picture.convert("RGBA"), tmp_path / "m.png", str(tmp_path / "m.png")):
        assert square(same) == want
    assert square(Image.fromarray(array)) == want
    assert square(np.zeros((4, 6))) == []
    assert len(square(torch.ones(4, 6, requires_grad=True))) == 24


def test_a_mask_is_not_the_callers_memory() -> None:
    given, tensor = np.ones((4, 6), np.float32), torch.ones(4, 6)
    for mask in (given, tensor):
        for soft in (False, True):
            images.mask_from_user(mask, (4, 6), soft=soft)[...] = 0
    assert (given == 1).all()
    assert (tensor == 1).all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "mask is a NoneType; expected a PIL picture, a path"),
        ([[1, 0]], "mask is a list"),
        (np.array([["a"]]), "mask is a ndarray"),
        (torch.zeros(4, 6, dtype=torch.complex64), "mask is a Tensor"),
        (np.zeros((6, 4)), r"mask has shape \(6, 4\); expected the picture's height and width \(4, 6\)"),
        (np.zeros((4, 6, 1)), r"mask has shape \(4, 6, 1\)"),
        (torch.zeros(2, 4, 6), r"mask has shape \(2, 4, 6\)"),
        (Image.new("L", (4, 6)), r"mask has shape \(6, 4\)"),
        (np.full((4, 6), 255.0), r"mask has values outside \[0, 1\]"),
        (np.full((4, 6), -1), r"mask has values outside \[0, 1\]"),
        (np.full((4, 6), np.nan), r"mask has values outside \[0, 1\]"),
        (torch.full((4, 6), torch.inf), r"mask has values outside \[0, 1\]"),
        (Path("nowhere.png"), r"nowhere.png does not exist"),
        (Image.new("F", (6, 4), float("nan")), "mask is no readable picture"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_masks_that_are_none(mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images.mask_from_user(mask, (4, 6))


def test_contact_sheet() -> None:
    small, large = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (128, 128), "blue")
    sheet = images.contact_sheet([[small, large], [large]], ["one\nline", "a caption " * 40], cell=64)
    colours = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert {(255, 0, 0), (0, 0, 255), (255, 255, 255)} <= colours
    assert sheet.size == (2 * 68 + 4, 2 * (64 + 14 + 8) + 4)
    for rows, captions in (([], []), ([[]], ["a"]), ([[small]], [])):
        with pytest.raises(ValueError, match="expected at least one picture in each row"):
            images.contact_sheet(rows, captions)
