"""Training states on disk: safetensors files, written to a temporary name and moved; never a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Tensor]


def save(path: Path, tensors: State, facts: dict[str, Any]) -> None:
    """Write tensors and json facts as one file that is never half-written."""
    temporary = path.with_suffix(".partial")
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(plain, temporary, metadata={"facts": json.dumps(facts)})
    os.replace(temporary, path)


def load(path: Path) -> tuple[State, dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118


def part(state: State, prefix: str) -> State:
    """The tensors under a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """AdamW's moments by parameter name."""
    return {
        f"adam.{key}.{name}": optimizer.state[parameter][key]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key in ("step", "exp_avg", "exp_avg_sq")
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    for name, parameter in model.named_parameters():
        if f"adam.step.{name}" in state:
            optimizer.state[parameter] = {key: state[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
