"""Changes to attention, and what is captured of it: values that ride in the conditioning of a network.

A row of a batch may borrow the attention of another (Hertz et al. 2022, Prompt-to-Prompt): the text columns of its map
become A[source] @ transfer + A * keep, and its self-attention may take the queries and keys of another row. Nothing
here knows of steps: a run has one AttentionEdit per noise level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionEdit(NamedTuple):
    """What is done to the attention of a batch of B rows and T tokens.

    source (B,): the row whose text map is borrowed, its own for a row that is left alone; transfer (B, T, T): where the
    borrowed attention of each source token goes; keep (B, T): what share of its own attention a token keeps. All three
    None: text attention is left alone. pixels: what becomes of pixel columns that stand in one softmax with the text:
    "rescale" so that rows sum to 1, "keep", or "borrow". self_source (B,): whose queries and keys self-attention takes,
    in layers of at most self_pixels pixels; there, pixel columns beside text are borrowed too. probe (B, T, K): what is
    captured of the text map A, as A @ probe.
    """

    tokens: int
    source: Tensor | None = None
    transfer: Tensor | None = None
    keep: Tensor | None = None
    pixels: str = "rescale"
    self_source: Tensor | None = None
    self_pixels: int = 0
    probe: Tensor | None = None

    def borrows(self, pixels: int) -> bool:
        """Whether self-attention over this many pixels takes another row's queries and keys."""
        return self.self_source is not None and pixels <= self.self_pixels

    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """source, transfer and keep; where only pixels are borrowed, those that leave the text alone."""
        if self.source is not None and self.transfer is not None and self.keep is not None:
            return self.source, self.transfer, self.keep
        assert self.self_source is not None
        rows, device = len(self.self_source), self.self_source.device
        transfer = torch.zeros(rows, self.tokens, self.tokens, device=device)
        return self.self_source, transfer, torch.ones(rows, self.tokens, device=device)

    def among(self, rows: int) -> AttentionEdit:
        """The same at the head of a batch of `rows`, the others left alone."""

        def index(part: Tensor | None) -> Tensor | None:
            return None if part is None else torch.cat([part, torch.arange(len(part), rows, device=part.device)])

        def padded(part: Tensor | None) -> Tensor | None:
            return None if part is None else torch.cat([part, part.new_zeros(rows - len(part), *part.shape[1:])])

        return self._replace(
            source=index(self.source),
            transfer=padded(self.transfer),
            keep=padded(self.keep),
            self_source=index(self.self_source),
            probe=padded(self.probe),
        )


class Heat:
    """Captured attention of a run: per number of pixels N the sum (B, N, K) over layers and steps, and of how many."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}

    def place(self, q: Tensor, probe: Tensor) -> Tensor:
        """Where a layer with queries (B, heads, N, d) adds its share (B, N, K)."""
        pixels = q.shape[2]
        if pixels not in self.sums:
            dtype = torch.promote_types(q.dtype, torch.float32)
            self.sums[pixels] = torch.zeros(len(q), pixels, probe.shape[2], dtype=dtype, device=q.device)
            self.counts[pixels] = 0
        self.counts[pixels] += 1
        return self.sums[pixels]

    def mean(self, pixels: int) -> Tensor:
        """Over layers and steps, (B, N, K)."""
        return self.sums[pixels] / self.counts[pixels]
