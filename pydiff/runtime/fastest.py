"""How torch's networks are run: by plans on a CPU, as CUDA graphs on a GPU, compiled where that is asked."""

from __future__ import annotations

from dataclasses import replace

from pydiff.cascade import Cascade, Stage
from pydiff.networks import Codec, Denoiser
from pydiff.runtime.compiled import compiled, compiled_codec, inductor
from pydiff.runtime.graphed import graphed
from pydiff.runtime.planned import planned, planned_codec


def fastest(network: Denoiser, mode: str | None = None, *, int8: bool = False) -> Denoiser:
    """The network run by plans or CUDA graphs where it can be, else as it is; before that compiled, in a mode of
    torch.compile. int8: by plans, see `planned`."""
    return graphed(planned(network, int8=int8) if mode is None else compiled(network, inductor(mode)))


def fastest_codec(codec: Codec, mode: str | None = None) -> Codec:
    """The autoencoder run by plans where it can be, or compiled."""
    return planned_codec(codec) if mode is None else compiled_codec(codec, inductor(mode))


def fastest_cascade(cascade: Cascade, mode: str | None = None, *, int8: bool = False) -> Cascade:
    """The cascade with its networks run so."""

    def of(stage: Stage) -> Stage:
        codec = None if stage.codec is None else fastest_codec(stage.codec, mode)
        last = None if stage.last is None else fastest(stage.last, mode)
        return replace(stage, unet=fastest(stage.unet, mode, int8=int8), codec=codec, last=last)

    return replace(cascade, stages=tuple(map(of, cascade.stages)))
