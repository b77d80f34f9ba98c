"""What a pipeline folder says of itself: model_index.json, and pydiff.json where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydiff.cascade import StageDefaults
from pydiff.diffusion.config import SamplerConfig, sampler_from_scheduler_config
from pydiff.diffusion.ddpm import VARIANCE_TYPES
from pydiff.diffusion.levels import NoiseSchedule
from pydiff.folders.networks import Networks
from pydiff.models.rules import NUMBER
from pydiff.networks import Codec, Denoiser
from pydiff.text.encoders import TextEncoder
from pydiff.text.loading import open_text_encoder
from pydiff.weights.files import inside, read_json

Made = TypeVar("Made")

SWAP = ("cross_replace", "self_replace", "pooled_replace", "spatial_replace")  # what edits that swap words do here
SETTINGS = "pydiff.json"  # a folder's own defaults and the words its model knows; diffusers passes it over

# Families: which function of `stages` opens a folder.
PIXELS, UPSCALER, LATENT, LATENT_UPSCALER, XL, UNWORDED, UNCLIP, EXEMPLAR, RESTORER, INSTRUCTED = (
    *("pixels", "upscaler", "latent", "latent_upscaler", "xl"),
    *("unworded", "unclip", "exemplar", "restorer", "instructed"),
)


class Family(NamedTuple):
    """A pipeline class: how it is opened, and what it does when the caller does not say, as in diffusers."""

    name: str
    defaults: StageDefaults
    image_guidance_scale: float | None = None


FAMILIES = {
    "IFPipeline": Family(PIXELS, StageDefaults(100, 7.0)),
    "IFImg2ImgPipeline": Family(PIXELS, StageDefaults(80, 10.0)),
    "IFInpaintingPipeline": Family(PIXELS, StageDefaults(50, 7.0)),
    "IFSuperResolutionPipeline": Family(UPSCALER, StageDefaults(50, 4.0, 250)),
    "IFImg2ImgSuperResolutionPipeline": Family(UPSCALER, StageDefaults(50, 4.0, 250)),
    "IFInpaintingSuperResolutionPipeline": Family(UPSCALER, StageDefaults(100, 4.0, 0)),
    "StableDiffusionPipeline": Family(LATENT, StageDefaults(50, 7.5)),
    "StableDiffusionImg2ImgPipeline": Family(LATENT, StageDefaults(50, 7.5)),
    "StableDiffusionInpaintPipeline": Family(LATENT, StageDefaults(50, 7.5)),
    "StableDiffusionInstructPix2PixPipeline": Family(LATENT, StageDefaults(100, 7.5), 1.5),
    "StableDiffusionUpscalePipeline": Family(LATENT_UPSCALER, StageDefaults(75, 9.0, 20)),
    "StableDiffusionXLPipeline": Family(XL, StageDefaults(50, 5.0)),
    "StableDiffusionXLImg2ImgPipeline": Family(XL, StageDefaults(50, 5.0)),
    "StableDiffusionXLInpaintPipeline": Family(XL, StageDefaults(50, 7.5)),
    "DDPMPipeline": Family(UNWORDED, StageDefaults(1000, 1.0)),
    "DDIMPipeline": Family(UNWORDED, StageDefaults(50, 1.0)),
    "RePaintPipeline": Family(UNWORDED, StageDefaults(250, 1.0)),
    "UnCLIPPipeline": Family(UNCLIP, StageDefaults(25, 8.0)),
    "UnCLIPImageVariationPipeline": Family(UNCLIP, StageDefaults(25, 8.0)),
    "PaintByExamplePipeline": Family(EXEMPLAR, StageDefaults(50, 5.0)),
    "PalettePipeline": Family(RESTORER, StageDefaults(1000, 1.0)),  # no class of diffusers, but its layout; nor this:
    "InstructPix2PixPipeline": Family(INSTRUCTED, StageDefaults(100, 7.5), 1.5),  # in pixels
}
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", "deepfloyd_if", "unclip", "paint_by_example")
FLAGS = ("requires_aesthetics_score", "force_zeros_for_empty_prompt")  # of model_index.json

# Classes of the text encoders that a family reads.
T5, CLIP, PROJECTED = "T5EncoderModel", "CLIPTextModel", "CLIPTextModelWithProjection"
TEXTS = {
    **dict.fromkeys((PIXELS, UPSCALER, RESTORER, INSTRUCTED), (T5,)),
    **dict.fromkeys((LATENT, LATENT_UPSCALER), (CLIP,)),
    XL: (CLIP, PROJECTED),
    UNCLIP: (PROJECTED,),
}


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_shares(value: Any) -> bool:
    if not isinstance(value, dict) or not set(value) <= set(SWAP):
        return False
    return all(type(share) in (int, float) and 0 <= share <= 1 for share in value.values())


# Whether a value of SETTINGS fits, and what is expected.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_inference_steps": (lambda value: _is_count(value) and value > 0, "an integer of at least 1"),
    "guidance_scale": NUMBER,
    "image_guidance_scale": NUMBER,
    "noise_level": (_is_count, "an integer that is not negative"),
    "variance_type": (lambda value: value in VARIANCE_TYPES, f"one of {', '.join(VARIANCE_TYPES)}"),
    "size": (_is_count, "a side in pixels"),
    "words": (_is_words, "a list of words"),
    "swap": (_is_shares, "shares of a run from 0 to 1, by the name of an edit's option"),
}


@dataclass(frozen=True)
class Index:
    """A folder, its pipeline class, and its two files; how what it holds is opened."""

    folder: Path
    pipeline: str
    values: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        return FAMILIES[self.pipeline]

    @property
    def defaults(self) -> StageDefaults:
        own = {name: value for name, value in self.settings.items() if name in StageDefaults._fields}
        return self.family.defaults._replace(**own)

    def has(self, component: str) -> bool:
        """Whether the index names a class for this component."""
        return self._entry(component) is not None

    def component(self, name: str, *classes: str) -> Path:
        """The folder of a component that is of one of these classes. ValueError for a missing or another one."""
        entry = self._entry(name)
        if entry is None:
            raise ValueError(f"{self.folder / 'model_index.json'} names no {name}; a {self.pipeline} needs one")
        library, made_by = entry
        if library not in LIBRARIES:
            raise ValueError(
                f"{self.folder / 'model_index.json'} takes {name} from {library!r}, code that pydiff does not run; "
                f"expected a class of {' or '.join(LIBRARIES[:2])}"
            )
        if classes and made_by not in classes:
            raise ValueError(f"{self.folder / name} is a {made_by}; pydiff opens {' or '.join(classes)} there")
        path = inside(self.folder, name)
        if not path.is_dir():
            raise ValueError(f"{path} is missing; {self.folder / 'model_index.json'} says it is a {made_by}")
        return path

    def unet(self, networks: Networks, name: str = "unet") -> Denoiser:
        return networks.unet(self.component(name, "UNet2DConditionModel"))

    def unet2d(self, networks: Networks, name: str = "unet") -> Denoiser:
        return networks.unet2d(self.component(name, "UNet2DModel"))

    def autoencoder(self, networks: Networks) -> Codec:
        return networks.autoencoder(self.component("vae", "AutoencoderKL"))

    def words(self, networks: Networks) -> TextEncoder:
        """The folder's own text encoder."""
        for name in filter(self.has, sorted(self.values)):
            if name.startswith(("text_encoder", "tokenizer")):
                self.component(name, *(TEXTS[self.family.name] if name.startswith("text_encoder") else ()))
        return open_text_encoder(self.folder, networks, self.settings.get("words", ()))

    def scheduler(self, name: str = "scheduler") -> Mapping[str, Any]:
        return read_json(inside(self.component(name), "scheduler_config.json"))

    def sampling(self, name: str = "scheduler") -> SamplerConfig:
        """The way of sampling that a scheduler stands for."""
        return self._told(name, sampler_from_scheduler_config)

    def noising(self, name: str) -> NoiseSchedule:
        """The levels at which a stage's low-res picture is noised."""
        return self._told(name, NoiseSchedule.from_config)

    def _told(self, name: str, read: Callable[[Mapping[str, Any]], Made]) -> Made:
        config = self.scheduler(name)
        try:
            return read(config)
        except ValueError as error:
            raise ValueError(f"{self.folder / name} is of no scheduler that pydiff follows: {error}") from error

    def _entry(self, component: str) -> tuple[str, str] | None:
        entry = self.values.get(component)
        if not isinstance(entry, list) or entry == [None, None]:
            return None
        if len(entry) != 2 or not all(isinstance(part, str) for part in entry):
            raise ValueError(
                f"{self.folder / 'model_index.json'} has {component} = {entry!r}; expected [library, class]"
            )
        return entry[0], entry[1]


def read_index(folder: Path) -> Index:
    """Raises ValueError for a folder that holds no pipeline, or one that pydiff does not run."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one in the diffusers layout, with model_index.json")
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{folder} has no model_index.json; expected a folder that diffusers' save_pretrained wrote")
    values = read_json(inside(folder, "model_index.json"))
    pipeline = values.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"{folder} is a {pipeline!r}, which pydiff does not run; it runs {known}")
    for name in FLAGS:
        if type(values.get(name, False)) is not bool:
            raise ValueError(f"{folder / 'model_index.json'} has {name} = {values[name]!r}; expected true or false")
    return Index(folder, pipeline, values, _read_settings(folder))


def _read_settings(folder: Path) -> dict[str, Any]:
    if not os.path.lexists(folder / SETTINGS):
        return {}
    settings = read_json(inside(folder, SETTINGS))
    for name, value in settings.items():
        if name not in FIELDS:
            raise ValueError(f"{folder / SETTINGS} has an unknown field {name!r}; expected {', '.join(FIELDS)}")
        fits, expected = FIELDS[name]
        if not fits(value):
            raise ValueError(f"{folder / SETTINGS} has {name} = {value!r}; expected {expected}")
    return settings
