"""Where the numbers of a plan are: pictures whose channels stand together, in buffers that share one memory."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a cache line, a vector
HUGE = 1 << 21  # bytes of a large page


def reserved(size: int) -> Tensor:
    """Bytes of zeros, aligned: on large pages, where the system has them, so that fewer translations are missed."""
    if size < HUGE:
        whole = torch.zeros(size + ALIGNMENT, dtype=torch.uint8)
        return whole[-whole.data_ptr() % ALIGNMENT :][:size]
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(size, dtype=torch.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


@dataclass(eq=False)
class Buffer:
    """Bytes that are needed from step `first` to step `last`; kept: from the beginning to the end, and between runs."""

    size: int
    kept: bool = False
    first: int = -1
    last: int = -1
    offset: int = -1

    def used(self, step: int) -> None:
        self.first = step if self.first < 0 else self.first
        self.last = step


@dataclass(frozen=True)
class View:
    """Pictures (images, height, width, channels) in a buffer: `start` and the strides in elements of `dtype`."""

    buffer: Buffer
    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    strides: tuple[int, int, int]  # between images, lines and items
    start: int = 0
    edge: int = 0  # items around every picture that belong to it

    @property
    def channels(self) -> int:
        return self.shape[3]

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.shape[:3]

    def columns(self, first: int, last: int) -> View:
        """Some of the channels."""
        return replace(self, shape=(*self.grid, last - first), start=self.start + first)

    def lines(self) -> View:
        """Every picture as one line of items."""
        images, height, width, channels = self.shape
        image, line, item = self.strides
        assert line == width * item, "lines do not follow each other"
        return replace(self, shape=(images, 1, height * width, channels), strides=(image, image, item))

    def items(self, first: int, last: int) -> View:
        """Some items of pictures of one line."""
        images, _, _, channels = self.shape
        start = self.start + first * self.strides[2]
        return replace(self, shape=(images, 1, last - first, channels), start=start)

    def as_pictures(self, height: int, width: int) -> View:
        """Pictures of one line as pictures of this size."""
        images, _, _, channels = self.shape
        image, _, item = self.strides
        return replace(self, shape=(images, height, width, channels), strides=(image, width * item, item))

    def strided(self, step: int, height: int, width: int) -> View:
        """height x width items, every `step`-th one in lines and columns."""
        image, line, item = self.strides
        return replace(
            self, shape=(self.shape[0], height, width, self.channels), strides=(image, step * line, step * item)
        )


def pictures(
    shape: tuple[int, int, int, int], dtype: torch.dtype, *, edge: int = 0, kept: bool = False, room: int | None = None
) -> View:
    """A new buffer for pictures with an edge around; room: channels of the buffer, of which the view has the first."""
    images, height, width, channels = shape
    item = channels if room is None else room
    line = (width + 2 * edge) * item
    image = (height + 2 * edge) * line
    buffer = Buffer(images * image * dtype.itemsize, kept)
    return View(buffer, dtype, shape, (image, line, item), edge * (line + item), edge)


@dataclass
class Arena:
    """One piece of memory for all buffers of a plan."""

    memory: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))

    def place(self, buffers: Sequence[Buffer]) -> None:
        """Give every buffer its offset: buffers that are needed at the same time do not overlap."""
        placed: list[Buffer] = []
        end = max((buffer.last for buffer in buffers), default=0)
        for buffer in sorted(buffers, key=lambda one: -one.size):
            if buffer.kept:
                buffer.first, buffer.last = 0, end
            beside = sorted((b for b in placed if b.first <= buffer.last and buffer.first <= b.last), key=_offset)
            offset = 0
            for other in beside:
                if offset + buffer.size <= other.offset:
                    break
                offset = max(offset, _aligned(other.offset + other.size))
            buffer.offset = offset
            placed.append(buffer)
        size = max((buffer.offset + buffer.size for buffer in buffers), default=0)
        self.memory = reserved(size)

    def address(self, view: View) -> int:
        return self.memory.data_ptr() + view.buffer.offset + view.start * view.dtype.itemsize

    def tensor(self, view: View) -> Tensor:
        """(images, height, width, channels), in place."""
        numbers = self.memory[view.buffer.offset : view.buffer.offset + view.buffer.size].view(view.dtype)
        return numbers.as_strided(view.shape, (*view.strides, 1), numbers.storage_offset() + view.start)


def _offset(buffer: Buffer) -> int:
    return buffer.offset


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
