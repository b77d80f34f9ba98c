"""A model's networks as functions of tensors alone: what each graph takes, makes, and computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from pydiff.cascade import Stage
from pydiff.folders.index import Index
from pydiff.models.autoencoder import Autoencoder
from pydiff.models.clip import inner
from pydiff.models.t5 import T5Encoder
from pydiff.models.unet import UNet
from pydiff.models.unet2d import UNet2D
from pydiff.models.unet_config import UNetConfig
from pydiff.nn.cond import Cond
from pydiff.runtime.manifest import AttentionLayer, Graph, Value
from pydiff.text.torch_networks import ClipRunner, T5Runner

POOLED = "pooled"  # input: whose pooled text a row is told
MICRO = {"aesthetic": 5, "sizes": 6}  # Stable Diffusion XL's added numbers
PICTURE = ("height", "width")


@dataclass(frozen=True)
class Network:
    """What becomes a graph: module takes the graph's inputs by name, in their order. least: the smallest side of a
    picture that it is traced with; bounds: of the integers that it takes, one more than the largest; edits: whether a
    second graph, in which attention is edited, is made of it too; precise: whether its weights stay float32;
    most_tokens: the longest text that it takes, None for any."""

    name: str
    module: nn.Module
    graph: Graph
    least: int = 1
    bounds: Mapping[str, int] = field(default_factory=dict)
    edits: bool = False
    precise: bool = False
    most_tokens: int | None = None


def networks_of(index: Index, stage: Stage) -> Iterator[Network]:
    """Those of a stage that stand in its own folder."""
    yield unet_network(stage)
    if stage.codec is not None:
        yield from autoencoder_networks(cast(Autoencoder, stage.codec))
    names = [name for name in sorted(index.values) if name.startswith("text_encoder") and index.has(name)]
    if names and stage.text is not None:
        for name, runner in zip(names, stage.text.runners, strict=True):
            yield text_network(name, runner)


def unet_network(stage: Stage) -> Network:
    """A U-Net: picture, timestep and conditioning to the prediction."""
    unet = cast("UNet | UNet2D", stage.unet)
    config, attention = unet.config, unet.attention
    layers = tuple(AttentionLayer(name, to, "text" in to) for name, to in attention.items())
    inputs = {
        "sample": _floats("batch", config.in_channels, *PICTURE),
        "timestep": _floats("batch"),
        **_told(stage, unet),
    }
    bounds = {} if config.num_class_embeds is None else {"class_labels": config.num_class_embeds}
    text = any(layer.text for layer in layers)
    if text and isinstance(config, UNetConfig) and config.addition_embed_type is not None:
        inputs[POOLED] = Value("int64", ("batch",))
        bounds[POOLED] = 1
    outputs = {"out_sample": _floats("batch", config.out_channels, *PICTURE)}
    graph = Graph(inputs, outputs, layers=layers)
    return Network("unet", UNetGraph(unet), graph, 2 ** (config.levels - 1), bounds, edits=text)


def _told(stage: Stage, unet: UNet | UNet2D) -> dict[str, Value]:
    """What a U-Net takes beside x and t."""
    config, made = unet.config, {}
    if unet.reads_text and isinstance(config, UNetConfig):
        made["encoder_hidden_states"] = _floats("batch", "tokens", config.text_dim)
        made["encoder_attention_mask"] = _floats("batch", "tokens")
    if config.num_class_embeds is not None:
        made["class_labels"] = Value("int64", ("batch",))
    elif config.class_embed_type is not None:
        width = config.labels_dim
        made["class_labels"] = _floats("batch") if width is None else _floats("batch", width)
    if isinstance(config, UNetConfig) and config.addition_embed_type == "text_time":
        numbers = MICRO[stage.traits["micro"]]
        pooled = (config.projection_class_embeddings_input_dim or 0) - numbers * (config.addition_time_embed_dim or 0)
        made |= {"text_embeds": _floats("batch", pooled), "time_ids": _floats("batch", numbers)}
    return made


def autoencoder_networks(codec: Autoencoder) -> Iterator[Network]:
    """Pictures to moments of latents, and latents to pictures."""
    config = codec.config
    picture, latents = _floats("batch", config.in_channels, *PICTURE), 2 * config.latent_channels
    small = ("latent_height", "latent_width")
    to_latents = Graph({"sample": picture}, {"moments": _floats("batch", latents, *small)}, divides=codec.factor)
    yield Network("vae_encoder", Moments(codec), to_latents, codec.factor, precise=config.force_upcast)
    taken = {"latent_sample": _floats("batch", config.latent_channels, *PICTURE)}
    to_pictures = Graph(taken, {"sample": _floats("batch", config.out_channels, "picture_height", "picture_width")})
    yield Network("vae_decoder", Pictures(codec), to_pictures, precise=config.force_upcast)


def text_network(name: str, runner: Any) -> Network:
    """A text encoder: token ids to states."""
    inputs = {"input_ids": Value("int64", ("batch", "tokens"))}
    outputs = {"states": _floats("batch", "tokens", runner.width)}
    bounds, most = {"attention_mask": 2}, None
    if isinstance(runner, T5Runner):
        module: nn.Module = T5Graph(runner.network)
        inputs["attention_mask"] = inputs["input_ids"]
        bounds["input_ids"] = runner.network.config.vocab_size
    else:
        module = ClipGraph(runner)
        if getattr(runner.config, "use_attention_mask", False):
            inputs["attention_mask"] = inputs["input_ids"]
        outputs |= {f"states_{skip}": outputs["states"] for skip in range(1, runner.most_skip + 1)}
        bounds["input_ids"], most = runner.config.vocab_size, runner.config.max_position_embeddings
        if runner.pooled_width is not None:
            outputs["pooled"] = _floats("batch", runner.pooled_width)
    return Network(name, module, Graph(inputs, outputs), bounds=bounds, most_tokens=most)


def _floats(*axes: int | str) -> Value:
    return Value("float32", axes)


class UNetGraph(nn.Module):
    """A U-Net of tensors. pooled (B,): the row whose pooled text a row is told."""

    def __init__(self, unet: UNet | UNet2D) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        class_labels: Tensor | None = None,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        added = None
        if text_embeds is not None and time_ids is not None:
            added = {"text_embeds": text_embeds, "time_ids": time_ids}
        cond = Cond(encoder_hidden_states, encoder_attention_mask, class_labels, added)
        prepared = self.unet.prepare(cond)
        if pooled is not None and prepared.emb is not None:
            prepared = prepared._replace(emb=prepared.emb.index_select(0, pooled))
        made: Tensor = self.unet(sample, timestep, prepared)
        return made


class Moments(nn.Module):
    """An autoencoder's first half."""

    def __init__(self, codec: Autoencoder) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, sample: Tensor) -> Tensor:
        return self.codec._moments(sample)


