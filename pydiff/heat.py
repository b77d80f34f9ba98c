"""Where words looked: attention that a run captured, as arrays and as pictures.

A word's heat is its attention, averaged over layers, heads and steps, beside its largest value. Known from
Prompt-to-Prompt (Hertz et al. 2022, figure 4), with maps of several sizes from DAAM (Tang et al. 2022, equation 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pydiff.arrays import cast, hosted, namespace, on_host
from pydiff.heat_pictures import FRAME_SECONDS, overlay, strip, write_animation
from pydiff.nn.edit import Heat
from pydiff.ops.resize import resize
from pydiff.text.spans import Phrase, named


class UncapturedWordError(KeyError, ValueError):
    """A word whose attention was not captured."""

    __str__ = Exception.__str__


class Captured(NamedTuple):
    """What a run of `rows` pictures captures. words: in the order of the columns of every Heat; heats: one for all
    noise levels, or with every_step one for each; sizes: height and width of layers by their number of pixels; heads:
    how many are kept apart, None where they are averaged."""

    words: tuple[Phrase, ...] = ()
    heats: tuple[Heat, ...] = ()
    sizes: Mapping[int, tuple[int, int]] = {}
    rows: int = 1
    heads: int | None = None
    every_step: bool = False


class HeatMaps(Mapping[Phrase, NDArray[np.float32]]):
    """Heat by word, as the caller named the words: heat["circle"] is float32 (H, W) in [0, 1], its largest value 1; 0
    everywhere for a word that is not in the picture's prompt, and before anything is captured.

    H and W are those of the largest layers captured; smaller maps are enlarged to them, bilinearly. Of a run of several
    pictures (B, H, W), one per picture; with heads kept apart (heads, H, W) or (B, heads, H, W), and 1 is the largest
    value of all heads. During a run it holds what was captured so far, and goes on with it.
    """

    def __init__(self, captured: Captured = Captured(), pictures: Sequence[Image.Image] = ()) -> None:
        self._captured, self._pictures = captured, tuple(pictures)

    def __getitem__(self, word: Phrase) -> NDArray[np.float32]:
        return self._shaped(_unit(self._maps(word)))

    def __iter__(self) -> Iterator[Phrase]:
        return iter(self._captured.words)

    def __len__(self) -> int:
        return len(self._captured.words)

    def __repr__(self) -> str:
        return f"HeatMaps({', '.join(map(repr, self))})"

    def attention(self, word: Phrase) -> NDArray[np.float32]:
        """The attention itself, in the shape of the heat: the mean over layers, heads and steps of the share that falls
        on the word, all its tokens together, in [0, 1]. An edited picture's is that of its edited maps, where weights
        may lead out of [0, 1]."""
        return self._shaped(self._maps(word))

    def steps(self, word: Phrase) -> NDArray[np.float32]:
        """The heat of every captured noise level, noisiest first: (S, ...) in the shape of the heat, in [0, 1], 1 being
        the largest of all of them. ValueError unless the run kept them (heat_every_step=True)."""
        return self._shaped(_unit(self._steps(word)))

    def over(self, pictures: Sequence[Image.Image]) -> HeatMaps:
        """The same, to be laid over these PIL pictures, one per picture of the run, of any size."""
        given, rows = list(pictures), self._captured.rows
        if len(given) != rows or not all(isinstance(picture, Image.Image) for picture in given):
            kinds = ", ".join(sorted({type(picture).__name__ for picture in given})) or "none"
            raise ValueError(f"{len(given)} pictures came ({kinds}); expected {rows} PIL pictures, one per row of heat")
        return HeatMaps(self._captured, [picture.convert("RGB") for picture in given])

    def overlay(self, word: Phrase, index: int = 0) -> Image.Image:
        """Picture `index` with the word's heat laid over it, in the picture's size."""
        return overlay(self._picture(index), _flat(self._maps(word), index))

    def strip(self, index: int = 0) -> Image.Image:
        """Picture `index` beside one panel per word, with captions."""
        picture = self._picture(index)
        if not self:
            raise ValueError("no words were captured; name them: capture=['circle'], or capture=True for all")
        return strip(picture, {_caption(word): self.overlay(word, index) for word in self})

    def animation(self, word: Phrase, index: int = 0) -> list[Image.Image]:
        """One overlay per captured noise level, noisiest first. ValueError as in `steps`."""
        picture, heats = self._picture(index), _flat(self._steps(word), index)
        return [overlay(picture, heat) for heat in heats]

    def save_animation(self, path: str | Path, word: Phrase, index: int = 0, seconds: float = FRAME_SECONDS) -> Path:
        """Write the animation as .gif, .webp or .png (animated), `seconds` for every frame. ValueError as in `steps`,
        and where there can be no such file."""
        return write_animation(Path(path), lambda: self.animation(word, index), seconds)

    def _column(self, word: Phrase) -> int:
        words = self._captured.words
        if word not in words:
            known = ", ".join(map(repr, words)) or "none"
            what = named(word) if isinstance(word, str | tuple) else repr(word)
            raise UncapturedWordError(f"{what} was not captured; captured are {known}: name it in capture=[...]")
        return words.index(word)

    def _maps(self, word: Phrase, heats: Sequence[Heat] | None = None) -> NDArray[np.float64]:
        """(B, heads or 1, H, W): the mean over layers and steps."""
        captured, column = self._captured, self._column(word)
        size, count = captured.sizes[max(captured.sizes)], 0
        total = np.zeros((captured.rows, captured.heads or 1, *size))
        for heat in captured.heats if heats is None else heats:
            for pixels, sums in list(heat.sums.items()):
                own = hosted(sums[: captured.rows, ..., column], sums)
                own = cast(own, namespace(own).float64).reshape((*total.shape[:2], *captured.sizes[pixels]))
                total += on_host(own if own.shape == total.shape else resize(own, size, mode="bilinear"))
                count += heat.counts[pixels]
        return total / max(count, 1)

    def _steps(self, word: Phrase) -> NDArray[np.float64]:
        """(S, B, heads or 1, H, W): the mean over the layers of each step."""
        if not self._captured.every_step:
            raise ValueError("the maps of every step were not kept; generate with heat_every_step=True")
        maps = [self._maps(word, [heat]) for heat in self._captured.heats if heat.sums]
        return np.stack(maps or [self._maps(word)])

    def _shaped(self, maps: NDArray[np.float64]) -> NDArray[np.float32]:
        """Without the axes of one head and of one picture."""
        maps = maps if self._captured.heads is not None else maps.squeeze(-3)
        if self._captured.rows == 1:
            maps = maps.squeeze(-3 if self._captured.heads is None else -4)
        return maps.astype(np.float32)

    def _picture(self, index: Any) -> Image.Image:
        if not self._pictures:
            raise ValueError(
                "there are no pictures to lay heat over; generate with output_type='pil', or give heat.over some"
            )
        count = len(self._pictures)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            raise ValueError(f"index is {index!r}; expected that of a picture, an integer from 0 to {count - 1}")
        return self._pictures[index]


def _unit(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maps (..., B, heads, H, W) in [0, 1], beside the largest value of each picture; what is negative is 0."""
    others = tuple(axis for axis in range(maps.ndim) if axis != maps.ndim - 4)
    most = maps.max(axis=others, keepdims=True)
    return (maps / np.where(most > 0, most, 1)).clip(min=0)


def _flat(maps: NDArray[np.float64], index: int) -> NDArray[np.float32]:
    """Maps (..., B, heads, H, W) as heat (..., H, W) of one picture, its heads averaged."""
    return _unit(maps.mean(-3, keepdims=True))[..., index, 0, :, :].astype(np.float32)


def _caption(word: Phrase) -> str:
    return word if isinstance(word, str) else f"{word[0]} ({word[1]})"
