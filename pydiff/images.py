"""Pictures in and out: arrays and PIL, contact sheets, and PNG files that say how they were made."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from pydiff._optional import TORCH, optional
from pydiff.arrays import Array, cast, is_array, is_torch, namespace, on_host
from pydiff.weights.files import check_png_path, parse_json, write_whole

if TYPE_CHECKING:
    from PIL import ImageDraw

Given: TypeAlias = "Array | NDArray[Any]"
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 1 << 26
CHUNK = "pydiff"
MAX_CHUNK = 1 << 20
PNG_COMPRESSION = 4
# What Pillow raises for damaged files, in their pixels or in their metadata.
UNREADABLE = (
    *(UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError),
    *(struct.error, zlib.error, EOFError, LookupError, TypeError, AttributeError, OverflowError, ValueError),
)


def to_unit(x: Given) -> Array:
    """Pictures (B, 3, H, W) from [-1, 1] to [0, 1], clipped, in float32; CuPy's come to the host."""
    given: Any = x if is_torch(x) else on_host(x)
    unit: Array = cast(given, namespace(given).float32) / 2 + 0.5
    return unit.clip(0, 1)


def to_pil(x: Given) -> list[Image.Image]:
    """Pictures (B, 3, H, W) in [-1, 1], rounded to 8 bits as diffusers rounds."""
    values = (_channels_last(to_unit(x)) * 255).round().astype(np.uint8)
    return [Image.fromarray(picture) for picture in values]


def check_output_type(output_type: str) -> None:
    """Raise ValueError for none of OUTPUT_TYPES, and for torch tensors where there is no torch."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}")
    if output_type == "pt":
        optional("torch", TORCH, "output_type 'pt'")


def to_output(x: Array, output_type: str) -> Any:
    """pil: list of PIL pictures; np: (B, H, W, 3) float32 in [0, 1]; pt: a torch tensor (B, 3, H, W) float32 in [0, 1];
    latent: x."""
    if output_type == "pil":
        return to_pil(x)
    if output_type == "latent":
        return namespace(x).asarray(x, copy=True)  # an ordinary tensor, not one of inference mode
    unit = to_unit(x)
    if output_type == "np":
        return _channels_last(unit)
    return unit if is_torch(unit) else optional("torch", TORCH, "output_type 'pt'").from_numpy(unit)


def _channels_last(x: Array) -> NDArray[Any]:
    return on_host(x).transpose(0, 2, 3, 1)


def from_user(image: Image.Image | Array | NDArray[Any] | str | Path, what: str = "image") -> NDArray[np.float32]:
    """One picture as (1, 3, H, W) in [-1, 1].

    PIL pictures and files of any mode (alpha is laid over white, EXIF rotation applied); NumPy (H, W, 3) and tensors
    (3, H, W) or (1, 3, H, W), uint8 or float in [0, 1]. ValueError says what came and what was expected.
    """
    if isinstance(image, (str, Path)):
        image = open_image(Path(image))
    if isinstance(image, Image.Image):
        image = np.asarray(_plain(image, what))
    values = _numbers(image, what)
    if is_torch(image):
        values = values[0] if values.ndim == 4 and len(values) == 1 else values
    elif values.ndim == 3:
        values = values.transpose(2, 0, 1)
    if values.ndim != 3 or values.shape[0] != 3 or values.size == 0:
        raise ValueError(f"{what} has shape {tuple(image.shape)}; expected one RGB picture, (H, W, 3) or (3, H, W)")
    return _in_range(values, what, "scale it to floats in [0, 1], or give uint8")[None] * 2 - 1


def pictures_from_user(images: Any) -> NDArray[np.float32]:
    """One picture, or a list of pictures of one size, as (B, 3, H, W) in [-1, 1]; see `from_user`."""
    if not isinstance(images, (list, tuple)):
        return from_user(images)
    made = [from_user(image, f"image {index}") for index, image in enumerate(images)]
    sizes = {f"{one.shape[3]}x{one.shape[2]}" for one in made}
    if len(sizes) != 1:
        raise ValueError(f"the pictures given together are {', '.join(sorted(sizes)) or 'none'}; expected one size")
    return np.concatenate(made)


def mask_from_user(mask: Any, size: tuple[int, int], *, soft: bool = False) -> NDArray[np.float32]:
    """A mask as (1, 1, H, W) of zeros and ones, 1 where it is at least half white: white is repainted, black is kept.
    soft: its values as they are, in [0, 1].

    PIL pictures and files; NumPy and tensors (H, W), (1, H, W) or (1, 1, H, W) of bools, uint8 or floats in [0, 1].
    size: height and width that it must have. ValueError says what came and what was expected.
    """
    if isinstance(mask, (str, Path)):
        mask = open_image(Path(mask))
    if isinstance(mask, Image.Image):
        mask = np.asarray(_plain(mask, "mask").convert("L"))
    given = _numbers(mask, "mask")
    if given.shape not in (size, (1, *size), (1, 1, *size)):
        raise ValueError(f"mask has shape {given.shape}; expected the picture's height and width {size}")
    values = _in_range(given.reshape(1, 1, *size), "mask", "give bools, uint8 or floats in [0, 1]")
    return values if soft else (values >= 0.5).astype(np.float32)


def _numbers(given: Any, what: str) -> NDArray[Any]:
    """A caller's array of either kind. Raises ValueError for what is none, and for one that holds no real numbers."""
    values = on_host(given) if is_array(given) else None
    if values is None or values.dtype.kind not in "buif":
        raise ValueError(
            f"{what} is a {type(given).__name__}; expected a PIL picture, a path, or numbers in an array or a tensor"
        )
    return values