class Pictures(nn.Module):
    """Its second half."""

    def __init__(self, codec: Autoencoder) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.codec._picture(latent_sample)


class T5Graph(nn.Module):
    """A T5 encoder."""

    def __init__(self, network: T5Encoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.network(input_ids, attention_mask)
        return states


class ClipGraph(nn.Module):
    """A CLIP text network: its states after every layer that clip_skip may end at, the last one first, and what it
    projects of them."""

    def __init__(self, runner: ClipRunner) -> None:
        super().__init__()
        self.network, self.runner = runner.network, runner

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        out = self.network(input_ids, attention_mask=attention_mask, output_hidden_states=True)
        reading, most = self.runner.reading, self.runner.most_skip
        states = [out.hidden_states[-(reading.skip + skip + 1)] for skip in range(most + 1)]
        if reading.normed:
            states = [inner(self.network).final_layer_norm(one) for one in states]
        pooled = [out.text_embeds] if self.runner.pooled_width is not None else []
        return *states, *pooled


def example_inputs(network: Network, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Random tensors that the graph takes, its named axes of these sizes."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, (dtype, axes) in network.graph.inputs.items():
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in axes]
        made[name] = _example(name, dtype, shape, network.bounds, generator)
    return made


def _example(name: str, dtype: str, shape: list[int], bounds: Mapping[str, int], generator: torch.Generator) -> Tensor:
    if name == POOLED:
        return torch.arange(shape[0])
    if name.endswith("attention_mask"):  # the last token of every second row is not attended to
        mask = torch.ones(shape)
        mask[::2, 1:][..., -1:] = 0
        return mask.to(getattr(torch, dtype))
    if dtype == "int64":
        return torch.randint(bounds[name], shape, generator=generator)
    if name in ("timestep", "class_labels", "time_ids") and len(shape) < 3:
        return 1 + 900 * torch.rand(shape, generator=generator)
    return torch.randn(shape, generator=generator)
