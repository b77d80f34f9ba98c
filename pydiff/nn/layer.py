"""Layers that can be named by who edits or captures what they do."""

from __future__ import annotations

from torch import Tensor, nn


class Layer(nn.Module):
    """A module with its own name in the network that holds it: the one its weights have in a checkpoint. attends: of
    attention, what to: "pixels", "text", or "text and pixels" in one softmax; None: a residual block."""

    name = ""
    attends: str | None = None


class Layered(nn.Module):
    """A network of such layers, whose modules begin with a convolution; see `pydiff.networks.Denoiser`."""

    layers: dict[str, Layer]
    conv_in: nn.Conv2d

    @property
    def like(self) -> Tensor:
        """One of its weights."""
        return self.conv_in.weight

    @property
    def attention(self) -> dict[str, str]:
        """What each layer of attention attends to, by its name, in the order of the modules."""
        return {name: layer.attends for name, layer in self.layers.items() if layer.attends is not None}

    @property
    def residual_layers(self) -> list[str]:
        """The names of the residual blocks, in the order of the modules."""
        return [name for name, layer in self.layers.items() if layer.attends is None]


def name_layers(network: nn.Module) -> dict[str, Layer]:
    """Tell every Layer of a network its name; all of them by name."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, Layer)}
    for name, layer in layers.items():
        layer.name = name
    return layers
