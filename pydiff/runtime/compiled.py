"""Networks by torch.compile: every kind of call compiled once, and never again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from pydiff.models.autoencoder import Autoencoder
from pydiff.models.coding import Coding
from pydiff.models.unet import UNet
from pydiff.models.unet2d import UNet2D
from pydiff.networks import Codec, Denoiser
from pydiff.runtime.around import Around
from pydiff.runtime.calls import ByRecording, Call, Place, ReusingByRecording
from pydiff.step_cache import Reusing

Backend = Callable[[torch.fx.GraphModule, list[Any]], Callable[..., Any]]  # of torch.compile
_COMPILING = threading.Lock()


class RecompiledError(RuntimeError):
    """A call that was compiled before would be compiled again."""


def check_mode(compile: bool | str) -> str | None:
    """The mode of torch.compile that `pydiff.load` is asked for; None: no compilation. Raises ValueError for others."""
    if isinstance(compile, bool):
        return "default" if compile else None
    from torch import _inductor  # a second of imports

    known = _inductor.list_mode_options()
    if compile not in known:
        raise ValueError(f"compile is {compile!r}; expected True, False or a mode of torch's: {', '.join(known)}")
    return compile


def inductor(mode: str) -> Backend:
    """torch's compiler in a mode, without CUDA graphs of its own: pydiff records the compiled call, see
    `pydiff.runtime.graphed`."""
    from torch import _inductor

    options = {**_inductor.list_mode_options(mode), "triton.cudagraphs": False}
    return lambda graph, given: _inductor.compile(graph, given, options)


class Once:
    """A function compiled by its first call as one graph of fixed shapes. Raises RecompiledError where a later call
    would be compiled, and torch's errors for what cannot be."""

    def __init__(self, run: Callable[..., Any], backend: Backend) -> None:
        self.backend, self.compiled = backend, False
        self.run = torch.compile(_own(run), backend=self._compile, fullgraph=True, dynamic=False)

    def __call__(self, *given: Any) -> Any:
        with nullcontext() if self.compiled else _COMPILING:
            try:
                return self.run(*given)
            except RuntimeError as error:
                inner = getattr(error, "inner_exception", None)
                if isinstance(inner, RecompiledError):
                    raise inner from None
                raise

    def _compile(self, graph: torch.fx.GraphModule, given: list[Any]) -> Callable[..., Any]:
        if self.compiled:
            raise RecompiledError(
                "a network call would be compiled a second time: after its first call the weights or a setting of "
                "torch (its default type, determinism, torch.compiler.reset) changed; load the model anew"
            )
        made = self.backend(graph, given)
        self.compiled = True
        return made


def _own(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a code object of its own, by which torch keeps and counts what it compiled."""

    def call(*given: Any) -> Any:
        return run(*given)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)


class ByKind:
    """What was compiled of a function, by the kind of its calls: kept as long as this is."""

    def __init__(self, run: Callable[..., Any], backend: Backend) -> None:
        self.run, self.backend = run, backend
        self.made: dict[Hashable, Once] = {}

    def of(self, *parts: Tensor | None) -> Once:
        """That of calls with tensors like these, under the present settings of torch."""
        places = tuple(part if part is None else (Place.of(part), part.is_inference()) for part in parts)
        key = (places, torch.is_inference_mode_enabled(), torch.get_num_threads())
        return self.made.get(key) or self.made.setdefault(key, Once(self.run, self.backend))


class Compiled(ByRecording):
    """A network whose calls are compiled at the first of their kind (shapes, layouts and types of all that they are
    given); t, x and text may then have any values."""

    def __init__(self, module: Around | Reusing, backend: Backend) -> None:
        super().__init__(module)
        self._kinds = ByKind(self._run, backend)

    def _recorded(self, call: Call, wanted: int) -> tuple[Tensor, ...]:
        made: tuple[Tensor, ...] = self._kinds.of(*call.parts())(call)
        return made


class CompiledUNet(Compiled, ReusingByRecording):
    """The same of a U-Net that is `pydiff.step_cache.Reusing`."""


class CompiledAutoencoder(Coding, nn.Module):
    """See `pydiff.networks.Codec`; calls that need gradients are the module's."""

    def __init__(self, module: Autoencoder, backend: Backend) -> None:
        super().__init__()
        self.module, self.config = module, module.config
        self._encoder, self._decoder = ByKind(module._moments, backend), ByKind(module._picture, backend)

    @property
    def like(self) -> Tensor:
        return self.module.like

    def _moments(self, image: Tensor) -> Tensor:
        return _through(self._encoder, image)

    def _picture(self, latents: Tensor) -> Tensor:
        return _through(self._decoder, latents)


def _through(kinds: ByKind, x: Tensor) -> Tensor:
    plain = torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type)
    made: Tensor = kinds.run(x) if plain else kinds.of(x)(x)
    return made


def compiled(network: Denoiser, backend: Backend) -> Denoiser:
    """The network compiled by a backend of torch.compile; what is no module of pydiff's as it is."""
    if not isinstance(network, (UNet, UNet2D)):
        return network
    kind = CompiledUNet if isinstance(network, Reusing) else Compiled
    return kind(network, backend)  # type: ignore[arg-type]


def compiled_codec(codec: Codec, backend: Backend) -> Codec:
    """The same of an autoencoder."""
    return CompiledAutoencoder(codec, backend) if isinstance(codec, Autoencoder) else codec
