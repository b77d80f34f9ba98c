"""Pipeline folders in the diffusers layout, opened as the stages of a cascade."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydiff.cascade import Cascade, Stage, StageDefaults
from pydiff.diffusion.config import sampler_from_scheduler_config
from pydiff.diffusion.levels import NoiseSchedule
from pydiff.text.prompts import load_prompt_encoder
from pydiff.weights import load_unet, read_json

# What a pipeline class does when the caller does not say, as in diffusers.
DEFAULTS = {
    "IFPipeline": StageDefaults(100, 7.0),
    "IFSuperResolutionPipeline": StageDefaults(50, 4.0, 250),
}
SETTINGS = "pydiff.json"  # a folder's own defaults and the words its model knows; diffusers passes it over
SETTINGS_FIELDS = {"num_inference_steps", "guidance_scale", "noise_level", "variance_type", "size", "words"}


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
    return Cascade(name, stages, text, settings[0].get("size", stages[-1].size))


def _read_index(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one in the diffusers layout, with model_index.json")
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{folder} has no model_index.json; expected a folder that diffusers' save_pretrained wrote")
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") not in DEFAULTS:
        known = ", ".join(DEFAULTS)
        raise ValueError(f"{folder} is a {index.get('_class_name')!r}, which pydiff does not run yet; it runs {known}")
    return index


def _read_settings(folder: Path) -> dict[str, Any]:
    if not (folder / SETTINGS).is_file():
        return {}
    settings = read_json(folder / SETTINGS)
    unknown = set(settings) - SETTINGS_FIELDS
    if unknown:
        raise ValueError(f"{folder / SETTINGS} has unknown fields {', '.join(sorted(unknown))}")
    return settings


def _open_stage(folder: Path, index: Mapping[str, Any], settings: Mapping[str, Any]) -> Stage:
    unet = load_unet(folder / "unet")
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
