"""A tiny random CLIP, saved by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from tests.checkpoints.makers import lively, text_config, tokenizer

SIDE = 24


def clip_folder(folder: Path, **text: Any) -> tuple[CLIPModel, CLIPProcessor]:
    """The model and what its inputs are made by. text: other fields of the text network's config."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": 6,
    }  # fmt: skip
    config = CLIPConfig(text_config=text_config(**text).to_dict(), vision_config=vision, projection_dim=20)
    model = lively(CLIPModel(config))
    model.save_pretrained(folder)
    words = tokenizer(folder / "words")
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": SIDE, "width": SIDE})
    for part in (words, pictures):
        part.save_pretrained(folder)
    return model, CLIPProcessor(pictures, words)
