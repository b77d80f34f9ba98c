"""What CLIP (Radford et al. 2021) says of pictures and captions: the similarities that Brooks et al. 2023 filter by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pydiff.models.clip import stored_key, text_network, vision_network
from pydiff.models.clip_config import text_fields, vision_fields
from pydiff.text.clip import ClipEncoder, Reading
from pydiff.text.tokenizer_files import fitted, read_whole
from pydiff.text.tokens import PromptTokenizer
from pydiff.text.torch_networks import ClipRunner
from pydiff.vision import Preprocessing, preprocessing_of
from pydiff.weights import load_network, read_json
from pydiff.weights.files import inside, read_config

PREPROCESSING = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # where transformers 5 writes it
READING = Reading(skip=0, normed=True, pooled=True, fixed=True)  # one window, and the projection of its pooled state


class Similarities(NamedTuple):
    """Cosines in [-1, 1] of one edit. image: of its two pictures; source, target: of each picture and its caption;
    direction: of the change of pictures and that of captions (Gal et al. 2022, section 4.1)."""

    image: float
    source: float
    target: float
    direction: float


class Least(NamedTuple):
    """The least similarities of a pair worth keeping, as Brooks et al. 2023 have them (section 3.1.2)."""

    image: float = 0.75
    caption: float = 0.2
    direction: float = 0.2

    def met(self, found: Similarities) -> bool:
        captions = min(found.source, found.target)
        return found.image >= self.image and captions >= self.caption and found.direction >= self.direction


class ClipNetworks(nn.Module):
    """Both of CLIP's networks, each with the projection that follows."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        text, vision = part_configs(config)
        self.text = text_network(text, projected=True)
        self.vision = vision_network(vision, projected=True)

    def stored_key(self, name: str) -> str | None:
        """The name here of a tensor of transformers' CLIPModel, None for what no similarity needs."""
        if name == "logit_scale":
            return None
        text = name.startswith("text_")
        network, part = (self.text, "text_model") if text else (self.vision, "vision_model")
        key = stored_key(name, part, network)
        return key and f"{'text' if text else 'vision'}.{key}"


class Clip:
    """CLIP, and how its networks are given captions and pictures. Embeddings have P numbers and length 1."""

    def __init__(self, networks: ClipNetworks, tokenizer: PromptTokenizer, preprocessing: Preprocessing) -> None:
        self.networks, self.preprocessing = networks, preprocessing
        self.words = ClipEncoder([tokenizer], [ClipRunner(networks.text, READING)], READING)

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """(B, P). Raises ValueError for a caption of more tokens than the network reads."""
        pooled = self.words.encode(captions).pooled
        assert pooled is not None
        return F.normalize(pooled, dim=-1)

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(B, P), of RGB pictures of any size."""
        with torch.inference_mode():
            seen = torch.from_numpy(np.stack([self.preprocessing(picture) for picture in pictures]))
            return F.normalize(self.networks.vision(seen.to(next(self.networks.parameters()))).image_embeds, dim=-1)


def similarities(pictures: Tensor, captions: Tensor) -> list[Similarities]:
    """Of every target: embeddings (1 + N, P) of length 1 of a source and N targets, and of their captions."""
    shown = (pictures * captions).sum(-1)
    image = pictures[1:] @ pictures[0]
    direction = F.cosine_similarity(pictures[1:] - pictures[0], captions[1:] - captions[0], dim=-1)
    columns = (image, shown[:1].expand_as(image), shown[1:], direction)
    return [Similarities(*row) for row in torch.stack(columns, dim=-1).tolist()]


def load_clip(folder: Path, device: str = "cpu") -> Clip:
    """Open a folder of transformers' CLIPModel with its tokenizer.json and its preprocessing, in float32.

    Raises ValueError for what `load_network` refuses, a tokenizer or preprocessing that is missing or does not fit the
    networks, and where transformers is not installed.
    """
    made: list[ClipNetworks] = []

    def build(config: Mapping[str, Any]) -> ClipNetworks:
        made.append(ClipNetworks(config))
        return made[0]

    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one of transformers' CLIPModel")
    preprocessing, tokenizer = _read_preprocessing(folder), _read_tokenizer(folder)
    networks = load_network(folder, build, rename=lambda name: made[0].stored_key(name))
    return Clip(networks.to(device), tokenizer, preprocessing)


def part_configs(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a CLIPModel's config.json says of its text and of its vision network. Raises ValueError for others."""
    if config.get("model_type") != "clip":
        raise ValueError(f"config.json says model_type {config.get('model_type')!r}; expected 'clip'")
    parts = [config.get(name) for name in ("text_config", "vision_config")]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError("config.json lacks text_config or vision_config; expected those of a CLIPModel")
    width = {name: config[name] for name in ("projection_dim",) if name in config}  # what the parts say is not read
    text, vision = ({**(part or {}), **width} for part in parts)
    return text, vision


def _read_preprocessing(folder: Path) -> Preprocessing:
    joint = not (folder / PREPROCESSING).is_file() and (folder / PROCESSOR).is_file()
    path = inside(folder, PROCESSOR if joint else PREPROCESSING)
    config = read_json(path).get("image_processor") if joint else read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} has image_processor = {config!r}; expected an object")
    side = read_config(folder, lambda config: vision_fields(part_configs(config)[1]))["image_size"]
    return preprocessing_of(config, path, side)


def _read_tokenizer(folder: Path) -> PromptTokenizer:
    fields = read_config(folder, lambda config: text_fields(part_configs(config)[0]))
    tokenizer, pad = read_whole(folder)
    return fitted(folder, tokenizer, fields["max_position_embeddings"], pad, fields["vocab_size"])
