"""Weights read last: of all networks of a model everything else is checked before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WAITING: ContextVar[list[Callable[[], object]] | None] = ContextVar("_WAITING", default=None)


@contextmanager
def weights_last() -> Iterator[None]:
    """Of the networks opened in this block all is checked but their values; weights are read at its end, in the order
    of opening. Where the block raises, none are."""
    waiting: list[Callable[[], object]] = []
    token = _WAITING.set(waiting)
    try:
        yield
    finally:
        _WAITING.reset(token)
    for action in waiting:
        action()


def when_read(action: Callable[[], object]) -> None:
    """Do what needs the weights of networks opened so far: now, or at the end of the block of `weights_last`."""
    waiting = _WAITING.get()
    if waiting is None:
        action()
    else:
        waiting.append(action)
