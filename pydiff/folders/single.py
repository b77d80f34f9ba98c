"""A single-file checkpoint of Stable Diffusion, opened as its folder would be. Tokenizers are not in such files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydiff.folders.index import How, Index, Network, codec_dtype
from pydiff.models.autoencoder import Autoencoder, AutoencoderConfig
from pydiff.models.clip import stored_key, text_fields, text_network
from pydiff.models.unet import UNet, UNetConfig
from pydiff.text.clip import STABLE_DIFFUSION, STABLE_DIFFUSION_XL, ClipEncoder
from pydiff.text.encoders import TextEncoder
from pydiff.text.tokenizer_files import fitted, read_with_transformers
from pydiff.text.tokens import PromptTokenizer
from pydiff.weights import inspect_single_file
from pydiff.weights.network import Rename, check_tensors, when_read
from pydiff.weights.original import Original

OPEN_CLIP_PAD = 0  # "!", with which OpenCLIP's encoders were trained


@dataclass(frozen=True)
class SingleFile(Index):
    """The same questions that a folder answers, answered by one file and a folder with CLIP's tokenizer."""

    original: Original | None = None
    tokenizers: Path | None = None

    @property
    def opened(self) -> Original:
        assert self.original is not None
        return self.original

    def unet(self, how: How) -> UNet:
        with torch.device("meta"):
            unet = UNet(UNetConfig.from_dict(self.opened.unet_config))
        return how.place(self._filled(unet, "unet", how.dtype))

    def autoencoder(self, how: How) -> Autoencoder:
        config = AutoencoderConfig.from_dict(self.opened.autoencoder_config)
        with torch.device("meta"):
            codec = Autoencoder(config)
        return how.place(self._filled(codec, "vae", codec_dtype(config, how.dtype)))

    def words(self, how: How) -> TextEncoder:
        tokenizers, networks = [], []
        for component, config in self.opened.text_configs.items():
            projected = self.opened.model_index[component][1] == "CLIPTextModelWithProjection"
            with torch.device("meta"):
                network = text_network(config, projected)
            rename = partial(_network_key, network)
            networks.append(self._filled(network, component, how.dtype, rename))
            tokenizers.append(self._tokenizer(component, config))
        reading = STABLE_DIFFUSION_XL if "text_encoder_2" in self.opened.text_configs else STABLE_DIFFUSION
        zero = bool(self.values.get("force_zeros_for_empty_prompt"))
        encoder = ClipEncoder(tokenizers, networks, reading, zero)
        when_read(lambda: encoder.to(how.device))
        return encoder

    def scheduler(self, name: str = "scheduler") -> Mapping[str, Any]:
        low_res = self.opened.low_res_scheduler_config
        return low_res if name == "low_res_scheduler" and low_res is not None else self.opened.scheduler_config

    def _filled(self, network: Network, component: str, dtype: torch.dtype, rename: Rename = str) -> Network:
        """A network on the meta device with the file's weights."""
        header = {rename(name) or name: info for name, info in self.opened.tensors(component).items()}
        check_tensors(self.folder, header, network)

        def read() -> None:
            state = self.opened.read(component, dtype)
            network.load_state_dict({rename(name) or name: state.pop(name) for name in list(state)}, assign=True)

        when_read(read)
        return network.eval().requires_grad_(False)

    def _tokenizer(self, component: str, config: Mapping[str, Any]) -> PromptTokenizer:
        if self.tokenizers is None:
            raise ValueError(
                f"{self.folder} holds no tokenizer, as no single file does; give tokenizer=, a folder with CLIP's "
                "vocab.json and merges.txt or one of a pipeline that has it"
            )
        own = self.tokenizers / component.replace("text_encoder", "tokenizer")
        folder = next((place for place in (own, self.tokenizers / "tokenizer") if place.is_dir()), self.tokenizers)
        read = read_with_transformers(folder, "CLIPTokenizer", ("vocab.json", "merges.txt"))
        fields = text_fields(config)
        window = min(read.model_max_length, fields["max_position_embeddings"])
        made = fitted(folder, read.backend_tokenizer, window, read.pad_token_id, fields["vocab_size"])
        openclip = component == "text_encoder_2" or self.opened.family in ("sd2", "x4_upscaler")
        return dataclasses.replace(made, pad=OPEN_CLIP_PAD) if openclip else made


def _network_key(network: nn.Module, name: str) -> str | None:
    """The name, in a network that transformers built, of a folder's tensor."""
    return stored_key(name, "text_model", network)


def read_single(path: Path, prediction_type: str | None, tokenizer: Path | None) -> SingleFile:
    """What a file says of itself. ValueError for what `inspect_single_file` refuses."""
    original = inspect_single_file(path, prediction_type)
    return SingleFile(path, original.pipeline, original.model_index, {}, original, tokenizer)
