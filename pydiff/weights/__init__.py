"""Files on disk: folders in the diffusers layout, safetensors and JSON, read with suspicion and written whole."""

from pydiff.weights.autoencoder import load_autoencoder
from pydiff.weights.files import read_json, write_json
from pydiff.weights.network import load_network, load_unet, load_unet2d, save_unet
from pydiff.weights.original import inspect_single_file, is_single_file
from pydiff.weights.safetensors import TensorInfo, read_header, read_safetensors, write_safetensors

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
