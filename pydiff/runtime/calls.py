"""Network calls as the tensors that they are given, and networks that run those alike by one recording."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from pydiff.nn.cond import Cond, Prepared
from pydiff.runtime.around import Around
from pydiff.step_cache import Reusing

VARYING = 2  # parts of a call that are others at every step: x, t


class Place(NamedTuple):
    """What of a tensor is fixed in a recording."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> Place:
        return cls(x.shape, x.stride(), x.dtype)


class Call(NamedTuple):
    """x (B, C, H, W), t () or (B,), what `prepare` made, without edit or merging, and deep: see `pydiff.step_cache`."""

    x: Tensor
    t: Tensor
    prepared: Prepared
    deep: Tensor | None = None

    def parts(self) -> tuple[Tensor | None, ...]:
        """Every tensor, or None where there is none."""
        emb, text, bias = self.prepared[:3]
        return self.x, self.t, self.deep, emb, bias, *chain.from_iterable(text)

    @classmethod
    def of(cls, parts: Sequence[Tensor | None]) -> Call:
        """The inverse of `parts`."""
        x, t, deep, emb, bias, *text = parts
        assert x is not None
        assert t is not None
        keys = tuple(zip(text[::2], text[1::2], strict=True))
        return cls(x, t, Prepared(emb, keys, bias), deep)  # type: ignore[arg-type]

    def places(self) -> tuple[Place | None, ...]:
        """Those of the parts: calls that have the same are alike."""
        return tuple(part if part is None else Place.of(part) for part in self.parts())


Run = Callable[[Call], tuple[Tensor, ...]]  # the prediction, and what came up to the outermost level if it is new


def run_of(module: Around | Reusing) -> Run:
    """The calls of a module."""
    if not isinstance(module, Reusing):
        return lambda call: (module(call.x, call.t, call.prepared),)
    reusing = module.reusing
    return lambda call: reusing(*call)[: 2 if call.deep is None else 1]


class ByRecording(Around, ABC):
    """Calls that need gradients, an edit or merged pixels, on another device than the weights or under autocast are the
    module's; all others are run by `_recorded`."""

    def __init__(self, module: Around | Reusing) -> None:
        super().__init__(module)  # type: ignore[arg-type]
        self._run = run_of(module)

    def forward(self, x: Tensor, t: Tensor, cond: Cond | Prepared, /) -> Tensor:
        return self._made(x, t, cond, None, 1)[0]

    @abstractmethod
    def _recorded(self, call: Call, wanted: int) -> tuple[Tensor, ...]:
        """The first `wanted` results of a checked call, or all."""

    def _made(
        self, x: Tensor, t: Tensor, cond: Cond | Prepared, deep: Tensor | None, wanted: int
    ) -> tuple[Tensor, ...]:
        prepared = cond if isinstance(cond, Prepared) else self.prepare(cond)
        call = Call(x, torch.as_tensor(t, device=x.device), prepared, deep)
        if self._by_module(call):
            return self._run(call)
        self.check(*call[:3])
        return self._recorded(call, wanted)

    def _by_module(self, call: Call) -> bool:
        autocast = torch.is_autocast_enabled(call.x.device.type)
        elsewhere = call.x.device != self.like.device
        other = call.prepared.edit is not None or call.prepared.merge > 0
        return torch.is_grad_enabled() or other or autocast or elsewhere


class ReusingByRecording(ByRecording):
    """The same of a network that is `pydiff.step_cache.Reusing`."""

    def reusing(self, x: Tensor, t: Tensor, prepared: Prepared, deep: Tensor | None, /) -> tuple[Tensor, Tensor]:
        """See `pydiff.step_cache`."""
        wanted = 2 if deep is None else 1
        made = self._made(x, t, prepared, deep, wanted)
        return made[0], made[1] if deep is None else deep
