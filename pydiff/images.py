"""Pictures in and out: tensors, PIL and NumPy, contact sheets, and PNG files that say how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from pydiff.weights.files import write_whole

OUTPUT_TYPES = ("pil", "np", "pt")
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 1 << 26
CHUNK = "pydiff"
MAX_CHUNK = 1 << 20
PNG_COMPRESSION = 4


def to_unit(x: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) from [-1, 1] to [0, 1], clipped."""
    return (x.float() / 2 + 0.5).clamp(0, 1)


def to_pil(x: Tensor) -> list[Image.Image]:
    """Pictures (B, 3, H, W) in [-1, 1], rounded to 8 bits as diffusers rounds."""
    values = (to_unit(x).permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)
    return [Image.fromarray(picture) for picture in values]


def to_output(x: Tensor, output_type: str) -> Any:
    """pil: list of PIL pictures; np: (B, H, W, 3) float32 in [0, 1]; pt: (B, 3, H, W) float32 in [0, 1]."""
    if output_type == "pil":
        return to_pil(x)
    unit = to_unit(x)
    return unit if output_type == "pt" else unit.permute(0, 2, 3, 1).cpu().numpy()


def from_user(image: Image.Image | NDArray[Any] | Tensor | str | Path, what: str = "image") -> Tensor:
    """One picture as (1, 3, H, W) in [-1, 1].

    PIL pictures and files of any mode (alpha is laid over white, EXIF rotation applied); NumPy (H, W, 3) uint8 or float
    in [0, 1]; tensors (3, H, W) or (1, 3, H, W) float in [0, 1]. ValueError says what came and what was expected.
    """
    if isinstance(image, (str, Path)):
        image = open_image(Path(image))
    if isinstance(image, Image.Image):
        array = np.asarray(_plain(image), np.float32) / 255
        return torch.from_numpy(array).permute(2, 0, 1)[None] * 2 - 1
    if isinstance(image, np.ndarray):
        array = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image.astype(np.float32)
        tensor = torch.from_numpy(array)
        tensor = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor
    elif isinstance(image, Tensor):
        tensor = image.detach().float().cpu()
        tensor = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
    else:
        raise ValueError(
            f"{what} is a {type(image).__name__}; expected a PIL picture, a path, a NumPy array or a tensor"
        )
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"{what} has shape {tuple(image.shape)}; expected one RGB picture, (H, W, 3) or (3, H, W)")
    if not (tensor.isfinite().all() and tensor.min() >= 0 and tensor.max() <= 1):
        raise ValueError(f"{what} has values outside [0, 1]; scale it to floats in [0, 1], or give uint8")
    return tensor[None] * 2 - 1


def open_image(path: Path) -> Image.Image:
    """A PNG, JPEG or WebP file, wholly read. ValueError for a missing, too large, truncated or other file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{path} has {width}x{height} pixels; expected at most {MAX_PIXELS}")
            image.load()
            return image.copy()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a directory; expected a picture file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no readable {', '.join(FORMATS)} picture: {error}") from error


def _plain(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        scale = 255.0 / (65535.0 if values.max(initial=0) > 255 else 255.0)
        image = Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))
    return image.convert("RGB")


def write_png(path: Path, image: Image.Image, settings: Mapping[str, Any] | None) -> None:
    """Write a PNG that carries its settings, under a temporary name and then moved, so that no half is ever left.

    settings go into two chunks: `parameters` in AUTOMATIC1111's form, and `pydiff` as JSON (see `read_settings`).
    """
    chunks = PngImagePlugin.PngInfo()
    if settings is not None:
        chunks.add_itxt("parameters", parameters_line(settings))
        chunks.add_itxt(CHUNK, json.dumps(dict(settings)))
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist; make it first")
    write_whole(path, lambda file: image.save(file, "PNG", pnginfo=chunks, compress_level=PNG_COMPRESSION))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a PNG written by pydiff carries. ValueError when there are none, or no readable ones."""
    image = open_image(path)
    text = image.info.get(CHUNK)
    if not isinstance(text, str):
        raise ValueError(f"{path} carries no pydiff settings; only pictures that pydiff wrote can be repeated")
    if len(text) > MAX_CHUNK:
        raise ValueError(f"the settings in {path} are {len(text)} characters long; expected at most {MAX_CHUNK}")
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the settings in {path} are no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"the settings in {path} are a {type(settings).__name__}; expected an object")
    return settings


def parameters_line(settings: Mapping[str, Any]) -> str:
    """The text that AUTOMATIC1111 and its kin read: the prompt, the negative prompt, and one line of pairs."""

    def first(value: Any) -> Any:
        return value[0] if isinstance(value, (list, tuple)) and value else value

    lines = [str(settings.get("prompt", ""))]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    pairs = {
        "Steps": first(settings.get("num_inference_steps")),
        "Sampler": first(settings.get("sampler")),
        "CFG scale": first(settings.get("guidance_scale")),
        "Seed": settings.get("seed"),
        "Size": f"{settings.get('size')}x{settings.get('size')}",
        "Model": settings.get("model"),
        "Version": f"pydiff {settings.get('version')}",
    }
    quoted = (f"{key}: {_quoted(str(value))}" for key, value in pairs.items() if value is not None)
    return "\n".join([*lines, ", ".join(quoted)])


def _quoted(value: str) -> str:
    return json.dumps(value) if any(mark in value for mark in ",:\n") else value


def contact_sheet(rows: Sequence[Sequence[Image.Image]], captions: Sequence[str], cell: int = 256) -> Image.Image:
    """Rows of pictures, each scaled into a square cell, with a caption under every row."""
    line, gap = max(14, cell // 12), max(4, cell // 32)
    columns = max(len(row) for row in rows)
    width = columns * (cell + gap) + gap
    sheet = Image.new("RGB", (width, len(rows) * (cell + line + 2 * gap) + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(line * 0.7)
    for index, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = gap + index * (cell + line + 2 * gap)
        for column, picture in enumerate(row):
            large = picture.width < cell  # show the pixels of a small stage, smooth a large one
            scaled = picture.resize((cell, cell), Image.Resampling.NEAREST if large else Image.Resampling.LANCZOS)
            sheet.paste(scaled, (gap + column * (cell + gap), top))
        pen.text((gap, top + cell + gap // 2), _fitted(caption, pen, font, width - 2 * gap), fill="black", font=font)
    return sheet


def _fitted(text: str, pen: ImageDraw.ImageDraw, font: Any, width: int) -> str:
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."
