"""Training states on disk: safetensors files, written to a temporary name and moved; never a pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pydiff.weights.files import write_whole

State = dict[str, Tensor]


def save(path: Path, tensors: State, facts: dict[str, Any]) -> None:
    """Write tensors and json facts as one file that is never half-written."""
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"facts": json.dumps(facts)}
    write_whole(path, lambda temporary: save_file(plain, temporary, metadata=metadata))


def load(path: Path) -> tuple[State, dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118


def part(state: State, prefix: str) -> State:
    """The tensors under a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def optimizers_state(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> State:
    """What the optimisers remember, by parameter name."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"optimizer.{names[parameter]}.{key}": torch.as_tensor(value)
        for optimizer in optimizers
        for parameter, kept in optimizer.state.items()
        for key, value in kept.items()
    }


def restore_optimizers(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], state: State) -> None:
    parameters = dict(model.named_parameters())
    owners = {p: optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for entry, value in part(state, "optimizer.").items():
        name, key = entry.rsplit(".", 1)
        owners[parameters[name]].state[parameters[name]][key] = value
