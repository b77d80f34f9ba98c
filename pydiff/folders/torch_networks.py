"""Networks that torch runs, from safetensors in folders or in one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from pydiff.folders.index import Index
from pydiff.folders.networks import Networks
from pydiff.folders.single import SingleFile
from pydiff.models.autoencoder import Autoencoder
from pydiff.models.autoencoder_config import AutoencoderConfig
from pydiff.models.clip import stored_key, text_network
from pydiff.models.prior import Prior
from pydiff.models.unclip import TextProjection
from pydiff.models.unet import UNet
from pydiff.models.unet2d import UNet2D
from pydiff.models.unet_config import UNetConfig
from pydiff.text.clip import Reading
from pydiff.text.torch_networks import ClipRunner, T5Runner, TorchTextNetworks
from pydiff.vision import ExampleEncoder, ImageEncoder, read_preprocessing
from pydiff.weights import load_autoencoder, load_unet, load_unet2d
from pydiff.weights.clip import load_clip_vision, load_example_network
from pydiff.weights.files import read_config
from pydiff.weights.network import Rename, check_tensors
from pydiff.weights.original import Original
from pydiff.weights.unclip import load_prior, load_text_projection
from pydiff.weights.waiting import when_read

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
Network = TypeVar("Network", bound=nn.Module)
Moved = TypeVar("Moved", T5Runner, ClipRunner, ImageEncoder, ExampleEncoder)


@dataclass(frozen=True)
class TorchNetworks(Networks):
    """In which type, where, and from which files networks are opened; methods raise as `load_network` does."""

    dtype: torch.dtype
    device: torch.device
    variant: str | None = None

    def of(self, index: Index) -> TorchNetworks:
        if isinstance(index, SingleFile):
            return FileNetworks(self.dtype, self.device, self.variant, original=index.opened)
        return self

    def unet(self, folder: Path) -> UNet:
        return self._placed(load_unet(folder, self.dtype, variant=self.variant))

    def unet2d(self, folder: Path) -> UNet2D:
        return self._placed(load_unet2d(folder, self.dtype, variant=self.variant))

    def autoencoder(self, folder: Path) -> Autoencoder:
        """In float32 where float16 would overflow."""
        dtype = self._codec_dtype(read_config(folder, AutoencoderConfig.from_dict))
        return self._placed(load_autoencoder(folder, dtype, variant=self.variant))

    def t5(self, folder: Path) -> T5Runner:
        return self._moved(self._texts.t5(folder))

    def clip(self, folder: Path, reading: Reading, projected: bool) -> ClipRunner:
        return self._moved(self._texts.clip(folder, reading, projected))

    def vision(self, folder: Path, extractor: Path) -> ImageEncoder:
        preprocessing = read_preprocessing(folder, extractor)
        return self._moved(ImageEncoder(load_clip_vision(folder, self.dtype, variant=self.variant), preprocessing))

    def example(self, folder: Path, extractor: Path) -> ExampleEncoder:
        preprocessing = read_preprocessing(folder, extractor)
        return self._moved(
            ExampleEncoder(load_example_network(folder, self.dtype, variant=self.variant), preprocessing)
        )

    def prior(self, folder: Path) -> Prior:
        return self._placed(load_prior(folder, self.dtype, variant=self.variant))

    def text_projection(self, folder: Path) -> TextProjection:
        return self._placed(load_text_projection(folder, self.dtype, variant=self.variant))

    @property
    def _texts(self) -> TorchTextNetworks:
        return TorchTextNetworks(self.dtype, self.variant)

    def _codec_dtype(self, config: AutoencoderConfig) -> torch.dtype:
        return torch.float32 if self.dtype == torch.float16 and config.force_upcast else self.dtype

    def _placed(self, network: Network) -> Network:
        """On the device; on the CPU in the layout that convolutions are fastest in. Once its weights are read."""
        if self.device.type == "cpu":
            when_read(lambda: network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        else:
            when_read(lambda: network.to(self.device))
        return network

    def _moved(self, encoder: Moved) -> Moved:
        when_read(lambda: encoder.to(self.device))
        return encoder


@dataclass(frozen=True)
class FileNetworks(TorchNetworks):
    """Those of a single file: components are told apart by the names that their folders would have."""

    original: Original = field(kw_only=True)

    def unet(self, folder: Path) -> UNet:
        config = UNetConfig.from_dict(self.original.unet_config)
        return self._placed(self._filled(lambda: UNet(config), folder.name, self.dtype))

    def autoencoder(self, folder: Path) -> Autoencoder:
        config = AutoencoderConfig.from_dict(self.original.autoencoder_config)
        return self._placed(self._filled(lambda: Autoencoder(config), folder.name, self._codec_dtype(config)))

    def clip(self, folder: Path, reading: Reading, projected: bool) -> ClipRunner:
        config = self.original.text_configs[folder.name]
        network = self._filled(lambda: text_network(config, projected), folder.name, self.dtype, _text_rename)
        return self._moved(ClipRunner(network, reading))

    def _filled(
        self,
        make: Callable[[], Network],
        component: str,
        dtype: torch.dtype,
        renaming: Callable[[nn.Module], Rename] = lambda _: str,
    ) -> Network:
        """A network with the file's weights. renaming: of a network, from a folder's names to its own."""
        with torch.device("meta"):
            network = make()
        rename = renaming(network)
        header = {rename(name) or name: info for name, info in self.original.tensors(component).items()}
        check_tensors(self.original.path, header, network)

        def read() -> None:
            state = self.original.read(component, dtype)
            network.load_state_dict({rename(name) or name: state.pop(name) for name in list(state)}, assign=True)

        when_read(read)
        return network.eval().requires_grad_(False)


def _text_rename(network: nn.Module) -> Rename:
    return partial(stored_key, part="text_model", network=network)


def torch_networks(
    dtype: torch.dtype | None = None, device: str | torch.device = "cpu", variant: str | None = None
) -> TorchNetworks:
    """dtype: None for float32. Raises ValueError for a type that networks do not run in, and a device that does not
    work here."""
    dtype = torch.float32 if dtype is None else dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}; expected one of {', '.join(map(str, DTYPES))}")
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device is {device!r}, which does not work here: {str(error).splitlines()[0]}") from error
    if where.type == "meta":
        raise ValueError("device is 'meta', which holds no weights; expected one that computes, such as 'cpu'")
    return TorchNetworks(dtype, where, variant)
