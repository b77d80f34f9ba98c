"""A network and its folder: config.json and safetensors, as diffusers writes and opens them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from pydiff.models.unet import UNet, UNetConfig
from pydiff.weights.files import inside, read_json, write_json
from pydiff.weights.safetensors import TensorInfo, read_header, read_safetensors, write_safetensors

_FLOATS = ("F64", "F32", "F16", "BF16")
Network = TypeVar("Network", bound=torch.nn.Module)
Rename = Callable[[str], str | None]  # a stored tensor's name -> the module's, None for one that is passed over


def load_network(
    folder: str | os.PathLike[str],
    build: Callable[[Mapping[str, Any]], Network],
    dtype: torch.dtype = torch.float32,
    *,
    variant: str | None = None,
    rename: Rename = str,
) -> Network:
    """Open the folder of a network that `build` makes of its config.json; in eval mode, on the CPU, weights in dtype.

    Raises ValueError for a missing, corrupt or unsafe file (see `pydiff.weights.read_header`), a config that fits no
    network, missing or unexpected tensors, wrong shapes, and NaN or infinite weights; all but the last before weights
    are read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one that holds config.json and a network's safetensors")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; expected a floating-point type")
    config = read_json(inside(folder, "config.json"))
    with torch.device("meta"):
        network = build(config)
    header = read_header(folder, variant)
    names = {name: rename(name) for name in header}
    check_tensors(folder, {to: header[name] for name, to in names.items() if to}, network)
    state = read_safetensors(folder, variant, dtype)
    network.load_state_dict({to: state.pop(name) for name, to in names.items() if to}, assign=True)
    return network.eval()


def load_unet(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> UNet:
    """Open a U-Net's folder, as `load_network` does."""
    return load_network(folder, lambda config: UNet(UNetConfig.from_dict(config)), dtype, variant=variant)


def save_unet(unet: UNet, folder: str | os.PathLike[str]) -> None:
    """Write config.json and diffusion_pytorch_model.safetensors into folder; diffusers opens it too."""
    folder = Path(folder)
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", unet.state_dict())
    write_json(folder / "config.json", unet.config.to_dict())


def check_tensors(source: Path, header: Mapping[str, TensorInfo], module: torch.nn.Module) -> None:
    """Raise ValueError, by name, when the tensors in files are not those of the module."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for said, names in (("lack", expected.keys() - header.keys()), ("also hold", header.keys() - expected.keys())):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(
                f"the weights in {source} {said} {len(names)} tensors: {shown}; its config.json is of another network"
            )
    for name, shape in expected.items():
        if header[name].shape != shape or header[name].dtype not in _FLOATS:
            raise ValueError(
                f"tensor {name!r} of {source} is {header[name].dtype} {header[name].shape}; expected floats {shape}"
            )
