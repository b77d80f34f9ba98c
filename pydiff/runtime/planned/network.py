"""A U-Net that runs by plans: the Denoiser of a stage on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pydiff.cascade import Cascade
from pydiff.models.unet import UNet
from pydiff.models.unet_config import UNetConfig
from pydiff.networks import Denoiser
from pydiff.nn.attention import GEGLU
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.layer import Layer
from pydiff.nn.resnet import ResnetBlock
from pydiff.ops import native
from pydiff.runtime.planned.plan import Plan
from pydiff.runtime.planned.recorder import ACTS
from pydiff.runtime.planned.weights import Weights, fits_gate

MOST_PLANS = 8  # that wait for a call of their size


def why_not(unet: UNet) -> str | None:
    """Why a U-Net is not run by plans; None where it is."""
    core, weight = native.core(), unet.conv_in.weight
    if core is None:
        return native.why_missing() or "the core is not there"
    if not hasattr(core, "Program"):
        return "the processor has no AVX-512"
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return f"its weights are {weight.dtype} on {weight.device}; plans run float32 and bfloat16 on the CPU"
    if weight.dtype == torch.bfloat16 and not core.bfloat16_products:
        return "the processor has no products of bfloat16"
    return _unknown(unet)


def _unknown(unet: UNet) -> str | None:
    """What of its configuration plans do not know."""
    blocks = [block for block in unet.modules() if isinstance(block, ResnetBlock)]
    acts = {unet.config.act_fn, unet.config.time_embedding_act_fn} - set(ACTS)
    if acts or unet.config.timestep_post_act is not None:
        named = [*acts, unet.config.timestep_post_act][0]
        return f"its activation is {named}; plans know {', '.join(filter(None, ACTS))}"
    if len({block.spec.skip_embed_act for block in blocks}) > 1:
        return "some of its residual blocks activate what they are told, and some do not"
    if not all(fits_gate(block.proj) for block in unet.modules() if isinstance(block, GEGLU)):
        return "its gated layers are no multiple of 32 wide"
    odd = [c for c in unet.config.block_out_channels if c % 2]
    return f"it has levels of {odd} channels; plans take even numbers" if odd else None


def planned(network: Denoiser) -> Denoiser:
    """The network run by plans where it can be, else as it is."""
    return PlannedUNet(network) if isinstance(network, UNet) and why_not(network) is None else network


def plan_cascade(cascade: Cascade) -> Cascade:
    """The cascade with its networks run by plans where they can be."""
    stages = tuple(replace(stage, unet=planned(stage.unet)) for stage in cascade.stages)
    return replace(cascade, stages=stages)


class PlannedUNet(nn.Module):
    """See `pydiff.networks.Denoiser`. Weights are packed at the first call; every size of x has a plan of its own, and
    as many as calls run at once. Calls that need gradients, or put residual branches of other rows in a block's place
    (plug-and-play), are run by the module itself. Weights that change after the first call are not seen."""

    def __init__(self, module: UNet) -> None:
        super().__init__()
        self.module = module
        self._weights = Weights(module.conv_in.weight.dtype)
        self._idle: list[tuple[tuple[int, ...], Plan]] = []
        self._lock = threading.Lock()

    @property
    def config(self) -> UNetConfig:
        return self.module.config

    @property
    def like(self) -> Tensor:
        return self.module.like

    @property
    def reads_text(self) -> bool:
        return self.module.reads_text

    @property
    def attention(self) -> Mapping[str, str]:
        return self.module.attention

    @property
    def residual_layers(self) -> Sequence[str]:
        return self.module.residual_layers

    @property
    def layers(self) -> Mapping[str, Layer]:
        return self.module.layers

    def prepare(self, cond: Cond) -> Prepared:
        return self.module.prepare(cond)

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
        times, added = self.module.times(t.expand(x.shape[0])), self.module.told(prepared)
        return plan.run(2 * x - 1 if self.config.center_input_sample else x, times, added, prepared).to(x.dtype)

    @contextmanager
    def _plan(self, x: Tensor, t: Tensor, prepared: Prepared, outer: bool) -> Iterator[Plan]:
        """An idle plan of this size, or a new one; the one that waited longest makes room."""
        self.module.check(x, t, prepared)
        batch, channels, height, width = x.shape
        tokens = prepared.text[0][0].shape[2] if prepared.text else 0
        size = (batch, channels, height, width, tokens, outer)
        with self._lock:
            found = next((index for index, (of, _) in enumerate(self._idle) if of == size), None)
            plan = None if found is None else self._idle.pop(found)[1]
            if plan is None:
                with torch.inference_mode(False), torch.no_grad():  # what is made stays after this call
                    plan = Plan(self.module, self._weights, (batch, channels, height, width), tokens, outer)
        try:
            yield plan
        finally:
            with self._lock:
                self._idle.append((size, plan))
                del self._idle[:-MOST_PLANS]


def _by_module(prepared: Prepared) -> bool:
    """Whether the module itself runs a call."""
    return torch.is_grad_enabled() or (prepared.edit is not None and prepared.edit.features is not None)
