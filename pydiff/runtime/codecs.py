"""The autoencoder of an exported folder."""

from __future__ import annotations

from pydiff.arrays import Array
from pydiff.models.autoencoder_config import AutoencoderConfig
from pydiff.models.coding import Coding
from pydiff.runtime.sessions import Session


class OnnxAutoencoder(Coding):
    """Two graphs: pictures to moments of latents, and latents to pictures."""

    def __init__(self, config: AutoencoderConfig, encoder: Session, decoder: Session) -> None:
        self.config, self.encoder, self.decoder = config, encoder, decoder

    @property
    def like(self) -> Array:
        return self.decoder.place.empty((0,), "float32")

    def _moments(self, image: Array) -> Array:
        height, width = (side // self.factor for side in image.shape[2:])
        return self.encoder({"sample": image}, ["moments"], {"latent_height": height, "latent_width": width})[0]

    def _picture(self, latents: Array) -> Array:
        height, width = (side * self.factor for side in latents.shape[2:])
        made = {"picture_height": height, "picture_width": width}
        return self.decoder({"latent_sample": latents}, ["sample"], made)[0]
