"""Write trained networks as folders in diffusers' layout: `python -m pydiff.embedded.export`.

Its IF pipelines open those of the cascade. It has no pipelines of the other two; its classes open the parts. Into
pydiff's own place it writes their graphs too (`pydiff.export.shipped`).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pydiff.embedded import checkpoint, recipe
from pydiff.embedded.captions import caption
from pydiff.embedded.instructions import instructions_of, lines
from pydiff.embedded.objective import betas_of
from pydiff.embedded.tokens import train_tokenizer
from pydiff.embedded.train import BASE_LEVELS, make_text, make_unet
from pydiff.embedded.world import sample_scene
from pydiff.export.shipped import write_shipped
from pydiff.weights import read_json, read_safetensors, save_unet, write_json, write_safetensors

LEARNED_TEXT = ("base", "instruct")  # whose text encoder learns with the network
SUPERS = {"super_256": recipe.SUPER_256, "super_1024": recipe.SUPER_1024}
TRAINING = "training.json"  # steps and seconds of each phase
HOME = Path(__file__).parent / "weights"
DIFFUSERS = "0.42.1"  # whose layout this is
NONE = [None, None]
WORDS = ["transformers", "T5EncoderModel"], ["transformers", "PreTrainedTokenizerFast"]

# What a stage does by default; chosen on the scene benchmark.
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {
        "num_inference_steps": 25,
        "guidance_scale": 3.0,
        "size": 256,
        "swap": {"self_replace": 0.8, "pooled_replace": 0.8, "spatial_replace": 0.7},
    },
    "super_256": {"num_inference_steps": 5, "guidance_scale": 1.0, "noise_level": 60},
    "super_1024": {"num_inference_steps": 3, "guidance_scale": 1.0, "noise_level": 20},
    "palette": {"num_inference_steps": 4},
    "instruct": {"num_inference_steps": 25, "guidance_scale": 2.0, "image_guidance_scale": 1.5},
}
VARIANCE = {"variance_type": "learned_range"}  # for ddpm; the default sampler has no use for it
SCHEDULER: dict[str, Any] = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": DIFFUSERS,
    "num_train_timesteps": recipe.TRAIN_TIMESTEPS,
    "prediction_type": "v_prediction",
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "timestep_spacing": "trailing",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
NOISING: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": DIFFUSERS,
    "num_train_timesteps": recipe.TRAIN_TIMESTEPS,
    "beta_schedule": recipe.BETA_SCHEDULE,
}


def export(work: Path, home: Path = HOME) -> None:
    """Averaged weights of the training states in `work` as one folder per stage in `home`, and one each for Palette's
    and InstructPix2Pix's network where they are there."""
    base, facts = checkpoint.load(work / "base.safetensors")
    training = {"base": facts}
    tokenizer = train_tokenizer()
    words = checkpoint.part(base, "ema.text.")
    _export_worded(home / "base", base, recipe.BASE, words, tokenizer)
    write_json(home / "base" / "model_index.json", _index("IFPipeline", *WORDS))
    write_json(home / "base" / "pydiff.json", {**SETTINGS["base"], **VARIANCE, "words": sorted(known_words())})
    for name, config in SUPERS.items():
        state, training[name] = checkpoint.load(work / f"{name}.safetensors")
        _export_super(home / name, state, config, SETTINGS[name])
    if (work / "palette.safetensors").exists():
        state, training["palette"] = checkpoint.load(work / "palette.safetensors")
        _export_palette(home / "palette", state, words, tokenizer)
    if (work / "instruct.safetensors").exists():
        state, training["instruct"] = checkpoint.load(work / "instruct.safetensors")
        _export_instruct(home / "instruct", state, tokenizer)
    write_json(home / TRAINING, training)


def unpack(home: Path, work: Path) -> None:
    """Training states from exported weights, where `work` has none: the averages, with optimisers that start afresh."""
    for name, facts in read_json(home / TRAINING).items():
        path, folder = work / f"{name}.safetensors", home / name
        if path.exists():
            continue
        state = {f"unet.{key}": value for key, value in read_safetensors(folder / "unet").items()}
        if name in LEARNED_TEXT:
            text = read_safetensors(folder / "text_encoder")
            text["encoder.embed_tokens.weight"] = text["shared.weight"]
            state |= {f"text.{key}": value for key, value in text.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, {f"{kind}.{key}": v for kind in ("model", "ema") for key, v in state.items()}, facts)


