"""Tiny random CLIP text networks and tokenizers in pipeline folders, and what diffusers' own functions make of them.

Query and key weights are scaled up and norms are random, so that attention matters; merges are few, so that words are
several tokens long.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.pipelines.deprecated.unclip.pipeline_unclip import UnCLIPPipeline
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

MERGES = [("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("t", "h")]
END = 2 * 256 + len(MERGES) + 1  # the id of the last token
PROMPTS = ["", "a red cat", "A Red  CAT, left of the dog's (blue) Häuschen 星 🐱!", "a <|endoftext|> dog"]
INDEX = {
    "sd": ("StableDiffusionPipeline", {"text_encoder": CLIPTextModel}),
    "xl": (
        "StableDiffusionXLPipeline",
        {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection},
    ),
    "refiner": ("StableDiffusionXLImg2ImgPipeline", {"text_encoder_2": CLIPTextModelWithProjection}),
    "unclip": ("UnCLIPPipeline", {"text_encoder": CLIPTextModelWithProjection}),
}


def write_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> None:
    """As published before tokenizer.json was: a vocabulary, merges, and what is special."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, MERGES)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    special = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    end, start = ({"content": f"<|{name}oftext|>", **special} for name in ("end", "start"))
    tokens = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad}
    config = {"model_max_length": 77, "name_or_path": "openai/clip", "tokenizer_class": "CLIPTokenizer"}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in MERGES))
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_network(kind: type, seed: int, **changes: Any) -> Any:
    torch.manual_seed(seed)
    fields = {
        "vocab_size": 600, "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4,
        "num_hidden_layers": 4, "projection_dim": 24, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    network = kind(CLIPTextConfig(**{**fields, **changes})).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "q_proj.weight" in name or "k_proj.weight" in name:
                parameter.mul_(8)
            elif parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def make_folder(folder: Path, family: str, zeros: bool = True, **changes: Any) -> Any:
    """A pipeline folder of that family, of which only the text parts are there, and diffusers' pipeline as far as its
    encode_prompt goes."""
    name, parts = INDEX[family]
    index: dict[str, Any] = {"_class_name": name, "force_zeros_for_empty_prompt": zeros, "text_encoder": [None, None]}
    made: dict[str, Any] = {"text_encoder": None, "tokenizer": None, "text_encoder_2": None, "unet": None}
    for seed, (part, kind) in enumerate(parts.items()):
        width = {"hidden_size": 48, "hidden_act": "gelu", "eos_token_id": END} if part.endswith("2") else {}
        words = part.replace("text_encoder", "tokenizer")
        made[part] = make_network(kind, seed, **{**width, **changes})
        write_tokenizer(folder / words, pad="!" if part.endswith("2") else "<|endoftext|>")
        made[words] = CLIPTokenizer.from_pretrained(folder / words)
        assert made[words].eos_token_id == END
        made[part].save_pretrained(folder / part)
        index |= {part: ["transformers", kind.__name__], words: ["transformers", "CLIPTokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return SimpleNamespace(**made, config=SimpleNamespace(force_zeros_for_empty_prompt=zeros))


def sd_states(peer: Any, prompts: list[str], negatives: list[str] | None, clip_skip: int | None) -> Any:
    """(states, negative states) of StableDiffusionPipeline."""
    object.__setattr__(peer.text_encoder, "text_model", peer.text_encoder)  # diffusers looks for the norm in there
    try:
        with torch.no_grad():
            return StableDiffusionPipeline.encode_prompt(
                peer, prompts, "cpu", 1, True, negative_prompt=negatives, clip_skip=clip_skip
            )
    finally:
        object.__delattr__(peer.text_encoder, "text_model")


def xl_states(peer: Any, prompts: list[str], **call: Any) -> Any:
    """(states, negative states, pooled, negative pooled) of StableDiffusionXLPipeline."""
    with torch.no_grad():
        return StableDiffusionXLPipeline.encode_prompt(peer, prompts, device=torch.device("cpu"), **call)


def unclip_states(peer: Any, prompts: list[str]) -> Any:
    """(pooled, states, mask) of UnCLIPPipeline, each the empty prompts' before the prompts'."""
    with torch.no_grad():
        return UnCLIPPipeline._encode_prompt(peer, prompts, "cpu", 1, True)
