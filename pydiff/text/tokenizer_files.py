"""Tokenizers in a pipeline's folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pydiff._optional import TRANSFORMERS, optional
from pydiff.text.tokens import PromptTokenizer
from pydiff.weights.files import inside, read_json, write_json, write_whole

MOST_BYTES = 16 << 20  # of one of a tokenizer's files
WHOLE = "tokenizer.json"  # all of a tokenizer in one file
SETTINGS = "tokenizer_config.json"  # beside it
_JSON = (WHOLE, SETTINGS, "special_tokens_map.json", "added_tokens.json", "vocab.json")


def read_whole(folder: Path) -> tuple[Tokenizer, int]:
    """The tokenizer in a tokenizer.json, and its padding's id, by the tokenizers library alone. ValueError names the
    file that is missing or wrong."""
    path = inside(folder, WHOLE)
    read_json(path)  # refuses what is missing or no JSON, with its name
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path} is no tokenizer that the tokenizers library reads: {error}") from error
    settings = folder / SETTINGS
    pad = read_json(inside(folder, settings.name)).get("pad_token") if settings.is_file() else None
    token = pad.get("content") if isinstance(pad, dict) else pad
    if token is not None and not isinstance(token, str):
        raise ValueError(f"{settings} has pad_token = {pad!r}; expected a token")
    return tokenizer, (tokenizer.token_to_id(token) if token else 0) or 0


def write_tokenizer(folder: Path, tokenizer: PromptTokenizer) -> None:
    """Write the tokenizer as it is, whatever read it: `read_whole` and `written_window` make the same of the folder."""
    text = tokenizer.tokenizer.to_str(pretty=True)
    write_whole(folder / WHOLE, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    pad = tokenizer.tokenizer.id_to_token(tokenizer.pad)
    write_json(folder / SETTINGS, {"model_max_length": tokenizer.window, "pad_token": pad})


def written_window(folder: Path) -> Any:
    """The model_max_length that a tokenizer's settings say."""
    return read_json(inside(folder, SETTINGS)).get("model_max_length")


def read_with_transformers(folder: Path, kind: str, parts: tuple[str, ...]) -> Any:
    """A tokenizer of transformers' class `kind`: from a tokenizer.json, or from its older parts. ValueError names what
    is missing, leads out of the folder or is refused by transformers, which is imported here."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one that holds a tokenizer")
    for entry in sorted(folder.iterdir()):
        path = inside(folder, entry.name)
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path} has {path.stat().st_size} bytes; expected at most {MOST_BYTES}")
        if entry.name in _JSON:
            read_json(path)
    if not (folder / WHOLE).is_file() and not all((folder / name).is_file() for name in parts):
        raise ValueError(f"{folder} holds no tokenizer; expected {WHOLE}, or {' and '.join(parts)}")
    transformers = optional("transformers", TRANSFORMERS, f"the tokenizer in {folder}")
    try:
        made = getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a file that does not fit raises whatever its reader meets
        raise ValueError(f"{folder} is no {kind} that transformers reads: {error}") from error
    if not hasattr(made, "backend_tokenizer"):
        raise ValueError(
            f"transformers {transformers.__version__} is too old for {folder}: pip install {TRANSFORMERS!r}"
        )
    return made


def fitted(folder: Path, tokenizer: Tokenizer, window: Any, pad: int | None, vocabulary: int) -> PromptTokenizer:
    """A tokenizer for a network that reads `window` tokens of a vocabulary of that many. ValueError where it cannot."""
    if type(window) is not int:
        raise ValueError(f"the tokenizer in {folder} has model_max_length {window!r}; expected an int")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    count = tokenizer.get_vocab_size()
    if count > vocabulary:
        raise ValueError(f"the tokenizer in {folder} has {count} tokens; its text encoder knows {vocabulary}")
    if pad is None:
        raise ValueError(f"the tokenizer in {folder} has no padding token; expected a pad_token in its files")
    made = PromptTokenizer(tokenizer, window, pad)
    if all(tokenizer.encode("a").special_tokens_mask) or made.room < 1:
        raise ValueError(f"the tokenizer in {folder} makes no token of 'a' that fits into {window}")
    return made
