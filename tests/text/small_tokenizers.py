"""Small tokenizers that split words as the real ones do, and the columns of prompts in them."""

from __future__ import annotations

import re
import string
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import pydiff
from pydiff.pipeline import EMBEDDED
from pydiff.text.spans import PromptColumns, read_columns
from pydiff.text.tokens import PromptTokenizer

WORDS = re.findall(
    r"\w+|\S",
    "a painting of squirrel eating burger lion cat dog and red blue state the art smiling fluffy , . - ( ) '",
)
PIECES = re.findall(r"\S+", "las ##agne neo ##classical bun ##ny z ##ü ##rich")  # as CLIP's vocabulary splits them
START, END = "<|startoftext|>", "<|endoftext|>"


def framed(tokenizer: Tokenizer, window: int) -> PromptTokenizer:
    """With CLIP's frame and padding."""
    end = tokenizer.token_to_id(END)
    special = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=special)
    return PromptTokenizer(tokenizer, window, end)


@cache
def words(window: int = 77) -> PromptTokenizer:
    """Whole words and the pieces above; other words letter by letter. Normalises and splits as CLIP's does."""
    letters = [f"{prefix}{letter}" for prefix in ("", "##") for letter in string.ascii_lowercase]
    entries = dict.fromkeys([*WORDS, *PIECES, *letters, *string.digits, "<unk>", START, END])
    model = models.WordPiece({entry: index for index, entry in enumerate(entries)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    return framed(tokenizer, window)


@cache
def clip(window: int = 77) -> PromptTokenizer:
    """CLIP's byte-level tokenizer with a few merges; a run of signs is one word, as in ")," and its "</w>" token."""
    merges = [("c", "a"), ("ca", "t</w>"), (")", ",</w>"), ("d", "o"), ("do", "g</w>"), ("a", "n"), ("an", "d</w>")]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    pattern = Regex(r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return framed(tokenizer, window)


@cache
def t5(window: int = 77) -> PromptTokenizer:
    """The tokenizer that ships: no token before a prompt, one after it."""
    folder = Path(pydiff.__file__).parent / "embedded" / "weights" / EMBEDDED[0] / "tokenizer"
    return PromptTokenizer(Tokenizer.from_file(str(folder / "tokenizer.json")), window, 0)


@cache
def letters(window: int = 77) -> PromptTokenizer:
    """A token for every byte, white space among them, and one at the end; spaces of no width are dropped."""
    alphabet = ["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.normalizer = normalizers.Replace("\u200b", "")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PromptTokenizer(tokenizer, window, 0)


def columns(*prompts: str, tokenizer: PromptTokenizer | None = None) -> list[PromptColumns]:
    return read_columns(tokenizer or words(), prompts)
