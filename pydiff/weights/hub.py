"""Repositories of the Hugging Face hub: from their local cache, or fetched where the network allows.

huggingface_hub does the work and reads its own environment variables (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN,
HF_ENDPOINT). Only JSON, tokenizer files and safetensors of the components that a pipeline runs are asked for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeGuard

from pydiff.weights.files import read_json

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NOT_RUN = ("safety_checker", "watermarker")
_TEXTS = ("*.json", "*.txt", "*.model")


def is_hub_id(model: str | os.PathLike[str]) -> TypeGuard[str]:
    """Whether model is a string "owner/name" and no path that exists."""
    return isinstance(model, str) and _ID.fullmatch(model) is not None and not os.path.exists(model)


def hub_folder(model: str, variant: str | None = None) -> Path:
    """The folder of a hub repository's files, fetched where it is not complete in the cache.

    Raises ValueError that says what is missing and where it was looked for.
    """
    from huggingface_hub import constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        index = read_json(hf_hub_download(model, "model_index.json"))
        parts = [name for name, entry in index.items() if isinstance(entry, list) and name not in _NOT_RUN]
        wanted = ["model_index.json", "pydiff.json", *(f"{part}/{file}" for part in parts for file in _files(variant))]
        return Path(snapshot_download(model, allow_patterns=wanted, ignore_patterns=_others(variant)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ValueError(
            f"{model} is neither a folder here nor whole in the cache {constants.HF_HUB_CACHE}, and the hub "
            f"({constants.ENDPOINT}) cannot be reached; download it where there is a network, or give a folder"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        said = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{model} is no folder here, and the hub has no such pipeline for you: {said}; give a folder, or the id "
            "of a repository with model_index.json (HF_TOKEN opens gated ones)"
        ) from error


def _files(variant: str | None) -> list[str]:
    if variant is None:
        return [*_TEXTS, "*.safetensors"]
    return [*_TEXTS, f"*.{variant}.safetensors", f"*.{variant}-*.safetensors"]


def _others(variant: str | None) -> list[str] | None:
    """Files of variants that were not asked for."""
    return None if variant else [f"*.{name}{end}" for name in ("fp16", "bf16", "non_ema") for end in (".*", "-*")]