def _in_range(values: NDArray[Any], what: str, hint: str) -> NDArray[np.float32]:
    """A copy in float32, of uint8 in shares of 255. Raises ValueError for values outside [0, 1]."""
    scaled = values.astype(np.float32)
    if values.dtype == np.uint8:
        scaled /= 255
    if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 1):
        raise ValueError(f"{what} has values outside [0, 1]; {hint}")
    return scaled


def open_image(path: Path) -> Image.Image:
    """A PNG, JPEG or WebP file, wholly read. ValueError for a missing, too large, truncated or other file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"it has {width}x{height} pixels; expected at most {MAX_PIXELS}")
            image.load()
            return image.copy()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a directory; expected a picture file") from None
    except UNREADABLE as error:
        raise ValueError(f"{path} is no readable {', '.join(FORMATS)} picture: {error}") from error


def _plain(image: Image.Image, what: str) -> Image.Image:
    """8-bit RGB, upright. I and F pictures hold 16 bits when a value is beyond 255."""
    from PIL import ImageOps

    try:
        image = ImageOps.exif_transpose(image)
        if image.mode == "La":
            image = image.convert("LA")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            ground = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(ground, image).convert("RGB")
        if image.mode.startswith("I") or image.mode == "F":
            values = np.asarray(image, np.float64)
            if not np.isfinite(values).all():
                raise ValueError("it holds values that are not finite")
            deep = image.mode.startswith("I;16") or values.max(initial=0) > 255
            image = Image.fromarray((values / (257.0 if deep else 1.0)).clip(0, 255).round().astype(np.uint8))
        return image.convert("RGB")
    except UNREADABLE as error:
        raise ValueError(f"{what} is no readable picture: {error}") from error


def write_png(path: Path, image: Image.Image, settings: Mapping[str, Any] | None) -> None:
    """Write a PNG that carries its settings, under a temporary name and then moved, so that no half is ever left.

    settings go into two chunks: `parameters` in AUTOMATIC1111's form, and `pydiff` as JSON (see `read_settings`).
    """
    chunks = PngImagePlugin.PngInfo()
    if settings is not None:
        chunks.add_text("parameters", parameters_line(settings))  # Latin-1 where that is enough, else UTF-8
        chunks.add_text(CHUNK, json.dumps(dict(settings), allow_nan=False))
    check_png_path(path)
    write_whole(path, lambda file: image.save(file, "PNG", pnginfo=chunks, compress_level=PNG_COMPRESSION))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a PNG written by pydiff carries. ValueError when there are none, or no readable ones."""
    image = open_image(path)
    text = image.info.get(CHUNK)
    if not isinstance(text, str):
        raise ValueError(f"{path} carries no pydiff settings; only pictures that pydiff wrote can be repeated")
    if len(text) > MAX_CHUNK:
        raise ValueError(f"the settings in {path} are {len(text)} characters long; expected at most {MAX_CHUNK}")
    return parse_json(text.encode(), f"the {CHUNK!r} text in {path}")


def parameters_line(settings: Mapping[str, Any]) -> str:
    """The text that AUTOMATIC1111 and its kin read: the prompt, the negative prompt, and one line of pairs."""

    def first(value: Any) -> Any:  # of the first stage, at its first level
        return first(value[0]) if isinstance(value, (list, tuple)) and value else value

    def last(value: Any) -> Any:  # of several pictures that are asked for: its own
        return value[-1] if isinstance(value, (list, tuple)) and value else value

    lines = [str(last(settings.get("prompt")) or "")]
    if last(settings.get("negative_prompt")):
        lines.append(f"Negative prompt: {last(settings['negative_prompt'])}")
    pairs = {
        "Steps": first(settings.get("num_inference_steps")),
        "Sampler": first(settings.get("sampler")),
        "CFG scale": first(settings.get("guidance_scale")),
        "Seed": last(settings.get("seed")),
        "Size": f"{settings.get('width')}x{settings.get('height')}",
        "Model": settings.get("model"),
        "Version": f"pydiff {settings.get('version')}",
    }
    quoted = (f"{key}: {_quoted(str(value))}" for key, value in pairs.items() if value is not None)
    return "\n".join([*lines, ", ".join(quoted)])


def _quoted(value: str) -> str:
    return json.dumps(value) if any(mark in value for mark in ",:\n") else value


def contact_sheet(rows: Sequence[Sequence[Image.Image]], captions: Sequence[str], cell: int = 256) -> Image.Image:
    """Rows of pictures, each scaled into a square cell, with a caption of one line under every row."""
    from PIL import ImageDraw, ImageFont

    if not rows or not all(rows) or len(captions) != len(rows):
        raise ValueError(f"{len(rows)} rows and {len(captions)} captions; expected at least one picture in each row")
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
        pen.text((gap, top + cell + gap // 2), fitted(caption, pen, font, width - 2 * gap), fill="black", font=font)
    return sheet


def fitted(text: str, pen: ImageDraw.ImageDraw, font: Any, width: int) -> str:
    """As much of the text, on one line, as this width holds."""
    text = " ".join(text.split())
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."
