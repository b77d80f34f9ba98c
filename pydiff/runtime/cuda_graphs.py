"""CUDA graphs of one network (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

WARM_UPS = 3  # calls before one is recorded, in which libraries choose and compile their kernels
_RECORDING = threading.Lock()  # torch records one graph of a process at a time


class CudaGraphs:
    """See `pydiff.runtime.graphed.Recorder`. The graphs share memory, which one leaves to the next: so they take turns,
    on whatever stream they are replayed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._stream = torch.cuda.Stream(device)  # that all memory is taken on
        self._memory = torch.cuda.graph_pool_handle()
        self._left = torch.cuda.Event()  # when the last turn's work is done

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._lock, torch.cuda.device(self.device):
            torch.cuda.current_stream().wait_event(self._left)
            try:
                yield
            finally:
                self._left.record()

    @contextmanager
    def aside(self) -> Iterator[None]:
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            yield
        here.wait_stream(self._stream)

    def record(self, run: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        with _RECORDING:
            with self.aside():
                for _ in range(WARM_UPS):
                    run()
            graph = torch.cuda.CUDAGraph()
            errors = "thread_local"  # what other threads do meanwhile is none
            with torch.cuda.graph(graph, pool=self._memory, stream=self._stream, capture_error_mode=errors):
                outputs = run()
        return graph.replay, outputs