def _export_worded(
    folder: Path, state: checkpoint.State, config: dict[str, Any], words: checkpoint.State, tokenizer: Any
) -> None:
    """A network that reads text, its text encoder and tokenizer, and the base's levels."""
    text: Any = make_text(len(tokenizer)).config
    unique = {name: value for name, value in words.items() if name != "encoder.embed_tokens.weight"}  # shared.weight
    write_safetensors(folder / "text_encoder" / "model.safetensors", unique)
    write_json(folder / "text_encoder" / "config.json", {**text.to_diff_dict(), "architectures": ["T5EncoderModel"]})
    tokenizer.save_pretrained(folder / "tokenizer")
    _export_unet(folder, state, config)
    levels = {"trained_betas": betas_of(BASE_LEVELS)}
    write_json(folder / "scheduler" / "scheduler_config.json", {**SCHEDULER, **levels})


def _export_unet(folder: Path, state: checkpoint.State, config: dict[str, Any]) -> None:
    unet = make_unet(config)
    unet.load_state_dict(checkpoint.part(state, "ema.unet."))
    save_unet(unet, folder / "unet")


def _export_palette(folder: Path, state: checkpoint.State, words: checkpoint.State, tokenizer: Any) -> None:
    _export_worded(folder, state, recipe.PALETTE, words, tokenizer)
    write_json(folder / "model_index.json", _parts(_index("PalettePipeline", *WORDS)))
    write_json(folder / "pydiff.json", {**SETTINGS["palette"], **VARIANCE})


def _export_instruct(folder: Path, state: checkpoint.State, tokenizer: Any) -> None:
    _export_worded(folder, state, recipe.INSTRUCT, checkpoint.part(state, "ema.text."), tokenizer)
    write_json(folder / "model_index.json", _parts(_index("InstructPix2PixPipeline", *WORDS)))
    words = sorted(known_words() | _words(one for line in lines(1000) for one in instructions_of(line)))
    write_json(folder / "pydiff.json", {**SETTINGS["instruct"], **VARIANCE, "words": words})


def _parts(index: dict[str, Any]) -> dict[str, Any]:
    """Of an index those parts that there are."""
    return {name: value for name, value in index.items() if value != NONE and name != "requires_safety_checker"}


def _export_super(folder: Path, state: checkpoint.State, config: dict[str, Any], settings: dict[str, Any]) -> None:
    _export_unet(folder, state, config)
    write_json(folder / "scheduler" / "scheduler_config.json", {**SCHEDULER, "beta_schedule": recipe.BETA_SCHEDULE})
    write_json(folder / "image_noising_scheduler" / "scheduler_config.json", NOISING)
    index = _index("IFSuperResolutionPipeline", NONE, NONE)
    write_json(folder / "model_index.json", {**index, "image_noising_scheduler": ["diffusers", "DDPMScheduler"]})
    write_json(folder / "pydiff.json", {**settings, **VARIANCE})


def _index(pipeline: str, text_encoder: list[Any], tokenizer: list[Any]) -> dict[str, Any]:
    return {
        "_class_name": pipeline,
        "_diffusers_version": DIFFUSERS,
        "feature_extractor": NONE,
        "requires_safety_checker": False,
        "safety_checker": NONE,
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "watermarker": NONE,
    }


def known_words(captions: int = 20_000) -> set[str]:
    """Every word of the world's captions."""
    rng = np.random.default_rng(0)
    return _words(caption(sample_scene(rng, unseen=bool(index % 2)), rng) for index in range(captions))


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[^\W_]+", text)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pydiff.embedded.export", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("out/training"), help="where the training states are")
    parser.add_argument("--home", type=Path, default=HOME, help="where the folders go")
    parser.add_argument("--unpack", action="store_true", help="the other way: states from weights, to go on training")
    arguments = parser.parse_args()
    if arguments.unpack:
        unpack(arguments.home, arguments.work)
    else:
        export(arguments.work, arguments.home)
        if arguments.home == HOME:
            write_shipped()


if __name__ == "__main__":
    main()
