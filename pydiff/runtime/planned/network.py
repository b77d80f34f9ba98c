"""A U-Net that runs by plans: the Denoiser of a stage on the CPU."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor

from pydiff.models.autoencoder import Autoencoder
from pydiff.models.unet import UNet
from pydiff.models.unet_config import UNetConfig
from pydiff.networks import Codec, Denoiser
from pydiff.nn.attention import GEGLU
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.resnet import ResnetBlock
from pydiff.ops import native
from pydiff.runtime.around import Around
from pydiff.runtime.planned.autoencoder import PlannedAutoencoder
from pydiff.runtime.planned.plan import Plan
from pydiff.runtime.planned.plans import Plans
from pydiff.runtime.planned.recorder import ACTS
from pydiff.runtime.planned.telling import Foresight, Tell, Times
from pydiff.runtime.planned.weights import Weights, fits_gate

MOST_PLANS = 8  # that wait for a call of their size
FARTHEST = 128  # steps of a run that are foreseen: more would take memory


def why_not(network: object) -> str | None:
    """Why a network is not run by plans; None where it is."""
    core = native.core()
    if core is None:
        return native.why_missing() or "the core is not there"
    if not hasattr(core, "Program"):
        return "the processor has no AVX-512"
    if not isinstance(network, (UNet, Autoencoder)):
        return f"it is a {type(network).__name__}; plans know {UNet.__name__} and {Autoencoder.__name__}"
    weight = network.like
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return f"its weights are {weight.dtype} on {weight.device}; plans run float32 and bfloat16 on the CPU"
    if weight.dtype == torch.bfloat16 and not core.bfloat16_products:
        return "the processor has no products of bfloat16"
    return _unknown(network)


def _unknown(network: UNet | Autoencoder) -> str | None:
    """What of its configuration plans do not know."""
    config = network.config
    acts: set[str | None] = {config.act_fn}
    if isinstance(config, UNetConfig):
        acts.add(config.time_embedding_act_fn)
    if unknown := acts - set(ACTS):
        return f"its activation is {unknown.pop()}; plans know {', '.join(filter(None, ACTS))}"
    if isinstance(config, UNetConfig) and config.timestep_post_act is not None:
        return f"it activates the embedding of t by {config.timestep_post_act}"
    if len({block.spec.skip_embed_act for block in network.modules() if isinstance(block, ResnetBlock)}) > 1:
        return "some of its residual blocks activate what they are told, and some do not"
    if not all(fits_gate(block.proj) for block in network.modules() if isinstance(block, GEGLU)):
        return "its gated layers are no multiple of 32 wide"
    odd = [count for count in config.block_out_channels if count % 2]
    return f"it has levels of {odd} channels; plans take even numbers" if odd else None


def planned(network: Denoiser, *, int8: bool = False) -> Denoiser:
    """The network run by plans where it can be, else as it is. int8: with products of bytes; ValueError where there are
    none."""
    why = why_not(network)
    if int8 and why is None and not cast(Any, native.core()).byte_products:
        why = "the processor has no products of bytes (AVX-512 VNNI)"
    if int8 and why is not None:
        raise ValueError(f"int8 is of networks that run as plans, but {why}; leave it out")
    return PlannedUNet(network, int8=int8) if isinstance(network, UNet) and why is None else network


def planned_codec(codec: Codec) -> Codec:
    """The same of an autoencoder."""
    return PlannedAutoencoder(codec) if isinstance(codec, Autoencoder) and why_not(codec) is None else codec


class PlannedUNet(Around):
    """See `pydiff.networks.Denoiser`. Weights are packed at the first call; every size of x has a plan of its own, and
    as many as calls run at once. Calls that need gradients, or put residual branches of other rows in a block's place
    (plug-and-play), are run by the module itself. Weights that change after the first call are not seen. int8: products
    of attention's layers, of those behind it, of shortcuts and of Winograd's convolutions are of bytes."""

    def __init__(self, module: UNet, *, int8: bool = False) -> None:
        super().__init__(module)
        weights = Weights(module.conv_in.weight.dtype, int8)

        def make(size: Hashable) -> Plan:
            shape, tokens, outer, merge = cast(tuple[tuple[int, int, int, int], int, bool, float], size)
            return Plan(module, weights, shape, tokens, outer, merge)

        self._plans = Plans(make, MOST_PLANS)
        self._foresights = Plans(lambda rows: Foresight(module, weights, cast(int, rows)), MOST_PLANS)

    def foreseen(self, prepared: Prepared, times: Sequence[float], /) -> Prepared:
        """See `pydiff.networks.Foreseeing`."""
        rows = 1 if prepared.emb is None else len(prepared.emb)
        steps = torch.tensor(times[:FARTHEST], dtype=torch.float32)
        added = None if prepared.emb is None else prepared.emb.repeat(len(steps), 1)
        told = Times(self.module.times(steps.repeat_interleave(rows)), added)
        with self._foresights.of(rows * len(steps)) as foresight:
            parts = foresight.run(told).unflatten(0, (len(steps), rows))
        return prepared._replace(foreseen=dict(zip(steps.tolist(), parts, strict=True)))

    def forward(self, x: Tensor, t: Tensor, cond: Cond | Prepared, /) -> Tensor:
        prepared = cond if isinstance(cond, Prepared) else self.prepare(cond)
        if _by_module(prepared):
            return self.module(x, t, prepared)
        with self._plan(x, t, prepared, outer=False) as plan:
            return self._run(plan, x, t, prepared)

    def reusing(self, x: Tensor, t: Tensor, prepared: Any, deep: Tensor | None, /) -> tuple[Tensor, Tensor]:
        """See `pydiff.step_cache`."""
        if _by_module(prepared):
            return self.module.reusing(x, t, prepared, deep)
        with self._plan(x, t, prepared, outer=deep is not None) as plan:
            if deep is not None:
                plan.deep.copy_(deep)
            made = self._run(plan, x, t, prepared)
            return made, plan.deep.clone() if deep is None else deep

    def _run(self, plan: Plan, x: Tensor, t: Tensor, prepared: Prepared) -> Tensor:
        given = 2 * x - 1 if self.config.center_input_sample else x
        return plan.run(given, self._tell(t, prepared, len(x)), prepared).to(x.dtype)

    def _tell(self, t: Tensor, prepared: Prepared, rows: int) -> Tell:
        """What blocks are told: as it was foreseen, where rows are told alike."""
        edited = prepared.edit is not None and prepared.edit.pooled is not None
        if prepared.foreseen is not None and not t.ndim and not edited:
            told: Tensor | None = prepared.foreseen.get(float(t))
            if told is not None:
                return told.expand(rows, -1)
        return Times(self.module.times(t.expand(rows)), self.module.told(prepared))

    def _plan(self, x: Tensor, t: Tensor, prepared: Prepared, outer: bool) -> AbstractContextManager[Plan]:
        self.module.check(x, t, prepared)
        tokens = prepared.text[0][0].shape[2] if prepared.text else 0
        return self._plans.of((tuple(x.shape), tokens, outer, prepared.merge))


def _by_module(prepared: Prepared) -> bool:
    """Whether the module itself runs a call."""
    return torch.is_grad_enabled() or (prepared.edit is not None and prepared.edit.features is not None)
