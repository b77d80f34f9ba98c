"""The text encoder of a pipeline's folder, by what its model_index.json says it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydiff.text.clip import STABLE_DIFFUSION, STABLE_DIFFUSION_XL, UNCLIP, open_clip_encoder
from pydiff.text.encoders import TextEncoder
from pydiff.text.prompts import open_prompt_encoder
from pydiff.text.runner import TextNetworks
from pydiff.weights.files import inside, read_json

_CLIP, _PROJECTED, _T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"


def open_text_encoder(folder: Path, networks: TextNetworks, words: Sequence[str] = ()) -> TextEncoder:
    """Open the text encoder of a pipeline in the diffusers layout: T5 (DeepFloyd IF), CLIP (Stable Diffusion 1 and
    2), CLIP with projection (unCLIP), both or the latter alone (Stable Diffusion XL, its refiner). words: all that a T5
    ever read, where that is known.

    Raises ValueError for encoders in other combinations, and for what opening the files refuses.
    """
    index = read_json(inside(folder, "model_index.json"))
    names = sorted(name for name in index if name.startswith("text_encoder") and _class(index, name))
    kinds = tuple(_class(index, name) for name in names)
    if kinds == (_T5,) and names == ["text_encoder"]:
        return open_prompt_encoder(folder, networks, words)
    pairs = [(inside(folder, name.replace("text_encoder", "tokenizer")), inside(folder, name)) for name in names]
    zero = bool(index.get("force_zeros_for_empty_prompt"))
    if names[-1:] == ["text_encoder_2"] and kinds in ((_CLIP, _PROJECTED), (_PROJECTED,)):
        return open_clip_encoder(pairs, STABLE_DIFFUSION_XL, networks, zero)
    if names == ["text_encoder"] and kinds in ((_CLIP,), (_PROJECTED,)):
        reading = STABLE_DIFFUSION if kinds == (_CLIP,) else UNCLIP
        return open_clip_encoder(pairs, reading, networks)
    said = ", ".join(f"{name} a {kind}" for name, kind in zip(names, kinds, strict=True)) or "no text encoder"
    raise ValueError(
        f"{folder / 'model_index.json'} has {said}; expected a T5, a CLIP, or those of Stable Diffusion XL"
    )


def _class(index: dict[str, Any], name: str) -> Any:
    """The class that an entry such as ["transformers", "CLIPTextModel"] names; None where the part is absent."""
    entry = index[name]
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None
