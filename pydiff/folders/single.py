"""A single-file checkpoint of Stable Diffusion, opened as its folder would be. Tokenizers are not in such files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydiff.folders.index import Index
from pydiff.folders.networks import Networks
from pydiff.models.clip_config import text_fields
from pydiff.text.clip import STABLE_DIFFUSION, STABLE_DIFFUSION_XL, ClipEncoder
from pydiff.text.encoders import TextEncoder
from pydiff.text.tokenizer_files import fitted, read_with_transformers
from pydiff.text.tokens import PromptTokenizer

if TYPE_CHECKING:
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

    def component(self, name: str, *classes: str) -> Path:
        """The folder that a component would have."""
        return self.folder / name

    def words(self, networks: Networks) -> TextEncoder:
        tokenizers, runners = [], []
        reading = STABLE_DIFFUSION_XL if "text_encoder_2" in self.opened.text_configs else STABLE_DIFFUSION
        for component, config in self.opened.text_configs.items():
            projected = self.opened.model_index[component][1] == "CLIPTextModelWithProjection"
            runners.append(networks.clip(self.component(component), reading, projected))
            tokenizers.append(self._tokenizer(component, config))
        return ClipEncoder(tokenizers, runners, reading, bool(self.values.get("force_zeros_for_empty_prompt")))

    def scheduler(self, name: str = "scheduler") -> Mapping[str, Any]:
        low_res = self.opened.low_res_scheduler_config
        return low_res if name == "low_res_scheduler" and low_res is not None else self.opened.scheduler_config

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


def read_single(path: Path, prediction_type: str | None, tokenizer: Path | None) -> SingleFile:
    """What a file says of itself. ValueError for what `inspect_single_file` refuses."""
    from pydiff.weights.original import inspect_single_file

    original = inspect_single_file(path, prediction_type)
    return SingleFile(path, original.pipeline, original.model_index, {}, original, tokenizer)
