"""A network and its folder: config.json and safetensors, as diffusers writes and opens them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from pydiff.models.unet import UNet, UNetConfig
from pydiff.models.unet2d import UNet2D, UNet2DConfig
from pydiff.weights.files import read_config, write_json
from pydiff.weights.safetensors import TensorInfo, read_header, read_safetensors, write_safetensors
from pydiff.weights.waiting import when_read

_FLOATS = ("F64", "F32", "F16", "BF16")
_ATTENTION_KEYS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # then -> now
_OLD_ATTENTION = re.compile(rf"((?:.*\.)?attentions\.\d+)\.({'|'.join(_ATTENTION_KEYS)})\.(weight|bias)")
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
    are read. Within `weights_last` the network is on the meta device until the block ends.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one that holds config.json and a network's safetensors")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; expected a floating-point type")
    with torch.device("meta"):
        network = read_config(folder, build)
    header = read_header(folder, variant)
    stored = _stored_names(folder, header, rename)
    check_tensors(folder, {name: header[stored[name]] for name in stored}, network)

    def read() -> None:
        state = read_safetensors(folder, variant, dtype)
        network.load_state_dict({name: state.pop(stored[name]) for name in stored}, assign=True)

    when_read(read)
    return network.eval().requires_grad_(False)


def _stored_names(folder: Path, header: Iterable[str], rename: Rename) -> dict[str, str]:
    """The module's names of the tensors in files -> the stored ones."""
    stored: dict[str, str] = {}
    for old in header:
        name = rename(old)
        if name is not None and stored.setdefault(name, old) != old:
            raise ValueError(f"tensor {name!r} of {folder} is stored twice, as {stored[name]} and as {old}; remove one")
    return stored


def load_unet(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> UNet:
    """Open a U-Net's folder, as `load_network` does."""
    return load_network(folder, lambda config: UNet(UNetConfig.from_dict(config)), dtype, variant=variant)


def load_unet2d(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> UNet2D:
    """Open the folder of a U-Net of pixels, as `load_network` does; old names of attention are read too."""
    return load_network(
        folder,
        lambda config: UNet2D(UNet2DConfig.from_dict(config)),
        dtype,
        variant=variant,
        rename=current_attention_key,
    )


def save_unet(unet: UNet | UNet2D, folder: str | os.PathLike[str]) -> None:
    """Write config.json and diffusion_pytorch_model.safetensors into folder; diffusers opens it too."""
    folder = Path(folder)
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", unet.state_dict())
    write_json(folder / "config.json", unet.config.to_dict())


def current_attention_key(name: str) -> str:
    """The present name of a tensor in pixel attention: `attentions.N.query.weight` -> `attentions.N.to_q.weight`.

    Published U-Nets of pixels and autoencoders keep the names that diffusers used at first. Other names stay.
    """
    old = _OLD_ATTENTION.fullmatch(name)
    return f"{old[1]}.{_ATTENTION_KEYS[old[2]]}.{old[3]}" if old else name


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
