"""Layers that can be named by who edits or captures what they do."""

from __future__ import annotations

from torch import Tensor, nn


class Layer(nn.Module):
    """A module with its own name in the network that holds it: the one its weights have in a checkpoint. attends: of
    attention, what to: "pixels", "text", or "text and pixels" in one softmax; None: a residual block. merges: whether
    its pixels may be merged (`pydiff.nn.merge`): those of the outermost level that attends to any."""

    name = ""
    attends: str | None = None
    merges = False


class Layered(nn.Module):
    """A network of such layers, whose modules begin with a convolution; see `pydiff.networks.Denoiser`."""

    layers: dict[str, Layer]
    conv_in: nn.Conv2d
    down_blocks: nn.ModuleList
    mid_block: nn.Module | None
    up_blocks: nn.ModuleList

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


def name_layers(network: Layered) -> dict[str, Layer]:
    """Tell every Layer of a network its name, and whether it merges; all of them by name."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, Layer)}
    for name, layer in layers.items():
        layer.name = name
    for layer in _outermost(network):
        layer.merges = True
    return layers


def _outermost(network: Layered) -> list[Layer]:
    """The layers that attend to pixels at the largest size at which there are any."""
    levels = [nn.ModuleList(level) for level in zip(network.down_blocks, reversed(network.up_blocks), strict=True)]
    if network.mid_block is not None:
        levels[-1].append(network.mid_block)
    found = (
        [one for one in level.modules() if isinstance(one, Layer) and "pixels" in (one.attends or "")]
        for level in levels
    )
    return next(filter(None, found), [])
