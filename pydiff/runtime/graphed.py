"""A network whose calls are recorded once and replayed over buffers: the Denoiser of a stage on a CUDA device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, cast

import torch
from torch import Tensor

from pydiff.models.unet import UNet
from pydiff.models.unet2d import UNet2D
from pydiff.networks import Denoiser
from pydiff.runtime.around import Around
from pydiff.runtime.calls import VARYING, ByRecording, Call, Place, ReusingByRecording, Run
from pydiff.runtime.compiled import Compiled
from pydiff.runtime.cuda_graphs import CudaGraphs
from pydiff.runtime.planned.plans import Plans
from pydiff.step_cache import Reusing

MOST_GRAPHS = 8  # of a network, those that were used last
Outputs = tuple[Tensor, ...]


class Recorder(Protocol):
    """What records the calls of one network, as `pydiff.runtime.cuda_graphs.CudaGraphs` does."""

    def turn(self) -> AbstractContextManager[None]:
        """Inside, no other thread records, replays, or reads what a replay left."""

    def aside(self) -> AbstractContextManager[None]:
        """Inside a turn: tensors that are made here are read and written in turns alone, on whatever stream."""

    def record(self, run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """What does again all that `run` does, on the same memory, and where its results are then."""


class RecordingError(Exception):
    """A call cannot be recorded; its message says why."""


class Graph:
    """A call recorded over buffers of its own, laid out as `places` say."""

    def __init__(self, run: Run, places: Sequence[Place | None], device: torch.device, recorder: Recorder) -> None:
        with recorder.aside():
            self.buffers = [None if place is None else _buffer(place, device) for place in places]
        self.held: list[Tensor | None] = [None] * len(places)  # what the buffers hold copies of
        call = Call.of(self.buffers)
        self.replay, self.outputs = recorder.record(lambda: run(call))

    def __call__(self, call: Call, wanted: int) -> Outputs:
        """Copies of the first results. Of what stays over the steps of a run, only what is another tensor than at the
        last call is copied in."""
        for index, (buffer, part) in enumerate(zip(self.buffers, call.parts(), strict=True)):
            if buffer is not None and part is not None and (index < VARYING or part is not self.held[index]):
                buffer.copy_(part)
                self.held[index] = part
        self.replay()
        return tuple(output.clone() for output in self.outputs[:wanted])


def _buffer(place: Place, device: torch.device) -> Tensor:
    """Zeros laid out in this way; dense where the place is not."""
    return torch.zeros_like(
        torch.empty_strided(place.shape, place.strides, dtype=place.dtype, device="meta"), device=device
    )


class Graphed(ByRecording):
    """Every kind of call (shapes, layouts and types of all that it is given, the outermost level alone or not) has a
    graph; calls of one network take turns. Where one cannot be recorded a warning says why, and from then on the module
    runs all. What is prepared must not change in place; weights may, but must stay where they are."""

    def __init__(self, module: Around | Reusing, recorder: Recorder) -> None:
        super().__init__(module)
        self.refused: str | None = None
        self._recorder = recorder
        self._graphs = Plans(self._graph, MOST_GRAPHS)

    def _recorded(self, call: Call, wanted: int) -> Outputs:
        made = self._replayed(call, wanted)
        return self._run(call) if made is None else made

    def _replayed(self, call: Call, wanted: int) -> Outputs | None:
        with self._recorder.turn():
            if self.refused is not None:
                return None
            try:
                with self._graphs.of(call.places()) as graph:
                    return graph(call, wanted)
            except RecordingError as error:
                self.refused = str(error)
                warnings.warn(f"a network runs without a CUDA graph, more slowly: {error}", stacklevel=2)
                return None

    def _graph(self, places: Hashable) -> Graph:
        try:
            return Graph(self._run, cast("tuple[Place | None, ...]", places), self.like.device, self._recorder)
        except RuntimeError as error:  # also memory that is out, and whatever CUDA cannot capture
            raise RecordingError(str(error)) from error


class GraphedUNet(Graphed, ReusingByRecording):
    """The same of a U-Net that is `pydiff.step_cache.Reusing`."""


def why_not(network: object) -> str | None:
    """Why a network is not run by graphs; None where it is."""
    if not isinstance(network, (UNet, UNet2D, Compiled)):
        return f"it is a {type(network).__name__}; graphs are of {UNet.__name__} and {UNet2D.__name__}, compiled or not"
    device = network.like.device.type
    return None if device == "cuda" else f"its weights are on {device}; graphs are CUDA's"


def graphed(network: Denoiser) -> Denoiser:
    """The network run by CUDA graphs where it can be, else as it is."""
    if why_not(network) is not None:
        return network
    kind = GraphedUNet if isinstance(network, Reusing) else Graphed
    return kind(network, CudaGraphs(network.like.device))  # type: ignore[arg-type]
