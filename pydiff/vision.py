"""From pictures to the embeddings of CLIP (Radford et al. 2021), as unCLIP's image variations need them, and to the
token of Paint by Example (Yang et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pydiff.arrays import inference, like
from pydiff.images import to_pil
from pydiff.models.clip_config import vision_fields
from pydiff.models.rules import COUNT, FACTOR, Rule, one_of
from pydiff.weights.files import inside, read_config, read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pydiff.models.example import ExampleNetwork


def _three(rule: Rule) -> Rule:
    accepts, expected = rule
    return (
        lambda value: isinstance(value, list) and len(value) == 3 and all(map(accepts, value)),
        f"three of {expected}",
    )


def _side(*names: str) -> Rule:
    """An int, or an object of these names."""
    return (
        lambda value: (
            COUNT[0](value)
            or (isinstance(value, dict) and set(value) == set(names) and all(map(COUNT[0], value.values())))
        ),
        f"an int, or one for {' and '.join(names)}",
    )


RULES: dict[str, Rule] = {
    **{name: one_of(True) for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")},
    "size": _side("shortest_edge"),
    "crop_size": _side("height", "width"),
    "resample": one_of(*(filter_.value for filter_ in Image.Resampling)),
    "rescale_factor": FACTOR,
    "image_mean": _three(FACTOR),
    "image_std": _three(FACTOR),
}


@dataclass(frozen=True)
class Preprocessing:
    """The fields of a preprocessor_config.json that decide what the network sees; the defaults are CLIP's. size: of the
    shorter side in pixels, crop: height and width, resample: Pillow's number of a filter."""

    size: int = 224
    crop: tuple[int, int] = (224, 224)
    resample: int = 3
    rescale_factor: float = 1 / 255
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Raises ValueError, by name, for fields that pydiff does not follow."""
        for name, (accepts, expected) in RULES.items():
            if name in config and not accepts(config[name]):
                raise ValueError(f"{name} is {config[name]!r}; expected {expected}")
        fields = {name: config[name] for name in ("resample", "rescale_factor") if name in config}
        fields |= {name: tuple(config[name]) for name in ("image_mean", "image_std") if name in config}
        size, crop = config.get("size", cls.size), config.get("crop_size", cls.crop[0])
        fields["size"] = size["shortest_edge"] if isinstance(size, dict) else size
        fields["crop"] = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
        if max(fields["crop"]) > fields["size"]:
            raise ValueError(f"crop_size is {crop!r}; expected at most the size, {fields['size']}")
        return cls(**fields)

    def __call__(self, picture: Image.Image) -> NDArray[np.float32]:
        """An RGB picture, resized, cropped and normalised: (3, *crop)."""
        sides = [int(self.size * side / min(picture.size)) for side in picture.size]
        resized = np.asarray(picture.resize((sides[0], sides[1]), self.resample))
        top, left = ((side - wanted) // 2 for side, wanted in zip(resized.shape, self.crop, strict=False))
        cropped = resized[top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (np.array(values, dtype=np.float32) for values in (self.image_mean, self.image_std))
        normal = (cropped.astype(np.float64) * self.rescale_factor - mean) / std
        return normal.transpose(2, 0, 1).astype(np.float32)


class ImageEncoder:
    """CLIP's network of pictures and what it sees of one."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        self.network, self.preprocessing = network, preprocessing

    @property
    def width(self) -> int:
        """P of the embeddings."""
        return int(self.network.visual_projection.out_features)  # type: ignore[union-attr, arg-type]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move and cast the network, in place."""
        self.network.to(device=device, dtype=dtype)
        return self

    def seen(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], rounded to 8 bits, as CLIP reads them: (B, 3, S, S)."""
        weight = next(self.network.parameters())
        return like(np.stack([self.preprocessing(picture) for picture in to_pil(pictures)]), weight)

    def encode(self, pictures: Tensor) -> Tensor:
        """Embeddings (B, P) of pictures (B, 3, H, W) in [-1, 1]."""
        with inference():
            return self.network(self.seen(pictures)).image_embeds


class ExampleEncoder(ImageEncoder):
    """Paint by Example's network of the thing to paint, and what it sees of a picture."""

    network: ExampleNetwork

    @property
    def width(self) -> int:
        """D of the tokens."""
        return self.network.proj_out.out_features

    @property
    def nothing(self) -> Tensor:
        """The learned token (1, 1, D) of no picture."""
        return self.network.uncond_vector

    def encode(self, pictures: Tensor) -> Tensor:
        """Tokens (B, 1, D) of pictures (B, 3, H, W) in [-1, 1]."""
        with inference():
            tokens: Tensor = self.network(self.seen(pictures))
            return tokens


def read_preprocessing(folder: Path, extractor: Path) -> Preprocessing:
    """What the network in a folder (image_encoder in a pipeline's) sees, by the folder of its preprocessing
    (feature_extractor). ValueError, by name, for what is not CLIP's or does not fit the network's config."""
    path = inside(extractor, "preprocessor_config.json")
    return preprocessing_of(read_json(path), path, read_config(folder, vision_fields)["image_size"])


def preprocessing_of(config: Mapping[str, Any], path: Path, side: int) -> Preprocessing:
    """That of a configuration, read from path, for a network that sees pictures of this side."""
    try:
        preprocessing = Preprocessing.from_dict(config)
    except ValueError as error:
        raise ValueError(f"{path} is not what pydiff follows: {error}") from error
    if preprocessing.crop != (side, side):
        raise ValueError(f"{path} crops to {preprocessing.crop}; the image encoder sees {side} pixels")
    return preprocessing
