"""The steps of a plan: recorded over views, and written into a program of the core once memory is placed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pydiff.ops import native
from pydiff.runtime.planned.memory import Arena, Buffer, View, pictures
from pydiff.runtime.planned.weights import PANEL, POINTS, Packed, Weights

NONE, SILU, GELU, GEGLU = range(4)  # activations, as the core counts them
ACTS = {None: NONE, "silu": SILU, "swish": SILU, "gelu": GELU}  # by the names that checkpoints use
LEAST_CHANNELS = 64  # from which on Winograd's products outweigh its transforms
LEAST_TILES = 16  # of a picture
BAND = 1 << 22  # numbers of Winograd's transforms that are made before they are used: what the last cache holds
Write = Callable[[Any, Arena], None]  # a step, into a program


class Ending(NamedTuple):
    """What becomes of a product's sums: told (B, outputs) float32 is added picture by picture, then the activation, a
    residual is added, and the result scaled."""

    told: View | None = None
    act: int = NONE
    residual: View | None = None
    scale: float = 1.0


PLAIN = Ending()


class Head(NamedTuple):
    """What x goes through before it is read: the affines of a group norm, if there is one, and an activation."""

    affines: View | None = None
    act: int = NONE


UNCHANGED = Head()


class Attend(NamedTuple):
    """A layer of attention: the step that it is, its name, what it reads (views of one line of items) and makes."""

    step: int
    name: str
    kind: str  # "pixels" | "text"
    heads: int
    q: View
    k: View
    v: View
    out: View
    masked: bool


class Matches(NamedTuple):
    """Pixels of pictures (images, height, width) of which `left` stand for all: see csrc/cpu/merge.h."""

    grid: tuple[int, int, int]
    left: int
    place: View
    starts: View
    members: View

    def given(self, arena: Arena) -> tuple[object, ...]:
        return self.grid, self.left, [arena.address(view) for view in self[2:]]


class Recorder:
    """Records steps. Views that it makes are of the network's type; those of statistics and of what blocks are told
    are float32."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.dtype = weights, weights.dtype
        self.steps: list[Write] = []
        self.buffers: list[Buffer] = []
        self.attends: list[Attend] = []
        self.bias: View | None = None  # (B, T) of the text's scores

    def new(
        self, shape: tuple[int, int, int, int], dtype: torch.dtype | None = None, *, edge: int = 0, kept: bool = False,
        room: int | None = None,
    ) -> View:  # fmt: skip
        view = pictures(shape, dtype or self.dtype, edge=edge, kept=kept, room=room)
        self.buffers.append(view.buffer)
        return view

    def product(self, x: View, packed: Packed, ending: Ending = PLAIN, out: View | None = None) -> View:
        """Rows of x times a matrix."""
        shown = packed.outputs // 2 if ending.act == GEGLU else packed.outputs
        out = self.new((*x.grid, shown)) if out is None else out
        self._product(x, packed, [0], ending, out)
        return out

    def conv(
        self, x: View, conv: nn.Conv2d, ending: Ending = PLAIN, *, head: Head = UNCHANGED, out: View | None = None
    ) -> View:
        """A convolution of any stride over x, or over what the head makes of x, with zeros around."""
        if conv.kernel_size == (1, 1) and head == UNCHANGED:
            return self.product(x, self.weights.linear(conv), ending, out)
        kernel, stride, padding = _square(conv)
        edge = kernel // 2
        height, width = (_reach(size, kernel, stride, padding) for size in x.grid[1:])
        out = self.new((x.grid[0], height, width, conv.out_channels)) if out is None else out
        if self._minimal(x, conv):
            self._winograd(x, conv, ending, head, out)
            return out
        even = x.channels + x.channels % 2 if self.dtype == torch.bfloat16 else x.channels
        padded = self.normalise(x, head, edge=edge, channels=even)
        _, line, item = padded.strides
        taps = [(i - padding) * line + (j - padding) * item for i in range(kernel) for j in range(kernel)]
        self._product(padded.strided(stride, *out.grid[1:]), self.weights.taps(conv, even), taps, ending, out)
        return out

    def statistics(self, x: View, norm: nn.GroupNorm, scale: View | None = None, shift: View | None = None) -> View:
        """What makes a group norm of x, and then h (1 + scale) + shift."""
        affines = self.new((x.grid[0], 1, 3, x.channels), torch.float32)
        weight, bias = self.weights.norm(norm)
        stride = 0 if scale is None else scale.strides[0]

        def write(program: Any, arena: Arena) -> None:
            told = (0 if one is None else arena.address(one) for one in (scale, shift))
            given = (native.address(weight), native.address(bias), *told, stride, arena.address(affines))
            program.statistics(_picture(x, arena), norm.num_groups, norm.eps, *given)

        self._step(write, x, affines, scale, shift)
        return affines

    def normalise(
        self, x: View, head: Head = UNCHANGED, *, edge: int = 0, channels: int | None = None, out: View | None = None
    ) -> View:
        """x through its head with an edge of zeros around, and channels of zeros beside."""
        if out is None:
            out = self.new((*x.grid, x.channels if channels is None else channels), edge=edge)

        def write(program: Any, arena: Arena) -> None:
            at = 0 if head.affines is None else arena.address(head.affines)
            program.normalise(_picture(x, arena), _picture(out, arena), at, head.act, edge)

        self._step(write, x, out, head.affines)
        return out

    def resample(self, x: View, height: int, width: int, *, mean: bool) -> View:
        """The nearest items of x at another size, or the means of 2x2."""
        out = self.new((x.grid[0], height, width, x.channels))

        def write(program: Any, arena: Arena) -> None:
            program.resample(_picture(x, arena), _picture(out, arena), mean, 0)

        self._step(write, x, out)
        return out

    def layer_norm(self, x: View, norm: nn.LayerNorm) -> View:
        out = self.new(x.shape)
        weight, bias = self.weights.norm(norm)

        def write(program: Any, arena: Arena) -> None:
            given = (native.address(weight), native.address(bias), norm.eps)
            program.layer_norm(_picture(x, arena), _picture(out, arena), *given)

        self._step(write, x, out)
        return out

    def attention(self, name: str, heads: int, q: View, k: View, v: View, *, kind: str, masked: bool = False) -> View:
        """softmax(q k^T / sqrt(d)) v per head, over views of one line of items; masked: scores of text are biased."""
        out = self.new(q.shape)
        bias = self.bias if masked else None
        self.attends.append(Attend(len(self.steps), name, kind, heads, q, k, v, out, bias is not None))

        def write(program: Any, arena: Arena) -> None:
            at, tokens = (0, 0) if bias is None else (arena.address(bias), bias.channels)
            program.attention(*(_picture(one, arena) for one in (q, k, v, out)), heads, at, tokens)

        self._step(write, q, k, v, out, bias)
        return out

    def match(self, x: View, left: int) -> Matches:
        """Which pixels of x are merged, so many being left (`pydiff.nn.merge`)."""
        images, height, width = x.grid
        destinations = -(-height // 2) * -(-width // 2)
        pixels, panels = height * width, -(-destinations // PANEL)
        packed = self.new((images, 1, panels * PANEL, x.channels))
        inverse = self.new((images, 1, 1, panels * PANEL), torch.float32)
        best = self.new((images, 1, 1, pixels - destinations), torch.float32)
        nearest, order, place, starts, members = (
            self.new((images, 1, 1, count), torch.int32)
            for count in (*[pixels - destinations] * 2, pixels, left + 2, pixels)
        )
        made = Matches(x.grid, left, place, starts, members)

        def write(program: Any, arena: Arena) -> None:
            room = (arena.address(view) for view in (packed, inverse, best, nearest, order))
            program.match(_picture(x, arena), made.given(arena), *room)

        self._step(write, x, packed, inverse, best, nearest, order, place, starts, members)
        return made

    def merge(self, x: View, matches: Matches) -> View:
        """The pixels that are left, each the mean of those that it stands for, as pictures of one line."""
        out = self.new((x.grid[0], 1, matches.left, x.channels))

        def write(program: Any, arena: Arena) -> None:
            program.merge(_picture(x, arena), _picture(out, arena), matches.given(arena))

        self._step(write, x, out, *matches[2:])
        return out

    def unmerge(self, x: View, matches: Matches, ending: Ending, out: View | None = None) -> View:
        """What became of the pixels that are left, in the place of all; of the ending the residual and the scale."""
        out = self.new((*matches.grid, x.channels)) if out is None else out
        residual = ending.residual

        def write(program: Any, arena: Arena) -> None:
            beside = None if residual is None else _picture(residual, arena)
            program.unmerge(_picture(x, arena), _picture(out, arena), matches.given(arena), beside, ending.scale)

        self._step(write, x, out, residual, *matches[2:])
        return out

    def written(self) -> tuple[Any, Arena]:
        """The program, over memory that is its own."""
        core, arena = native.core(), Arena()
        assert core is not None
        arena.place(self.buffers)
        program = core.Program()
        for write in self.steps:
            write(program, arena)
        return program, arena

    def _minimal(self, x: View, conv: nn.Conv2d) -> bool:
        """Whether Winograd's algorithm serves the convolution, and pays."""
        plain = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.padding == (1, 1)
        wide = min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS and conv.in_channels % 16 == 0
        return plain and wide and _tiles(x) >= LEAST_TILES * x.grid[0]

    def _winograd(self, x: View, conv: nn.Conv2d, ending: Ending, head: Head, out: View) -> None:
        packed = self.weights.points(conv)
        items = -(-x.grid[2] // 2)
        band = min(max(1, BAND // (POINTS * items * x.channels)), x.grid[0] * -(-x.grid[1] // 2))
        points = self.new((POINTS, 1, band * items, x.channels))
        rows = self._bytes(packed, points)

        def write(program: Any, arena: Arena) -> None:
            at = 0 if head.affines is None else arena.address(head.affines)
            given = (_picture(x, arena), _picture(out, arena), packed.outputs, _ending(packed, ending, arena))
            program.winograd(*given, at, head.act, arena.address(points), band, _scaled(packed, rows, arena))

        self._step(write, x, out, head.affines, points, *rows, ending.told, ending.residual)

    def _product(self, x: View, packed: Packed, taps: list[int], ending: Ending, out: View) -> None:
        rows = self._bytes(packed, x)

        def write(program: Any, arena: Arena) -> None:
            shown, given = (_picture(x, arena), _picture(out, arena)), (packed.outputs, _ending(packed, ending, arena))
            if rows:
                program.byte_product(*shown, *given, _scaled(packed, rows, arena))
            else:
                program.product(*shown, taps, *given)

        self._step(write, x, out, *rows, ending.told, ending.residual)

    def _bytes(self, packed: Packed, x: View) -> tuple[View, ...]:
        """Room for the bytes that stand for x's rows and for their scales, where products are of bytes."""
        if packed.scales is None:
            return ()
        return self.new(x.shape, torch.uint8), self.new((*x.grid, 1), torch.float32)

    def _step(self, write: Write, *views: View | None) -> None:
        for view in views:
            if view is not None:
                view.buffer.used(len(self.steps))
        self.steps.append(write)


def _tiles(x: View) -> int:
    images, height, width = x.grid
    return images * -(-height // 2) * -(-width // 2)


def _square(conv: nn.Conv2d) -> tuple[int, int, int]:
    """Kernel, stride and padding of a side."""
    assert not isinstance(conv.padding, str)
    return conv.kernel_size[0], conv.stride[0], conv.padding[0]


def _reach(size: int, kernel: int, stride: int, padding: int) -> int:
    """Items of a line that a convolution makes; without padding one more is given at the end, as `Downsample` does."""
    return (size + (2 * padding if padding else kernel // 2) - kernel) // stride + 1


def _picture(view: View, arena: Arena) -> tuple[object, ...]:
    given = (arena.address(view), view.grid, view.strides, view.channels, view.dtype == torch.bfloat16)
    return given


def _ending(packed: Packed, ending: Ending, arena: Arena) -> tuple[object, ...]:
    told, residual = ending.told, ending.residual
    return (
        native.address(packed.weights),
        native.address(packed.bias),
        0 if told is None else arena.address(told),
        0 if told is None else told.strides[0],
        None if residual is None else _picture(residual, arena),
        ending.scale,
        ending.act,
    )


def _scaled(packed: Packed, rows: tuple[View, ...], arena: Arena) -> tuple[int, ...] | None:
    if not rows:
        return None
    return (*map(arena.address, rows), native.address(packed.scales), native.address(packed.offsets))


def heads_of(view: View, heads: int, arena: Arena) -> Tensor:
    """A view of one line of items as (B, heads, N, d), in place."""
    items = arena.tensor(view)[:, 0]  # (B, N, heads d)
    return items.unflatten(2, (heads, -1)).transpose(1, 2)
