"""What a call says in words, or in embeddings in their place: checked, one entry per picture, then encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydiff.arrays import Array, inference, is_array, is_floating
from pydiff.tasks.checks import is_list, otherwise, per_prompt
from pydiff.text.encoders import Encoded, TextEncoder

Prompt = str | Sequence[str] | None
EMBEDDINGS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
SECOND = ("prompt_2", "negative_prompt_2")  # what Stable Diffusion XL's second encoder reads
READING = ("clip_skip", "weighting", "chunks", "clean_caption")  # options of text encoders


class Told(NamedTuple):
    """Encoded words of a batch, one row per picture; null is what guidance steers away from, None where nothing is
    guided."""

    prompt: Encoded
    null: Encoded | None


class Embeddings(NamedTuple):
    """prompt_embeds (P, T, D) and pooled_prompt_embeds (P, E) of diffusers, and the negative ones; one row per prompt
    or per picture."""

    prompt: Array
    negative: Array | None = None
    pooled: Array | None = None
    negative_pooled: Array | None = None

    def check(self, encoder: TextEncoder, guided: bool, pooled: bool) -> None:
        """Raise ValueError unless the network that reads the encoder's states, and pooled ones, can read these."""
        pairs = zip(EMBEDDINGS, self, (encoder.width,) * 2 + (encoder.pooled_width,) * 2, strict=True)
        for name, value, width in pairs:
            if (name.startswith("negative") and not guided) or ("pooled" in name and not pooled):
                continue
            if value is None:
                raise ValueError(f"prompt_embeds are given without {name}, which this run reads too; give both")
            if value.shape[-1] != width:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; this model reads embeddings of width {width}")


@dataclass(frozen=True)
class Words:
    """Prompt and negative prompt of every picture; a negative None is an absent one. second: what the second encoder
    of Stable Diffusion XL reads, where that is something else. reading: options of the text encoder."""

    prompts: tuple[str, ...]
    negatives: tuple[str | None, ...]
    second: tuple[str, ...] | None = None
    negative_second: tuple[str | None, ...] | None = None
    embeddings: Embeddings | None = None
    reading: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def said(self, index: int) -> dict[str, str | None]:
        """Of one picture, in the names of the arguments."""
        if self.embeddings is not None:
            return {"prompt": None, "negative_prompt": None}
        said = {"prompt": self.prompts[index], "negative_prompt": self.negatives[index]}
        for name, entries in zip(SECOND, (self.second, self.negative_second), strict=True):
            if entries is not None:
                said[name] = entries[index]
        return said

    def check(self, encoder: TextEncoder, guided: bool) -> None:
        """Refuse, before any work, what the encoder cannot read whole."""
        encoder.check(self.prompts, self.second, **self.reading)
        if guided:
            encoder.check(self.negatives, self.negative_second, **self.reading)

    def encode(self, encoder: TextEncoder, guided: bool) -> Told:
        if self.embeddings is not None:
            return _given(self.embeddings, guided)
        if not guided:
            return Told(encoder.encode(self.prompts, self.second, **self.reading), None)
        return Told(
            *encoder.encode_pair(self.prompts, self.negatives, self.second, self.negative_second, **self.reading)
        )


def _given(embeddings: Embeddings, guided: bool) -> Told:
    prompt = Encoded(embeddings.prompt, embeddings.pooled)
    if not guided:
        return Told(prompt, None)
    assert embeddings.negative is not None
    return Told(prompt, Encoded(embeddings.negative, embeddings.negative_pooled))


def make_words(
    prompt: Prompt,
    negative: Prompt = None,
    each: int = 1,
    *,
    second: Prompt = None,
    negative_second: Prompt = None,
    embeddings: Embeddings | None = None,
    reading: dict[str, Any] | None = None,
) -> Words:
    """The words of every picture, `each` pictures to a prompt. Raises ValueError for what does not fit together."""
    each = per_prompt(each)
    if embeddings is not None:
        if any(words is not None for words in (prompt, negative, second, negative_second)) or reading:
            raise ValueError(f"prompts, or {', '.join(READING)}, are given beside prompt_embeds; give one of the two")
        repeated = _checked(embeddings, each)
        nothing = ("",) * len(repeated.prompt)
        return Words(nothing, nothing, embeddings=repeated)
    prompts = _strings("prompt", prompt)
    count = len(prompts)
    return Words(
        _each(prompts, each),
        _each(_matched("negative_prompt", negative, count), each),
        None if second is None else _each(_matched("prompt_2", second, count), each),
        None if negative_second is None else _each(_matched("negative_prompt_2", negative_second, count), each),
        reading=reading or {},
    )


def _each(entries: Sequence[Any], each: int) -> tuple[Any, ...]:
    return tuple(entry for entry in entries for _ in range(each))


def _matched(name: str, given: Prompt, count: int) -> Sequence[str | None]:
    """One entry, or one for each of `count` prompts."""
    entries: Sequence[str | None] = [None] if given is None else _strings(name, given)
    if len(entries) not in (1, count):
        raise ValueError(f"{name} lists {len(entries)} for {count} prompts; give one, or one for each")
    return entries if len(entries) == count else list(entries) * count


def _strings(name: str, given: Prompt) -> list[str]:
    strings = [given] if isinstance(given, str) else list(given) if is_list(given) else []
    if not strings or not all(isinstance(words, str) for words in strings):
        raise ValueError(f"{name} is {given!r}; expected a string or a list of strings")
    return strings


def _checked(embeddings: Embeddings, each: int) -> Embeddings:
    """Repeated for every picture, in diffusers' order: the pictures of a prompt stand together."""
    ranks = (3, 3, 2, 2)
    rows = None
    given: Sequence[Any] = embeddings
    for name, rank, value in zip(EMBEDDINGS, ranks, given, strict=True):
        if value is None and name != "prompt_embeds":
            continue
        shape = "(P, T, D)" if rank == 3 else "(P, E)"
        if not is_array(value) or value.ndim != rank or not is_floating(value) or 0 in value.shape:
            came = f"{value.dtype} {tuple(value.shape)}" if is_array(value) else type(value).__name__
            raise ValueError(f"{name} is {came}; expected a tensor of floats {shape}")
        rows = otherwise(rows, len(value))
        if len(value) != rows:
            raise ValueError(f"{name} has {len(value)} rows and prompt_embeds {rows}; give one row per prompt")
    negative = embeddings.negative
    if negative is not None and negative.shape != embeddings.prompt.shape:
        raise ValueError(
            f"negative_prompt_embeds has shape {tuple(negative.shape)}, prompt_embeds {tuple(embeddings.prompt.shape)}"
            "; give equal ones"
        )
    repeated = [row for row in range(len(embeddings.prompt)) for _ in range(each)]
    return Embeddings(*(None if value is None else value[repeated] for value in embeddings))  # type: ignore[arg-type]


def encode_all(words: Words, encoders: Sequence[TextEncoder], guided: bool) -> list[Told]:
    """What each of the encoders makes of the words; the same encoder is asked once."""
    told: dict[int, Told] = {}
    with inference():
        for encoder in encoders:
            if id(encoder) not in told:
                told[id(encoder)] = words.encode(encoder, guided)
    return [told[id(encoder)] for encoder in encoders]
