"""The embedded model's tokenizer: byte-pair merges trained on captions, so that each word of the world is one token."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pydiff.embedded.captions import caption
from pydiff.embedded.world import sample_scene

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_TOKENS = 77  # diffusers' IFPipeline pads every prompt to this length
_SPECIAL = ["<pad>", "</s>", "<unk>"]


def train_tokenizer(captions: int = 20_000, seed: int = 0) -> PreTrainedTokenizerFast:
    """A transformers tokenizer with T5's special tokens: <pad> 0, </s> 1, <unk> 2."""
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(seed)
    corpus = (caption(sample_scene(rng), rng) for _ in range(captions))
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    alphabet = list(string.ascii_lowercase + string.digits + string.punctuation)
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=_SPECIAL, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
    )
