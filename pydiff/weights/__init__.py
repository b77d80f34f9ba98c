"""Files on disk: folders in the diffusers layout, safetensors and JSON, read with suspicion and written whole.

Names of modules that import torch are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydiff.weights.files import is_single_file, read_json, write_json
from pydiff.weights.safetensors import TensorInfo, read_header, read_safetensors, write_safetensors

if TYPE_CHECKING:
    from pydiff.weights.autoencoder import load_autoencoder
    from pydiff.weights.network import load_network, load_unet, load_unet2d, save_unet
    from pydiff.weights.original import inspect_single_file

_HOMES = {
    "inspect_single_file": "original",
    "load_autoencoder": "autoencoder",
    "load_network": "network",
    "load_unet": "network",
    "load_unet2d": "network",
    "save_unet": "network",
}
__all__ = [
    "TensorInfo",
    "inspect_single_file",
    "is_single_file",
    "load_autoencoder",
    "load_network",
    "load_unet",
    "load_unet2d",
    "read_header",
    "read_json",
    "read_safetensors",
    "save_unet",
    "write_json",
    "write_safetensors",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
