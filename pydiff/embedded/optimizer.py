"""Muon for the weights of convolutions and linear layers, AdamW for everything else: a third fewer steps than AdamW.

Muon (Jordan et al. 2024) steps along the nearest orthogonal matrix to the momentum, found by five Newton-Schulz
iterations. Scaled so that its steps are as long as AdamW's (Liu et al. 2025, section 2.2), one rate serves both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
ITERATIONS = 5
OUTER = ("conv_in", "conv_out", "shared", "embed_tokens", "relative_attention_bias")
TEXT_SHARE = 0.2


def orthogonalized(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices of a stack (S, m, n), approximately: singular values end near 1, in bfloat16."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def make_optimizers(model: nn.Module, rate: float, weight_decay: float = 0.01) -> list[torch.optim.Optimizer]:
    """Muon for matrices between features, AdamW for embeddings, biases, norms and the layers that touch pixels.

    Every group's "share" is what part of the learning rate it takes: the text encoder has learned already.
    """
    groups: list[dict[str, Any]] = [
        {"params": list[nn.Parameter](), "share": share} for _ in range(2) for share in (1.0, TEXT_SHARE)
    ]
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and not any(end in name for end in OUTER)
        groups[2 * (not matrix) + name.startswith("text.")]["params"].append(parameter)
    inner, outer = ([group for group in pair if group["params"]] for pair in (groups[:2], groups[2:]))
    adam = torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)
    return [Muon(inner, lr=rate, weight_decay=weight_decay), adam]


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; parameters of two dimensions or more, taken as (out, in * kernel) matrices."""

    def __init__(self, parameters: Iterable[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.flatten(1).shape].append(parameter)
            for shape, parameters in alike.items():
                updates = orthogonalized(torch.stack([self._momentum(parameter) for parameter in parameters]))
                scale = 0.2 * max(shape) ** 0.5 * group["lr"]
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update.view_as(parameter), alpha=scale)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """Nesterov's look-ahead of the gradient's running mean, as a matrix."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(state["momentum"], MOMENTUM).flatten(1)
