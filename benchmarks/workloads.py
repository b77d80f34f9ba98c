"""The networks that are compared: diffusers' own of published configurations with random weights, what they are given,
and pydiff's network of the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pydiff
from benchmarks import ours
from pydiff.cascade import Stage
from pydiff.diffusion.config import sampler_from_scheduler_config
from pydiff.export.graphs import Network, autoencoder_networks, unet_network
from pydiff.models.autoencoder import Autoencoder, AutoencoderConfig
from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.cond import Cond
from pydiff.pipeline import EMBEDDED

WEIGHTS = Path(pydiff.__file__).parent / "embedded" / "weights"
TOKENS, TIME = 77, 500
TITLES = {
    "embedded": "the embedded base, 64x64",
    "sd-toy": "a Stable Diffusion of 104 M parameters, 256x256",
    "if-toy": "an IF of 109 M parameters, 64x64",
    "sd15": "Stable Diffusion 1.5's configuration, 256x256",
    "if-i-m": "IF-I-M's configuration, 64x64",
    "vae": "Stable Diffusion's decoder, 256x256",
}
TEXT_ALONE = ("encoder_hid_proj", "add_embedding", "attn2.to_k", "attn2.to_v", "add_k_proj", "add_v_proj")
SD15: dict[str, Any] = {"cross_attention_dim": 768, "sample_size": 32}
IF_M: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 6,
    "sample_size": 64,
    "act_fn": "gelu",
    "block_out_channels": (192, 384, 576, 768),
    "layers_per_block": 3,
    "down_block_types": ("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
    "attention_head_dim": 64,
    "cross_attention_dim": 768,
    "encoder_hid_dim": 4096,
    "addition_embed_type": "text",
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "time_embedding_act_fn": "gelu",
}
SD_TOY = SD15 | {
    "block_out_channels": (128, 256, 512),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
}
IF_TOY = IF_M | {
    "block_out_channels": (128, 256, 384, 512),
    "layers_per_block": 2,
    "cross_attention_dim": 512,
    "encoder_hid_dim": 512,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
}


class Flops(NamedTuple):
    """Floating-point operations of a call, two to a multiplication and addition: of the whole call, and of what in it
    depends on the text alone, which pydiff computes once for a run."""

    whole: int
    text: int


class Workload(NamedTuple):
    """A network of diffusers as a function of tensors, and what it is given, in float32; the same as a graph for ONNX
    and its inputs; and pydiff's ways to make the same, and nearly the same in int8."""

    title: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    network: Network
    feeds: Mapping[str, Tensor]
    ours: Callable[[], dict[str, Callable[[], Tensor]]]
    in_int8: Callable[[], Callable[[], Tensor]] | None = None

    @property
    def parameters(self) -> int:
        return sum(value.numel() for value in self.module.parameters())


class Denoising(nn.Module):
    """A U-Net's prediction."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        made: Tensor = self.unet(x, TIME, text, return_dict=False)[0]
        return made


class Decoding(nn.Module):
    """An autoencoder's pictures."""

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents: Tensor) -> Tensor:
        made: Tensor = self.codec.decode(latents, return_dict=False)[0]
        return made


def random_weights(network: Any, seed: int = 0) -> Any:
    """Weights of trained scale: a layer's outputs have the variance of its inputs, norms are near 1, biases near 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            spread = (3 / value.shape[1:].numel()) ** 0.5 if value.ndim > 1 else 0.1
            value.uniform_(-spread, spread, generator=generator)
            if value.ndim == 1 and name.endswith("weight"):
                value.add_(1)
    return network.eval()


def unet_workload(title: str, theirs: Any, shape: tuple[int, ...], device: str) -> Workload:
    """One guided call: rows of text and of no text."""
    theirs = theirs.requires_grad_(False).to(device)
    with torch.device("meta"):
        own = UNet(UNetConfig.from_dict(dict(theirs.config))).eval()
    own.load_state_dict(theirs.state_dict(), assign=True)
    own.requires_grad_(False)
    torch.manual_seed(0)
    x = torch.randn(2, *shape, device=device)
    text = torch.randn(2, TOKENS, own.config.text_dim, device=device)
    sampling = sampler_from_scheduler_config({"_class_name": "DDIMScheduler"})
    network = unet_network(Stage(own, sampling, (64, 64), pydiff.load().cascade.stages[0].defaults))
    feeds = {
        "sample": x,
        "timestep": torch.full((2,), float(TIME)),
        "encoder_hidden_states": text,
        "encoder_attention_mask": torch.ones(2, TOKENS),
    }
    call = own, x, torch.tensor(TIME, device=device), Cond(text)
    made = partial(ours.contenders, *call), partial(ours.in_int8, *call)
    return Workload(title, Denoising(theirs), (x, text), network, feeds, *made)


def embedded(device: str) -> Workload:
    from diffusers import UNet2DConditionModel

    theirs = UNet2DConditionModel.from_pretrained(WEIGHTS / EMBEDDED[0] / "unet")  # in evaluation mode
    return unet_workload(TITLES["embedded"], theirs, (3, 64, 64), device)


def of_config(name: str, config: Mapping[str, Any]) -> Callable[[str], Workload]:
    def make(device: str) -> Workload:
        from diffusers import UNet2DConditionModel

        with torch.device("meta"):
            theirs: Any = UNet2DConditionModel(**config)
        side = config["sample_size"]
        shape = (config.get("in_channels", 4), side, side)
        return unet_workload(TITLES[name], random_weights(theirs.to_empty(device="cpu")), shape, device)

    return make


def decoder(device: str) -> Workload:
    from diffusers import AutoencoderKL

    theirs: Any = random_weights(AutoencoderKL(**VAE)).requires_grad_(False).to(device)
    own = Autoencoder(AutoencoderConfig.from_dict(dict(theirs.config))).eval()
    own.load_state_dict(theirs.state_dict(), assign=True)
    own.requires_grad_(False)
    torch.manual_seed(0)
    latents = torch.randn(1, 4, 32, 32, device=device)
    _, network = autoencoder_networks(own)
    module = Decoding(theirs)
    feeds = {"latent_sample": latents}
    return Workload(TITLES["vae"], module, (latents,), network, feeds, lambda: ours.decoders(own, latents))


WORKLOADS: dict[str, Callable[[str], Workload]] = {
    "embedded": embedded,
    "sd-toy": of_config("sd-toy", SD_TOY),
    "if-toy": of_config("if-toy", IF_TOY),
    "sd15": of_config("sd15", SD15),
    "if-i-m": of_config("if-i-m", IF_M),
    "vae": decoder,
}


def flops(workload: Workload) -> Flops:
    """Counted by torch, of diffusers' network: convolutions and matrix products, not what is between."""
    memo: dict[int, Any] = {id(value): value.to("meta") for value in workload.module.buffers()}
    for value in workload.module.parameters():
        memo[id(value)] = nn.Parameter(value.to("meta"), requires_grad=False)
    counter = FlopCounterMode(display=False)
    with counter:
        copy.deepcopy(workload.module, memo)(*(given.to("meta") for given in workload.inputs))
    counts: Mapping[str, Mapping[Any, int]] = counter.get_flop_counts()
    text = sum(sum(count.values()) for name, count in counts.items() if name.endswith(TEXT_ALONE))
    return Flops(int(counter.get_total_flops()), text)
