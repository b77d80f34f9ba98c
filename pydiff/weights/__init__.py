"""Files on disk: folders in the diffusers layout, safetensors and JSON, read with suspicion and written whole."""

from pydiff.weights.files import read_json, write_json
from pydiff.weights.network import load_network, load_unet, save_unet
from pydiff.weights.safetensors import TensorInfo, read_header, read_safetensors, write_safetensors

__all__ = [
    "TensorInfo",
    "load_network",
    "load_unet",
    "read_header",
    "read_json",
    "read_safetensors",
    "save_unet",
    "write_json",
    "write_safetensors",
]
