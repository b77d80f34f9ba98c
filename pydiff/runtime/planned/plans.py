"""Plans that wait for calls of their size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

Made = TypeVar("Made")


class Plans(Generic[Made]):
    """Plans by their size, each used by one call at a time; `make` makes one. At most `most` wait for a call, those
    that were used last."""

    def __init__(self, make: Callable[[Hashable], Made], most: int) -> None:
        self.make, self.most = make, most
        self.idle: list[tuple[Hashable, Made]] = []
        self.lock = threading.Lock()

    @contextmanager
    def of(self, size: Hashable) -> Iterator[Made]:
        """One of this size: one that waits, or a new one."""
        with self.lock:
            found = next((index for index, (of, _) in enumerate(self.idle) if of == size), None)
            plan = None if found is None else self.idle.pop(found)[1]
            if plan is None:
                with torch.inference_mode(False), torch.no_grad():  # what is made stays after this call
                    plan = self.make(size)
        try:
            yield plan
        finally:
            with self.lock:
                self.idle.append((size, plan))
                del self.idle[: -self.most]
