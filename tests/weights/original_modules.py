"""The networks of Stable Diffusion's original code, as far as the names and shapes of their tensors go.

Built from the fields of the original YAML files, module by module: nothing here counts blocks as diffusers does.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection


def bag(**modules: nn.Module) -> nn.Module:
    made = nn.Module()
    for name, module in modules.items():
        made.add_module(name, module)
    return made


def conv(channels: int, out: int, kernel: int) -> nn.Module:
    return nn.Conv2d(channels, out, kernel)


def res_block(channels: int, out: int, emb: int) -> nn.Module:
    made = bag(
        in_layers=nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), conv(channels, out, 3)),
        emb_layers=nn.Sequential(nn.SiLU(), nn.Linear(emb, out)),
        out_layers=nn.Sequential(nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(), conv(out, out, 3)),
    )
    if channels != out:
        made.skip_connection = conv(channels, out, 1)
    return made


def cross_attention(width: int, context: int) -> nn.Module:
    return bag(
        to_q=nn.Linear(width, width, bias=False),
        to_k=nn.Linear(context, width, bias=False),
        to_v=nn.Linear(context, width, bias=False),
        to_out=nn.Sequential(nn.Linear(width, width), nn.Dropout()),
    )


def transformer(width: int, context: int, depth: int, linear: bool, disable_self: bool) -> nn.Module:
    blocks = [
        bag(
            attn1=cross_attention(width, context if disable_self else width),
            ff=bag(net=nn.Sequential(bag(proj=nn.Linear(width, 8 * width)), nn.Dropout(), nn.Linear(4 * width, width))),
            attn2=cross_attention(width, context),
            norm1=nn.LayerNorm(width),
            norm2=nn.LayerNorm(width),
            norm3=nn.LayerNorm(width),
        )
        for _ in range(depth)
    ]
    project = nn.Linear if linear else (lambda a, b: conv(a, b, 1))
    return bag(
        norm=nn.GroupNorm(32, width),
        proj_in=project(width, width),
        transformer_blocks=nn.ModuleList(blocks),
        proj_out=project(width, width),
    )


def unet(p: dict[str, Any]) -> nn.Module:
    mults, base, emb = p["channel_mult"], p["model_channels"], 4 * p["model_channels"]
    depths = (
        p["transformer_depth"] if isinstance(p["transformer_depth"], list) else [p["transformer_depth"]] * len(mults)
    )
    context, linear = p["context_dim"], p.get("use_linear_in_transformer", False)
    disabled = p.get("disable_self_attentions", [False] * len(mults))

    def attention(level: int, width: int) -> list[nn.Module]:
        if 2**level not in p["attention_resolutions"]:
            return []
        return [transformer(width, context, depths[level], linear, disabled[level])]

    down, widths, width = [nn.Sequential(conv(p["in_channels"], base, 3))], [base], base
    for level, mult in enumerate(mults):
        for _ in range(p["num_res_blocks"]):
            down.append(nn.Sequential(res_block(width, base * mult, emb), *attention(level, base * mult)))
            width = base * mult
            widths.append(width)
        if level < len(mults) - 1:
            down.append(nn.Sequential(bag(op=conv(width, width, 3))))
            widths.append(width)
    middle = [res_block(width, width, emb), transformer(width, context, depths[-1], linear, False)]
    middle.append(res_block(width, width, emb))
    up = []
    for level, mult in reversed(list(enumerate(mults))):
        for layer in range(p["num_res_blocks"] + 1):
            parts = [res_block(width + widths.pop(), base * mult, emb), *attention(level, base * mult)]
            width = base * mult
            if level and layer == p["num_res_blocks"]:
                parts.append(bag(conv=conv(width, width, 3)))
            up.append(nn.Sequential(*parts))
    made = bag(
        time_embed=nn.Sequential(nn.Linear(base, emb), nn.SiLU(), nn.Linear(emb, emb)),
        input_blocks=nn.ModuleList(down),
        middle_block=nn.Sequential(*middle),
        output_blocks=nn.ModuleList(up),
        out=nn.Sequential(nn.GroupNorm(32, base), nn.SiLU(), conv(base, p["out_channels"], 3)),
    )
    if p.get("num_classes") == "sequential":
        pooled = nn.Sequential(nn.Linear(p["adm_in_channels"], emb), nn.SiLU(), nn.Linear(emb, emb))
        made.label_emb = nn.Sequential(pooled)
    elif "num_classes" in p:
        made.label_emb = nn.Embedding(p["num_classes"], emb)
    return made


def coder_block(channels: int, out: int) -> nn.Module:
    made = bag(
        norm1=nn.GroupNorm(32, channels),
        conv1=conv(channels, out, 3),
        norm2=nn.GroupNorm(32, out),
        conv2=conv(out, out, 3),
    )
    if channels != out:
        made.nin_shortcut = conv(channels, out, 1)
    return made


def coder_middle(width: int) -> nn.Module:
    attention = bag(
        norm=nn.GroupNorm(32, width), **{name: conv(width, width, 1) for name in ("q", "k", "v", "proj_out")}
    )
    return bag(block_1=coder_block(width, width), attn_1=attention, block_2=coder_block(width, width))


def autoencoder(p: dict[str, Any]) -> nn.Module:
    widths, z, layers = [p["ch"] * mult for mult in p["ch_mult"]], p["z_channels"], p["num_res_blocks"]
    top, down, up = widths[-1], [], []
    width = p["ch"]
    for level, out in enumerate(widths):
        blocks = [coder_block(width if layer == 0 else out, out) for layer in range(layers)]
        down.append(bag(block=nn.ModuleList(blocks), attn=nn.ModuleList()))
        width = out
        if level < len(widths) - 1:
            down[-1].downsample = bag(conv=conv(out, out, 3))
    for level, out in reversed(list(enumerate(widths))):
        blocks = [coder_block(width if layer == 0 else out, out) for layer in range(layers + 1)]
        up.insert(0, bag(block=nn.ModuleList(blocks), attn=nn.ModuleList()))
        width = out
        if level > 0:
            up[0].upsample = bag(conv=conv(out, out, 3))
    encoder = bag(
        conv_in=conv(p["in_channels"], p["ch"], 3),
        down=nn.ModuleList(down),
        mid=coder_middle(top),
        norm_out=nn.GroupNorm(32, top),
        conv_out=conv(top, 2 * z, 3),
    )
    decoder = bag(
        conv_in=conv(z, top, 3),
        mid=coder_middle(top),
        up=nn.ModuleList(up),
        norm_out=nn.GroupNorm(32, p["ch"]),
        conv_out=conv(p["ch"], p["out_ch"], 3),
    )
    return bag(encoder=encoder, decoder=decoder, quant_conv=conv(2 * z, 2 * z, 1), post_quant_conv=conv(z, z, 1))


def open_clip(p: dict[str, int]) -> nn.Module:
    width = p["hidden_size"]
    blocks = []
    for _ in range(p["num_hidden_layers"]):
        mlp = bag(c_fc=nn.Linear(width, p["intermediate_size"]), c_proj=nn.Linear(p["intermediate_size"], width))
        attention = nn.MultiheadAttention(width, 1)
        blocks.append(bag(ln_1=nn.LayerNorm(width), attn=attention, ln_2=nn.LayerNorm(width), mlp=mlp))
    made = bag(
        transformer=bag(resblocks=nn.ModuleList(blocks)),
        token_embedding=nn.Embedding(p["vocab_size"], width),
        ln_final=nn.LayerNorm(width),
    )
    made.positional_embedding = nn.Parameter(torch.zeros(p["max_position_embeddings"], width))
    made.text_projection = nn.Parameter(torch.zeros(width, p["projection_dim"]))
    made.logit_scale = nn.Parameter(torch.zeros(()))
    return made


def clip(p: dict[str, int]) -> nn.Module:
    model = CLIPTextModelWithProjection(CLIPTextConfig(**p, num_attention_heads=1))
    return bag(text_model=model.text_model)


def checkpoint(spec: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a whole file, on torch's default device; random, so that no two are alike."""
    made = bag(model=bag(diffusion_model=unet(spec["unet"])), first_stage_model=autoencoder(spec["autoencoder"]))
    tensors = made.state_dict()
    for prefix, p in spec["texts"].items():
        module = clip(p) if prefix.endswith("transformer.") else open_clip(p)
        tensors |= {prefix + name: tensor for name, tensor in module.state_dict().items()}
    return {name: torch.randn(tensor.shape) for name, tensor in tensors.items()}


def write_hollow(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A safetensors file of half-precision tensors whose data are a hole in the file."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with path.open("r+b") as file:
        file.truncate(8 + len(text) + end)
    return path
