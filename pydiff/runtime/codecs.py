"""The autoencoder of an exported folder."""

from __future__ import annotations

import numpy as np

from pydiff.arrays import Array, on_host
from pydiff.models.autoencoder_config import AutoencoderConfig
from pydiff.models.coding import Coding
from pydiff.runtime.sessions import Session


class OnnxAutoencoder(Coding):
    """Two graphs: pictures to moments of latents, and latents to pictures."""

    def __init__(self, config: AutoencoderConfig, encoder: Session, decoder: Session) -> None:
        self.config, self.encoder, self.decoder = config, encoder, decoder

    @property
    def like(self) -> Array:
        return np.empty(0, np.float32)  # type: ignore[return-value]

    def _moments(self, image: Array) -> Array:
        return self.encoder({"sample": on_host(image)}, ["moments"])[0]  # type: ignore[return-value]

    def _picture(self, latents: Array) -> Array:
        return self.decoder({"latent_sample": on_host(latents)}, ["sample"])[0]  # type: ignore[return-value]
