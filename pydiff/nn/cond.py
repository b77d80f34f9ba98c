"""The conditioning of a network: one immutable value, passed down to every block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydiff.arrays import Array, namespace
from pydiff.nn.edit import AttentionEdit


class Cond(NamedTuple):
    """What a network is told beside x and t, as the user has it. edit: what is done to its attention."""

    text: Array | None  # (B, T, D) states of the text encoder
    mask: Array | None = None  # (B, T) 1 = attend, 0 = do not; None = attend to all
    labels: Array | None = None  # (B,) noise level of the low-res picture, or class
    added: Mapping[str, Array] | None = None  # Stable Diffusion XL: text_embeds (B, P), time_ids (B, 6)
    edit: AttentionEdit | None = None

    def of(self, rows: slice) -> Cond:
        """That of some rows, without an edit."""
        text, mask, labels = (None if part is None else part[rows] for part in (self.text, self.mask, self.labels))
        added = self.added and {name: value[rows] for name, value in self.added.items()}
        return Cond(text, mask, labels, added)

    def repeated(self, times: int) -> Cond:
        """All rows, so many times one after the other, without an edit."""
        return together([self] * times)


def together(conds: Sequence[Cond]) -> Cond:
    """Conditionings one after the other, as one batch without an edit."""
    first = conds[0]
    if len(conds) == 1:
        return first
    parts: dict[str, Any] = {
        name: _joined([getattr(cond, name) for cond in conds]) for name in ("text", "mask", "labels")
    }
    added = first.added and {name: _joined([(cond.added or {})[name] for cond in conds]) for name in first.added}
    return Cond(**parts, added=added)


def _joined(parts: Sequence[Any]) -> Any:
    """Rows one after the other; None where the first is."""
    return None if parts[0] is None else namespace(*parts).concat(parts)


class Prepared(NamedTuple):
    """What a network computes from a Cond alone: constant over the steps of a run, but for the edit, which a run
    replaces. merge: the share of pixels that are merged with others before they attend (`pydiff.nn.merge`).
    Made by `UNet.prepare`."""

    emb: Array | None  # (B, E) added to the embedding of t
    text: tuple[tuple[Array, Array], ...]  # keys and values (B, heads, T, d) of the text, per layer that reads it
    bias: Array | None  # (B, 1, 1, T) added to the scores of the text: 0 = attend, -10000 = do not
    edit: AttentionEdit | None = None
    merge: float = 0.0
    foreseen: Mapping[float, Any] | None = None  # what is the network's own, by t (`pydiff.networks.Foreseeing`)


UNCONDITIONED = Prepared(None, (), None)  # of networks that are told nothing
