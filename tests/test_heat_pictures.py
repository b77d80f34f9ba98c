"""Heat as a value that outlives its run, and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pydiff.heat import Captured, HeatMaps, UncapturedWordError
from pydiff.heat_pictures import PANEL, PER_ROW, colours, overlay, strip
from pydiff.nn.edit import Heat


def captured(rows: int = 1, heads: int | None = None, every_step: bool = False) -> HeatMaps:
    """Of layers of 2x3 and 4x6 pixels, of two words, over two steps."""
    heats = []
    for step in range(2 if every_step else 1):
        heat = Heat(heads=heads is not None)
        generator = torch.Generator().manual_seed(step)
        for pixels in (6, 24, 24):
            shape = (2 * rows, heads or 1, pixels, 2)
            place = heat.place(torch.zeros(*shape[:3], 5), 2)
            place.add_(torch.rand(shape if heads else (2 * rows, pixels, 2), generator=generator) / 2)
        heats.append(heat)
    return HeatMaps(Captured(("cat", ("a", 1)), tuple(heats), {6: (2, 3), 24: (4, 6)}, rows, heads, every_step))


def picture(width: int = 30, height: int = 20) -> Image.Image:
    return Image.effect_noise((width, height), 60).convert("RGB")


@pytest.mark.parametrize(
    ("how", "shape"),
    [
        ({}, (4, 6)),
        ({"rows": 3}, (3, 4, 6)),
        ({"heads": 2}, (2, 4, 6)),
        ({"rows": 3, "heads": 1}, (3, 1, 4, 6)),
    ],
)
def test_shapes_and_ranges(how: dict[str, Any], shape: tuple[int, ...]) -> None:
    heat = captured(**how)
    assert (list(heat), len(heat), "cat" in heat, "dog" in heat) == (["cat", ("a", 1)], 2, True, False)
    for word in heat:
        own, share = heat[word], heat.attention(word)
        assert (own.shape, own.dtype, share.dtype) == (shape, np.float32, np.float32)
        most = own.reshape(how.get("rows", 1), -1).max(1)
        assert own.min() >= 0
        assert (most == 1).all()
        assert np.allclose(own * share.max(tuple(range(-len(shape) + ("rows" in how), 0)), keepdims=True), share)
    own[:] = 0  # what a caller does with it changes nothing
    assert heat[word].max() == 1
    steps = captured(**how, every_step=True).steps("cat")
    assert (steps.shape, steps.max()) == ((2, *shape), 1)


def test_what_was_not_captured() -> None:
    heat = captured()
    assert heat.get("dog") is None
    with pytest.raises(UncapturedWordError, match=r"word 'dog' was not captured; captured are 'cat', .'a', 1.: name"):
        heat["dog"]
    with pytest.raises(ValueError, match="3 was not captured"):
        heat.attention(3)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="captured are none"):
        HeatMaps()["cat"]
    with pytest.raises(ValueError, match="generate with heat_every_step=True"):
        heat.steps("cat")
    with pytest.raises(ValueError, match="generate with heat_every_step=True"):
        heat.over([picture()]).animation("cat")
    nothing = HeatMaps(Captured(("cat",), (Heat(),), {24: (4, 6)}, 2, None, False))
    assert (nothing["cat"].shape, nothing["cat"].max()) == ((2, 4, 6), 0)


def test_colours_are_perceptually_uniform() -> None:
    rgb = colours() / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    lms = linear @ np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                             [0.2119034982, 0.6806995451, 0.1073969566],
                             [0.0883024619, 0.2817188376, 0.6299787005]]).T  # fmt: skip
    lightness = np.cbrt(lms) @ [0.2104542553, 0.7936177850, -0.0040720468]
    assert np.abs(lightness - np.linspace(0.15, 0.95, 256)).max() < 0.01


def test_overlay_is_hot_where_the_word_looked() -> None:
    heat = np.zeros((4, 6), np.float32)
    heat[1, 4] = 1
    made = overlay(Image.new("RGB", (60, 40), "white"), heat)
    assert made.size == (60, 40)
    values = np.asarray(made, float)
    row, column = divmod(int((values[..., 0] - values[..., 2]).argmax()), 60)  # yellow
    assert (row // 10, column // 10) == (1, 4)
    assert np.array_equal(np.asarray(made)[-1, 0], np.asarray(made)[-1, 20])


def test_overlays_and_strips() -> None:
    heat = captured(rows=2).over([picture(), picture(20, 30).convert("L")])
    assert heat.overlay("cat").size == (30, 20)
    assert heat.overlay(("a", 1), 1).size == (20, 30)
    assert not np.array_equal(heat.overlay("cat"), heat.overlay(("a", 1)))
    wide, tall = heat.strip(), heat.strip(index=1)
    assert wide.width > 3 * PANEL
    assert tall.height > PANEL > tall.width / 3
    panels = {f"word {index}": picture() for index in range(PER_ROW)}
    assert strip(picture(), panels).height > 1.9 * strip(picture(), dict(list(panels.items())[1:])).height
    alike = [captured(heads=heads).over([Image.new("RGB", (30, 20), "red")]).strip() for heads in (1, None)]
    assert np.array_equal(*alike)
    assert captured(heads=2).over([picture()]).overlay("cat").size == (30, 20)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations(tmp_path: Path, suffix: str) -> None:
    heat = captured(rows=2, every_step=True).over([picture()] * 2)
    frames = heat.animation("cat", 1)
    assert [frame.size for frame in frames] == [(30, 20)] * 2
    assert not np.array_equal(*frames)
    path = heat.save_animation(tmp_path / f"a{suffix}", "cat", index=1, seconds=0.2)
    with Image.open(path) as made:
        assert (made.n_frames, made.size) == (2, (30, 20))
        made.seek(1)
        assert np.abs(np.asarray(made.convert("RGB"), float) - np.asarray(frames[1], float)).mean() < 12
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_bad_input(tmp_path: Path) -> None:
    heat = captured(rows=2, every_step=True)
    with pytest.raises(ValueError, match=r"generate with output_type='pil', or give heat\.over some"):
        heat.overlay("cat")
    for pictures in ([picture()], [picture(), "a.png"], []):
        with pytest.raises(ValueError, match="expected 2 PIL pictures, one per row of heat"):
            heat.over(pictures)  # type: ignore[arg-type]
    shown = heat.over([picture()] * 2)
    for index in (2, -1, True, 1.0, None):
        with pytest.raises(ValueError, match=f"index is {index}; expected that of a picture, an integer from 0 to 1"):
            shown.strip(index)  # type: ignore[arg-type]
    for path, seconds, message in (
        ("a.jpg", 0.1, "is no animation; expected one of .gif, .webp, .png"),
        ("none/a.gif", 0.1, "the folder .* does not exist"),
        ("a.gif", 0, "seconds is 0; expected those of a frame"),
        ("a.gif", "fast", "seconds is 'fast'"),
    ):
        with pytest.raises(ValueError, match=message):
            shown.save_animation(tmp_path / path, "cat", seconds=seconds)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the word 'dog' was not captured"):
        shown.save_animation(tmp_path / "a.gif", "dog")
    with pytest.raises(ValueError, match="no words were captured; name them"):
        HeatMaps().over([picture()]).strip()
    assert list(tmp_path.iterdir()) == []
