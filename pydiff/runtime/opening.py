"""Exported folders opened as cascades, on ONNX Runtime and without torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
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


def open_exported(folder: str | os.PathLike[str], provider: str | None = None) -> Cascade:
    """A cascade from a folder that `pydiff export` wrote.

    provider: what computes: "cpu" (None too), "cuda", "tensorrt", or ONNX Runtime's own name of another. Raises
    ValueError, by name and before a graph is opened, for a provider that is not there and for everything in the folder
    that is not as its manifest says.
    """
    root = Path(os.path.realpath(folder))
    if not is_exported(root):
        raise ValueError(f"{folder} has no {MANIFEST}; expected a folder that `pydiff export` wrote")
    chosen, manifest = provider_of(provider), read_manifest(root)
    exported = Exported(root, manifest, chosen)
    verify(root, manifest)
    return cascade_of(exported, manifest.stages, manifest.model)


def cascade_of(exported: Exported, stages: Sequence[str], name: str) -> Cascade:
    """The cascade of an exported folder's stages, by the name that settings call it."""
    indexes = [read_index(exported.folder / stage) for stage in stages]
    cascade = open_indexes(indexes, OnnxNetworks(exported), name)
    size = exported.manifest.default_size
    return cascade if size not in cascade.sizes else dataclasses.replace(cascade, default_size=size)


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
