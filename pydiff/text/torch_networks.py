"""Text networks run by torch: T5 and CLIP, from safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pydiff.models.clip import inner
from pydiff.models.t5 import T5Encoder
from pydiff.models.t5_config import T5Config
from pydiff.text.clip import Reading
from pydiff.text.encoders import TextEncoder
from pydiff.text.loading import open_text_encoder
from pydiff.text.prompts import PromptEncoder, open_prompt_encoder
from pydiff.text.runner import Ran
from pydiff.weights.clip import load_clip_text
from pydiff.weights.network import load_network
from pydiff.weights.safetensors import read_header
from pydiff.weights.waiting import when_read

SHARED = "shared.weight"
TIED = "encoder.embed_tokens.weight"  # the same tensor


class T5Runner:
    """A T5 encoder as a `pydiff.text.runner.Runner`."""

    pooled_width, most_skip = None, 0

    def __init__(self, network: T5Encoder) -> None:
        self.network = network

    @property
    def width(self) -> int:
        return self.network.config.d_model

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        self.network.cast(device, dtype)

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.bool_], skip: int = 0) -> Ran:
        device = self.network.shared.weight.device
        return Ran(self.network(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)))


class ClipRunner:
    """A text network of `pydiff.models.clip` as a `pydiff.text.runner.Runner`."""

    def __init__(self, network: nn.Module, reading: Reading) -> None:
        self.network, self.reading = network, reading

    @property
    def config(self) -> Any:
        """That of transformers."""
        return self.network.config

    @property
    def width(self) -> int:
        return int(self.config.hidden_size)

    @property
    def pooled_width(self) -> int | None:
        return int(self.config.projection_dim) if hasattr(self.network, "text_projection") else None

    @property
    def most_skip(self) -> int:
        return int(self.config.num_hidden_layers) - self.reading.skip

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        self.network.to(device=device, dtype=dtype)

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.bool_], skip: int = 0) -> Ran:
        device = next(self.network.parameters()).device
        masked = getattr(self.config, "use_attention_mask", False)
        attended = torch.from_numpy(mask).long().to(device) if masked else None
        out = self.network(torch.from_numpy(ids).to(device), attention_mask=attended, output_hidden_states=True)
        states = out.hidden_states[-(self.reading.skip + skip + 1)]
        if self.reading.normed:
            states = inner(self.network).final_layer_norm(states)
        return Ran(states, getattr(out, "text_embeds", None))


class TorchTextNetworks(NamedTuple):
    """Text networks in a type, from the files of a variant; on the CPU."""

    dtype: torch.dtype = torch.float32
    variant: str | None = None

    @property
    def whole_tokenizers(self) -> bool:
        return False

    def t5(self, folder: Path) -> T5Runner:
        """Raises as `load_network` does."""
        tied = None if SHARED in read_header(folder, self.variant) else SHARED
        network = load_network(
            folder, _t5, self.dtype, variant=self.variant, rename=lambda name: tied if name == TIED else name
        )
        when_read(lambda: network.cast(dtype=self.dtype))
        return T5Runner(network)

    def clip(self, folder: Path, reading: Reading, projected: bool) -> ClipRunner:
        """Raises as `load_network` does."""
        return ClipRunner(load_clip_text(folder, projected, self.dtype, variant=self.variant), reading)


def _t5(config: Mapping[str, Any]) -> T5Encoder:
    return T5Encoder(T5Config.from_dict(config))


def load_text_encoder(
    folder: Path, words: Sequence[str] = (), dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> TextEncoder:
    """`pydiff.text.loading.open_text_encoder`, with torch."""
    return open_text_encoder(folder, TorchTextNetworks(dtype, variant), words)


def load_prompt_encoder(
    folder: Path, words: Sequence[str] = (), dtype: torch.dtype = torch.float32, *, variant: str | None = None
) -> PromptEncoder:
    """`pydiff.text.prompts.open_prompt_encoder`, with torch."""
    return open_prompt_encoder(folder, TorchTextNetworks(dtype, variant), words)
