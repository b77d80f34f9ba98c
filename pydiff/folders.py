"""Pipeline folders in the diffusers layout, opened as the stages of a cascade."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pydiff.cascade import Cascade, Stage, StageDefaults
from pydiff.diffusion.config import sampler_from_scheduler_config
from pydiff.diffusion.ddpm import VARIANCE_TYPES
from pydiff.diffusion.levels import NoiseSchedule
from pydiff.models.unet_checks import check_cond
from pydiff.nn.cond import Cond
from pydiff.text.prompts import load_prompt_encoder
from pydiff.weights import load_unet, read_json

# What a pipeline class does when the caller does not say, as in diffusers.
DEFAULTS = {
    "IFPipeline": StageDefaults(100, 7.0),
    "IFSuperResolutionPipeline": StageDefaults(50, 4.0, 250),
}
SETTINGS = "pydiff.json"  # a folder's own defaults and the words its model knows; diffusers passes it over


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


# Whether a value of SETTINGS fits, and what is expected.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_inference_steps": (lambda value: _is_count(value) and value > 0, "an integer of at least 1"),
    "guidance_scale": (lambda value: type(value) in (int, float), "a number"),
    "noise_level": (_is_count, "an integer that is not negative"),
    "variance_type": (lambda value: value in VARIANCE_TYPES, f"one of {', '.join(VARIANCE_TYPES)}"),
    "size": (_is_count, "a side in pixels"),
    "words": (_is_words, "a list of words"),
}


def open_cascade(folders: Sequence[Path], name: str) -> Cascade:
    """A cascade of one folder per stage, the first with the text encoder. ValueError names what does not fit."""
    indexes = [_read_index(folder) for folder in folders]
    settings = [_read_settings(folder) for folder in folders]
    stages = tuple(
        _open_stage(folder, index, own) for folder, index, own in zip(folders, indexes, settings, strict=True)
    )
    for folder, stage, before in zip(folders[1:], stages[1:], stages, strict=False):
        if stage.noising is None:
            raise ValueError(f"{folder} is a base stage; only the first of a cascade's folders can be one")
        if stage.size <= before.size:
            raise ValueError(
                f"{folder} makes {stage.size} pixels after a stage of {before.size}; give small stages first"
            )
    if stages[0].noising is not None:
        raise ValueError(f"{folders[0]} is a super-resolution stage; give the base stage's folder before it")
    text = load_prompt_encoder(folders[0], settings[0].get("words", ()))
    for folder, stage in zip(folders, stages, strict=True):
        _check_conditioning(folder, stage, text.encoder.config.d_model)
    size = settings[0].get("size")  # one that the folders given do not reach is passed over
    return Cascade(name, stages, text, size if size in [stage.size for stage in stages] else stages[-1].size)


def _check_conditioning(folder: Path, stage: Stage, width: int) -> None:
    """That the network takes the states of the text encoder and, above a base stage, a noise level."""
    labels = None if stage.noising is None else torch.zeros(1)
    try:
        check_cond(stage.unet.config, Cond(text=torch.zeros(1, 1, width), labels=labels), stage.unet.reads_text)
    except ValueError as error:
        raise ValueError(f"{folder / 'unet'} does not fit its pipeline or text encoder: {error}") from error


def _read_index(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one in the diffusers layout, with model_index.json")
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{folder} has no model_index.json; expected a folder that diffusers' save_pretrained wrote")
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") not in list(DEFAULTS):  # a list compares what cannot be hashed too
        known = ", ".join(DEFAULTS)
        raise ValueError(f"{folder} is a {index.get('_class_name')!r}, which pydiff does not run yet; it runs {known}")
    return index


def _read_settings(folder: Path) -> dict[str, Any]:
    if not (folder / SETTINGS).is_file():
        return {}
    settings = read_json(folder / SETTINGS)
    for name, value in settings.items():
        if name not in FIELDS:
            raise ValueError(f"{folder / SETTINGS} has an unknown field {name!r}; expected {', '.join(FIELDS)}")
        fits, expected = FIELDS[name]
        if not fits(value):
            raise ValueError(f"{folder / SETTINGS} has {name} = {value!r}; expected {expected}")
    return settings


def _open_stage(folder: Path, index: Mapping[str, Any], settings: Mapping[str, Any]) -> Stage:
    unet = load_unet(folder / "unet").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sampling = sampler_from_scheduler_config(read_json(folder / "scheduler" / "scheduler_config.json"))
    if "variance_type" in settings:  # what ddpm may use; the folder's own sampler need not know it
        kept = {**sampling.options, "variance_type": settings["variance_type"]}
        sampling = dataclasses.replace(sampling, options=kept)
    upscales = index["_class_name"] == "IFSuperResolutionPipeline"
    expected = 6 if upscales else 3
    if unet.config.in_channels != expected:
        raise ValueError(
            f"{folder / 'unet'} takes {unet.config.in_channels} channels; a {index['_class_name']}'s takes {expected}"
        )
    if unet.config.out_channels not in (3, 6):
        raise ValueError(f"{folder / 'unet'} makes {unet.config.out_channels} channels; expected 3, or 6 with variance")
    variance = sampling.options.get("variance_type", "fixed")
    if unet.config.out_channels == 3 and variance.startswith("learned"):
        raise ValueError(f"{folder} says variance_type {variance!r}, but its network predicts no variance")
    noising = None
    if upscales:
        noising = NoiseSchedule.from_config(read_json(folder / "image_noising_scheduler" / "scheduler_config.json"))
    fields = {name: value for name, value in settings.items() if name in StageDefaults._fields}
    defaults = DEFAULTS[index["_class_name"]]._replace(**fields)
    return Stage(unet, sampling, _side(unet.config.sample_size, folder), defaults, noising)


def _side(sample_size: int | tuple[int, int] | None, folder: Path) -> int:
    sides = sample_size if isinstance(sample_size, tuple) else (sample_size,)
    if sides[0] is None or len(set(sides)) > 1:
        raise ValueError(
            f"{folder / 'unet' / 'config.json'} has sample_size {sample_size!r}; expected one side in pixels"
        )
    return sides[0]
