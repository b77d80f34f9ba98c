"""Exported folders opened as cascades, on ONNX Runtime and without torch."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from pydiff.cascade import Cascade
from pydiff.folders import Networks, open_indexes, read_index
from pydiff.models.autoencoder_config import AutoencoderConfig
from pydiff.models.unet2d_config import UNet2DConfig
from pydiff.models.unet_config import UNetConfig
from pydiff.runtime.codecs import OnnxAutoencoder
from pydiff.runtime.denoisers import OnnxUNet
from pydiff.runtime.manifest import MANIFEST, is_exported, read_manifest
from pydiff.runtime.sessions import Exported, provider_of
from pydiff.runtime.texts import OnnxText
from pydiff.runtime.verify import verify
from pydiff.text.clip import Reading
from pydiff.weights.files import read_config

SHIPPED = Path(__file__).parents[1] / "embedded" / "exported"  # a folder for each model


def open_exported(folder: str | os.PathLike[str], provider: str | None = None, name: str | None = None) -> Cascade:
    """A cascade from a folder that `pydiff export` wrote.

    provider: what computes: "cpu" (None too), "cuda", "tensorrt", or ONNX Runtime's own name of another. name: what
    settings call the model, by default what the manifest does. Raises ValueError, by name and before a graph is opened,
    for a provider that is not there and for everything in the folder that is not as its manifest says.
    """
    root = Path(os.path.realpath(folder))
    if not is_exported(root):
        raise ValueError(f"{folder} has no {MANIFEST}; expected a folder that `pydiff export` wrote")
    chosen, manifest = provider_of(provider), read_manifest(root)
    verify(root, manifest)
    networks = OnnxNetworks(Exported(root, manifest, chosen))
    indexes = [read_index(root / stage) for stage in manifest.stages]
    cascade = open_indexes(indexes, networks, name or manifest.model)
    size = manifest.default_size
    return cascade if size not in cascade.sizes else dataclasses.replace(cascade, default_size=size)


def shipped(name: str) -> Path | None:
    """The exported folder of a model that pydiff carries, None where it is not carried so."""
    folder = SHIPPED / name
    return folder if is_exported(folder) else None


class OnnxNetworks(Networks):
    """The networks of an exported folder: of a component's folder the configuration, beside it the graph."""

    whole_tokenizers = True

    def __init__(self, exported: Exported) -> None:
        self.exported = exported

    def unet(self, folder: Path) -> OnnxUNet:
        config, session = read_config(folder, UNetConfig.from_dict), self.exported.session
        return OnnxUNet(config, self.exported, session(folder), self.exported.found(folder, "_edit"))

    def unet2d(self, folder: Path) -> OnnxUNet:
        return OnnxUNet(read_config(folder, UNet2DConfig.from_dict), self.exported, self.exported.session(folder))

    def autoencoder(self, folder: Path) -> OnnxAutoencoder:
        config, session = read_config(folder, AutoencoderConfig.from_dict), self.exported.session
        return OnnxAutoencoder(config, session(folder, "_encoder"), session(folder, "_decoder"))

    def t5(self, folder: Path) -> OnnxText:
        return OnnxText(self.exported.session(folder))

    def clip(self, folder: Path, reading: Reading, projected: bool) -> OnnxText:
        return OnnxText(self.exported.session(folder))
