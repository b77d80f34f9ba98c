"""Changes to attention, and what is captured of it: values that ride in the conditioning of a network.

A row of a batch may borrow the attention of another (Hertz et al. 2022, Prompt-to-Prompt): the text columns of its map
become A[source] @ transfer + A * keep. Its pixels may attend as another row's do, or to another row's. Nothing here
knows of steps: a run has one AttentionEdit per noise level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pydiff.arrays import Array, namespace

MapFunction = Callable[[Array, Array, float], Array]  # (source map, target map, progress) -> map


class Layers(NamedTuple):
    """Layers of a network: those of these names (None: all), of at most max_pixels pixels (None: any)."""

    names: frozenset[str] | None = None
    max_pixels: int | None = None

    def has(self, name: str, pixels: int) -> bool:
        small = self.max_pixels is None or pixels <= self.max_pixels
        return small and (self.names is None or name in self.names)


class PixelEdit(NamedTuple):
    """How pixels attend to pixels, in some layers. source (B,) int64: the row that a row borrows from, its own for one
    that is left alone. borrow: "map", its queries and keys (Prompt-to-Prompt, plug-and-play), or "content", its keys
    and values (MasaCtrl, cross-frame attention). unborrowed (B,) bools: the rows whose text is edited and whose pixels
    are left alone, if there are any beside rows that borrow maps."""

    source: Array
    borrow: str
    layers: Layers = Layers()
    unborrowed: Array | None = None


class RowsIn(NamedTuple):
    """Rows (B,) of a batch, bools or the int64 of other rows, and the layers that they are meant for."""

    rows: Array
    layers: Layers = Layers()


class MapEdit(NamedTuple):
    """A user's own function of formed maps: row b's map becomes function(source row's, its own, progress), where row b
    has a source other than itself. Slow: maps (heads, N, M) are formed in these layers."""

    function: MapFunction
    source: Array
    progress: float
    layers: Layers = Layers()


class AttentionEdit(NamedTuple):
    """What is done to the attention of a batch of B rows and T tokens, those of all branches of a guidance.

    source (B,): the row whose text map is borrowed, its own for a row that is left alone; transfer (B, T, T): where the
    borrowed attention of each source token goes; keep (B, T): what share of its own attention a token keeps. All three
    None: text attention is left alone. pixels: what becomes of pixel columns that stand in one softmax with the text:
    "rescale" so that rows sum to 1, or "keep". pixel_edit: how pixels attend to pixels, beside text too. perturbed:
    rows in which a pixel attends to no pixel but itself (perturbed-attention guidance). features: rows whose residual
    branch replaces a row's own (plug-and-play). pooled (B,) int64: whose pooled text a row is told. map_edit: a user's
    function. probe (B, T, K): what is captured of text maps A, as
    A @ probe, and captures: where it goes.
    """

    tokens: int
    source: Array | None = None
    transfer: Array | None = None
    keep: Array | None = None
    pixels: str = "rescale"
    pixel_edit: PixelEdit | None = None
    perturbed: RowsIn | None = None
    features: RowsIn | None = None
    pooled: Array | None = None
    map_edit: MapEdit | None = None
    probe: Array | None = None
    captures: tuple[Capture, ...] = ()

    def borrowed(self, borrow: str, name: str, pixels: int) -> Array | None:
        """The rows (B,) from which pixels borrow in this way in this layer, if they do."""
        edit = self.pixel_edit
        return edit.source if edit is not None and edit.borrow == borrow and edit.layers.has(name, pixels) else None

    def perturbs(self, name: str, pixels: int) -> Array | None:
        """The rows (B,), bools, in which a pixel of this layer attends to no pixel but itself, if there are any."""
        return None if self.perturbed is None or not self.perturbed.layers.has(name, pixels) else self.perturbed.rows

    def injected(self, name: str, pixels: int) -> Array | None:
        """The rows (B,) whose residual branch stands in this residual block, if not everybody's own does."""
        return None if self.features is None or not self.features.layers.has(name, pixels) else self.features.rows

    def function_of(self, name: str, pixels: int) -> MapEdit | None:
        """The user's function for this layer, if it has one."""
        return self.map_edit if self.map_edit is not None and self.map_edit.layers.has(name, pixels) else None

    def capturing(self, probe: Array, heat: Heat) -> AttentionEdit:
        """The same, with the attention to the columns of one more probe (B, T, K) added to heat."""
        first = 0 if self.probe is None else self.probe.shape[2]
        whole = probe if self.probe is None else namespace(probe).concat([self.probe, probe], axis=2)
        return self._replace(probe=whole, captures=(*self.captures, Capture(heat, first, whole.shape[2])))

    def tables(self, rows: Array | None) -> tuple[Array, Array, Array] | None:
        """source, transfer and keep. Where text is left alone and pixels borrow the maps of `rows`, tables that leave
        the text alone; None where nothing is borrowed."""
        if self.source is not None and self.transfer is not None and self.keep is not None:
            return self.source, self.transfer, self.keep
        if rows is None:
            return None
        xp = namespace(rows)
        how: dict[str, Any] = {"dtype": xp.float32, "device": rows.device}
        return rows, xp.zeros((len(rows), self.tokens, self.tokens), **how), xp.ones((len(rows), self.tokens), **how)


class Capture(NamedTuple):
    """What the probe's columns start <= k < stop capture is added to heat."""

    heat: Heat
    start: int
    stop: int


class Heat:
    """Captured attention of a run: per number of pixels N the sum (B, N, K) over layers and steps, and of how many.

    layers: which are captured; sizes: of how many pixels, by default any. heads: whether they are kept apart (B, heads,
    N, K) or averaged.
    """

    def __init__(self, layers: Layers = Layers(), sizes: frozenset[int] | None = None, heads: bool = False) -> None:
        self.layers, self.sizes, self.heads = layers, sizes, heads
        self.sums: dict[int, Array] = {}
        self.counts: dict[int, int] = {}

    def takes(self, name: str, pixels: int) -> bool:
        """Whether this layer is captured."""
        return self.layers.has(name, pixels) and (self.sizes is None or pixels in self.sizes)

    def place(self, q: Array, columns: int) -> Array:
        """Where a layer with queries q (B, heads, N, d) adds its share: (B, N, K), or (B, heads, N, K). The sums have
        as many rows as the largest B, since a run may evaluate fewer branches at some levels: the first ones."""
        rows, heads, pixels = q.shape[:3]
        return self._place(pixels, (rows, heads, pixels, columns) if self.heads else (rows, pixels, columns), q)

    def add(self, pixels: int, values: Array) -> None:
        """Add the share of a layer of so many pixels N, (B, N, K) or (B, heads, N, K) as `place` has it."""
        place = self._place(pixels, tuple(values.shape), values)
        place += values

    def _place(self, pixels: int, shape: tuple[int, ...], like: Array) -> Array:
        """The sums of the first rows, one more share of this shape being counted."""
        before = self.sums.get(pixels)
        if before is None or len(before) < shape[0]:
            xp = namespace(like)
            sums = xp.zeros(shape, dtype=xp.result_type(like.dtype, xp.float32), device=like.device)
            if before is not None:
                sums[: len(before)] = before
            self.sums[pixels] = sums
        self.counts[pixels] = self.counts.get(pixels, 0) + 1
        return self.sums[pixels][: shape[0]]

    def mean(self, pixels: int) -> Array:
        """Over layers and steps, (B, N, K) or (B, heads, N, K)."""
        return self.sums[pixels] / self.counts[pixels]


def among(part: Array | None, rows: int) -> Array | None:
    """A table of the first rows of a batch as one of `rows` rows: indices point to themselves in the others, anything
    else is 0 there."""
    if part is None or len(part) == rows:
        return part
    xp = namespace(part)
    if part.dtype == xp.int64:
        return xp.concat([part, xp.arange(len(part), rows, device=part.device)])
    nothing = xp.zeros((rows - len(part), *part.shape[1:]), dtype=part.dtype, device=part.device)
    return xp.concat([part, nothing])
