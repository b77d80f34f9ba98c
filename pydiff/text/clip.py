"""CLIP's text networks as Stable Diffusion, Stable Diffusion XL and unCLIP read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from pydiff.arrays import namespace, placed
from pydiff.models.clip_config import text_fields
from pydiff.models.rules import Rule, optional, whole
from pydiff.text.encoders import CHUNKS, WEIGHTING, Encoded, TextEncoder, TextOptions
from pydiff.text.runner import Runner, TextNetworks
from pydiff.text.tokenizer_files import fitted, read_whole, read_with_transformers, written_window
from pydiff.text.tokens import PromptTokenizer, Rows
from pydiff.text.weighting import weigh
from pydiff.weights.files import read_config


class Reading(NamedTuple):
    """What a family of pipelines takes from its CLIP networks. skip: layers it leaves out at the end; normed: whether
    the final layer norm follows; pooled, masked: whether it is given those; fixed: whether it reads one window only."""

    skip: int
    normed: bool
    pooled: bool = False
    masked: bool = False
    fixed: bool = False


STABLE_DIFFUSION = Reading(skip=0, normed=True)
STABLE_DIFFUSION_XL = Reading(skip=1, normed=False, pooled=True)
UNCLIP = Reading(skip=0, normed=True, pooled=True, masked=True, fixed=True)


class ClipEncoder(TextEncoder):
    """One or more CLIP text networks, whose states are joined along D; pooled is the projection of the last one's.

    As diffusers' `encode_prompt` of StableDiffusionPipeline, StableDiffusionXLPipeline and UnCLIPPipeline.
    """

    def __init__(
        self,
        tokenizers: Sequence[PromptTokenizer],
        runners: Sequence[Runner],
        reading: Reading,
        absent_is_zero: bool = False,
    ) -> None:
        self.tokenizers, self.runners = tuple(tokenizers), tuple(runners)
        self.reading, self.absent_is_zero = reading, absent_is_zero

    @property
    def pooled_width(self) -> int | None:
        return self.runners[-1].pooled_width if self.reading.pooled else None

    @property
    def rules(self) -> Mapping[str, Rule]:
        if self.reading.fixed:
            return WEIGHTING
        most = min(runner.most_skip for runner in self.runners)
        skips = {"clip_skip": optional(whole(0, most))} if most else {}
        return {**WEIGHTING, **CHUNKS, **skips}

    def _run(self, rows: Sequence[Rows], options: TextOptions) -> Encoded:
        skip = options.clip_skip or 0
        made = [runner(row.ids, row.mask, skip) for runner, row in zip(self.runners, rows, strict=True)]
        first = made[0].states
        states = [placed(weigh(one.states, row.weights), first) for one, row in zip(made, rows, strict=True)]
        return Encoded(
            namespace(first).concat(states, axis=-1),
            made[-1].pooled if self.reading.pooled else None,
            placed(rows[0].mask, first) if self.reading.masked else None,
        )


def open_clip_encoder(
    folders: Sequence[tuple[Path, Path]], reading: Reading, networks: TextNetworks, absent_is_zero: bool = False
) -> ClipEncoder:
    """From a tokenizer's and a network's folder each; where states are pooled, the last network projects.

    Raises ValueError for what `networks` refuses, a tokenizer that is missing or does not fit, and where transformers
    is not installed.
    """
    load = _load_whole if networks.whole_tokenizers else _load_tokenizer
    tokenizers = [load(words, weights) for words, weights in folders]
    last = folders[-1][1]
    runners = [networks.clip(weights, reading, reading.pooled and weights == last) for _, weights in folders]
    return ClipEncoder(tokenizers, runners, reading, absent_is_zero)


def _load_tokenizer(folder: Path, weights: Path) -> PromptTokenizer:
    read = read_with_transformers(folder, "CLIPTokenizer", ("vocab.json", "merges.txt"))
    return _fitted(folder, weights, read.backend_tokenizer, read.model_max_length, read.pad_token_id)


def _load_whole(folder: Path, weights: Path) -> PromptTokenizer:
    tokenizer, pad = read_whole(folder)
    return _fitted(folder, weights, tokenizer, written_window(folder), pad)


def _fitted(folder: Path, weights: Path, tokenizer: Tokenizer, said: Any, pad: int | None) -> PromptTokenizer:
    fields = read_config(weights, text_fields)
    window = min(said, fields["max_position_embeddings"]) if isinstance(said, int) else said
    return fitted(folder, tokenizer, window, pad, fields["vocab_size"])
