"""Where a call's words stand among the columns of attention maps."""

from __future__ import annotations

from functools import partial

from pydiff.tasks.words import EMBEDDINGS, SECOND, Words
from pydiff.text.encoders import TextEncoder
from pydiff.text.spans import PromptColumns, read_columns


def prompt_columns(encoder: TextEncoder, words: Words, guided: bool) -> list[PromptColumns]:
    """The columns of the prompt of every picture, in as many windows as the encoder reads; guided: whether it reads the
    negative prompts too. Raises ValueError for words that no column of a prompt stands for."""
    second = (words.second, words.negative_second)
    given = [EMBEDDINGS[0]] if words.embeddings is not None else []
    given += [name for name, entries in zip(SECOND, second, strict=True) if entries is not None]
    given += ["weighting"] if words.reading.get("weighting") else []
    if given:
        raise ValueError(f"{given[0]} is given, but words are found in plain prompts alone; leave it out")
    others = [negative or "" for negative in words.negatives] if guided else []
    as_read = partial(encoder.as_read, **words.reading)
    return read_columns(encoder.tokenizers[0], [*words.prompts, *others], as_read=as_read)[: len(words)]
