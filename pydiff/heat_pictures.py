"""Pictures of heat: a map laid over a picture, a strip with one panel per word, an animation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pydiff.diffusion.checks import real
from pydiff.images import fitted
from pydiff.weights.files import check_folder, write_whole

FRAME_SECONDS = 0.12
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG"}
COVER = (0.7, 0.88)  # the share of an overlay that is heat, where it is 0 and where it is 1
PANEL, PER_ROW = 256, 6  # a strip's panels: pixels to a side, and how many stand in a row
OKLAB_TO_LMS = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
LMS_TO_RGB = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


@cache
def colours() -> NDArray[np.uint8]:
    """(256, 3) RGB from cold to hot, perceptually uniform: OKLab (Ottosson 2020) whose lightness rises evenly from 0.15
    to 0.95 while the hue turns evenly from violet over red to yellow, with chroma that sRGB has all the way."""
    heat = np.linspace(0, 1, 256)
    hue, chroma = np.deg2rad(300 + 165 * heat), 0.07 + 0.085 * np.minimum(1, 2.5 * heat)
    lab = np.stack([0.15 + 0.8 * heat, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    linear = ((lab @ np.array(OKLAB_TO_LMS).T) ** 3 @ np.array(LMS_TO_RGB).T).clip(0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (rgb * 255).round().astype(np.uint8)


def overlay(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """Heat (h, w) in [0, 1], enlarged smoothly, over the picture in grey: the hotter, the less of the picture shows."""
    smooth = Image.fromarray(heat).resize(picture.size, Image.Resampling.BICUBIC)
    values = np.asarray(smooth).clip(0, 1)
    coloured = colours()[(values * 255).round().astype(np.uint8)].astype(np.float32)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    share = (COVER[0] + (COVER[1] - COVER[0]) * values)[..., None]
    return Image.fromarray((coloured * share + grey * (1 - share)).round().astype(np.uint8))


def strip(picture: Image.Image, panels: Mapping[str, Image.Image]) -> Image.Image:
    """The picture and the panels, each with its caption below, at most PER_ROW in a row."""
    from PIL import ImageDraw, ImageFont

    shown = [("", picture), *panels.items()]
    scale = PANEL / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    line, gap, columns = PANEL // 9, PANEL // 24, min(PER_ROW, len(shown))
    rows = -(-len(shown) // columns)
    size = (columns * (width + gap) + gap, rows * (height + line + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(line * 0.7)
    for place, (caption, panel) in enumerate(shown):
        left, top = gap + place % columns * (width + gap), gap + place // columns * (height + line + gap)
        how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        sheet.paste(panel.resize((width, height), how), (left, top))
        middle = (left + width / 2, top + height + line * 0.55)
        pen.text(middle, fitted(caption, pen, font, width), fill="black", font=font, anchor="mm")
    return sheet


def write_animation(path: Path, draw: Callable[[], Sequence[Image.Image]], seconds: float) -> Path:
    """Write what `draw` makes as an endless animation, under a temporary name and then moved. Raises ValueError, before
    anything is drawn, where there can be no such file."""
    kind = ANIMATIONS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"the output {path} is no animation; expected one of {', '.join(ANIMATIONS)}")
    if not 0.01 <= real("seconds", seconds) <= 60:
        raise ValueError(f"seconds is {seconds!r}; expected those of a frame, from 0.01 to 60")
    check_folder(path)
    first, *rest = draw()
    how: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": round(seconds * 1000), "loop": 0}
    write_whole(path, lambda file: first.save(file, kind, **how))
    return path
