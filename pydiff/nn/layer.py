"""Layers that can be named by who edits or captures what they do."""

from __future__ import annotations

from torch import nn


class Layer(nn.Module):
    """A module with its own name in the network that holds it: the one its weights have in a checkpoint."""

    name = ""


def name_layers(network: nn.Module) -> dict[str, Layer]:
    """Tell every Layer of a network its name; all of them by name."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, Layer)}
    for name, layer in layers.items():
        layer.name = name
    return layers
