"""An autoencoder's folder, as diffusers writes it."""

from __future__ import annotations

import os

import torch

from pydiff.models.autoencoder import Autoencoder, AutoencoderConfig
from pydiff.weights.network import current_attention_key, load_network


def load_autoencoder(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> Autoencoder:
    """Open an autoencoder's folder, as `load_network` does; attention may have the names that diffusers used of old."""
    return load_network(
        folder,
        lambda config: Autoencoder(AutoencoderConfig.from_dict(config)),
        dtype,
        variant=variant,
        rename=current_attention_key,
    )
