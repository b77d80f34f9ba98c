"""The folders of unCLIP's own networks: the prior and the projection of the decoder's text."""

from __future__ import annotations

import os

import torch

from pydiff.models.prior import Prior, PriorConfig
from pydiff.models.unclip import TextProjection, TextProjectionConfig
from pydiff.weights.network import load_network


def load_prior(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> Prior:
    """Open a prior's folder, as `load_network` does."""
    return load_network(folder, lambda config: Prior(PriorConfig.from_dict(config)), dtype, variant=variant)


def load_text_projection(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> TextProjection:
    """Open the folder of a text projection (text_proj in a pipeline's), as `load_network` does."""
    return load_network(
        folder, lambda config: TextProjection(TextProjectionConfig.from_dict(config)), dtype, variant=variant
    )
