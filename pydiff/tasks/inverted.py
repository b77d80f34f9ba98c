"""A picture as the noise that leads to it: what an inversion finds, and its file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pydiff._optional import TORCH, optional
from pydiff.arrays import Array, hosted, is_array, is_floating
from pydiff.weights.files import parse_json, write_whole
from pydiff.weights.safetensors import read_safetensors

NEGATIVE_PROMPT, NULL_TEXT, DDIM = METHODS = ("negative_prompt", "null_text", "ddim")
WORDS = ("prompt", "method", "settings", "model", "psnr")
FILE = "the file of an inversion"
CHUNK = "pydiff"  # the entry of a file's metadata that holds all but tensors


@dataclass(frozen=True, eq=False)
class Inverted:
    """A picture inverted by `Pipeline.invert`.

    latents (1, C, h, w): x of the first stage at the noisiest level. null (N, 1, T, D): of null_text, the null states
    of each of the N levels; None for the other methods. prompt: what the picture was said to show. settings: what the
    first stage is run with (num_inference_steps or timesteps, guidance_scale and how words are read), beside ddim, eta
    0 and no thresholding. model: the cascade's name. psnr: of the reconstruction, in dB, where it was measured.
    """

    latents: Array
    prompt: str
    method: str
    settings: Mapping[str, Any]
    model: str
    null: Array | None = None
    psnr: float | None = None

    def __post_init__(self) -> None:
        _check_words(self)
        _check_tensor("latents", self.latents, "(1, C, h, w)", 0)
        if (self.null is None) != (self.method != NULL_TEXT):
            came = "no null states" if self.null is None else "null states"
            raise ValueError(f"{came} are given for method {self.method!r}; null_text has them, and only that")
        if self.null is not None:
            _check_tensor("null", self.null, "(N, 1, T, D)", 1)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file; it appears whole or not at all. Raises ValueError where there is no torch."""
        path, torch = Path(path), optional("torch", TORCH, FILE)
        given = {"latents": self.latents} if self.null is None else {"latents": self.latents, "null": self.null}
        tensors = {name: torch.as_tensor(hosted(value, value)).detach().contiguous() for name, value in given.items()}
        others = {name: getattr(self, name) for name in WORDS}
        metadata = {"format": "pt", CHUNK: json.dumps(others, allow_nan=False)}
        save_file = optional("safetensors.torch", TORCH, FILE).save_file
        write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
        return path

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Inverted:
        """Read what `save` wrote, in torch tensors. Raises ValueError for a file that is missing, corrupt, or of
        something else, and where there is no torch."""
        optional("torch", TORCH, FILE)
        path = Path(path)
        tensors = read_safetensors(path)
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(CHUNK)
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
        if text is None or not {"latents"} <= tensors.keys() <= {"latents", "null"}:
            raise ValueError(f"{path} holds {', '.join(tensors) or 'nothing'}, and no inversion that save() wrote")
        others = parse_json(text.encode(), f"the {CHUNK!r} text in {path}")
        if sorted(others) != sorted(WORDS):
            raise ValueError(f"the {CHUNK!r} text in {path} has {', '.join(others)}; expected {', '.join(WORDS)}")
        try:
            return Inverted(tensors["latents"], null=tensors.get("null"), **others)
        except ValueError as error:
            raise ValueError(f"{path} holds no sound inversion: {error}") from error


def _check_words(given: Inverted) -> None:
    if given.method not in METHODS:
        raise ValueError(f"method is {given.method!r}; expected one of {', '.join(METHODS)}")
    if not isinstance(given.prompt, str) or not isinstance(given.model, str):
        raise ValueError(f"prompt is {given.prompt!r} and model {given.model!r}; expected two strings")
    if not isinstance(given.settings, Mapping) or not all(isinstance(name, str) for name in given.settings):
        raise ValueError(f"settings are {given.settings!r}; expected options by their names")
    if given.psnr is not None and not (isinstance(given.psnr, float) and math.isfinite(given.psnr)):
        raise ValueError(f"psnr is {given.psnr!r}; expected a finite number, or None")


def _check_tensor(name: str, given: Any, shape: str, alone: int) -> None:
    """Raise ValueError unless these are floats of four dimensions, of which `alone` is 1."""
    floats = is_array(given) and is_floating(given) and given.ndim == 4 and 0 not in given.shape
    if floats and given.shape[alone] == 1:
        return
    came = f"{given.dtype} {tuple(given.shape)}" if is_array(given) else type(given).__name__
    raise ValueError(f"{name} is {came}; expected floats {shape}")
