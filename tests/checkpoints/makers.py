"""Tiny random pipelines of every family, made and saved by diffusers itself.

Random networks are nearly linear and hide mistakes in attention: query and key weights are scaled up, norms and
zero-initialised layers get random values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.deprecated.paint_by_example.image_encoder import PaintByExampleImageEncoder
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)

PEAK = 6.0
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LATENT_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {**NOISE, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "pndm": ("PNDMScheduler", {**NOISE, "skip_prk_steps": True, "steps_offset": 1}),
    "euler": ("EulerDiscreteScheduler", {**NOISE, "timestep_spacing": "leading", "steps_offset": 1}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", NOISE),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", NOISE),
    "heun": ("HeunDiscreteScheduler", NOISE),
    "ddpm": ("DDPMScheduler", {**NOISE, "clip_sample": False}),
}


def scheduler(name: str, **changes: Any) -> Any:
    kind, config = LATENT_SCHEDULERS[name]
    return getattr(diffusers, kind)(**{**config, **changes})


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random norms and biases, peaked attention."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if any(part in name for part in ("to_q.weight", "to_k.weight", "add_k_proj.weight", "q_proj.weight")):
                parameter.mul_(PEAK)
            elif parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


MERGES = [("t", "h"), ("th", "e</w>"), ("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>"), ("o", "n</w>")]


def vocabulary() -> list[str]:
    """As CLIP's: bytes from "!" on, bytes that end a word, merges, and the two special tokens last."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in MERGES)]
    return [*words, "<|startoftext|>", "<|endoftext|>"]


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Byte-level, with few merges: prompts of a few words are 10 to 40 tokens long."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(vocabulary())}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def text_config(hidden: int = 32, **changes: Any) -> CLIPTextConfig:
    end = len(vocabulary()) - 1
    fields = {
        "vocab_size": 1000, "hidden_size": hidden, "intermediate_size": 37, "num_attention_heads": 4,
        "num_hidden_layers": 5, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end,
        "hidden_act": "quick_gelu", "projection_dim": 32,
    }  # fmt: skip
    return CLIPTextConfig(**{**fields, **changes})


def text_model(projects: bool = False, **changes: Any) -> Any:
    torch.manual_seed(1)
    kind = CLIPTextModelWithProjection if projects else CLIPTextModel
    return lively(kind(text_config(**changes)))


def unet(**changes: Any) -> diffusers.UNet2DConditionModel:
    torch.manual_seed(0)
    fields = {
        "block_out_channels": (8, 16), "layers_per_block": 1, "sample_size": 16, "in_channels": 4, "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32, "norm_num_groups": 2, "attention_head_dim": 2,
    }  # fmt: skip
    return lively(diffusers.UNet2DConditionModel(**{**fields, **changes}))


def vae(**changes: Any) -> diffusers.AutoencoderKL:
    torch.manual_seed(2)
    fields = {
        "block_out_channels": (8, 16), "in_channels": 3, "out_channels": 3, "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 2, "sample_size": 32,
    }  # fmt: skip
    return lively(diffusers.AutoencoderKL(**{**fields, **changes}))


def stable_diffusion(folder: Path, kind: str = "StableDiffusionPipeline", sampler: str = "ddim", **changes: Any) -> Any:
    """Stable Diffusion 1 or 2, or one of its kin, saved into folder."""
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    made = getattr(diffusers, kind)(
        vae=vae(),
        unet=unet(**changes.get("unet", {})),
        text_encoder=text_model(),
        tokenizer=tokenizer(folder / "tokenizer"),
        scheduler=scheduler(sampler, **changes.get("scheduler", {})),
        **{**options, **changes.get("pipeline", {})},
    )
    return saved(made, folder)


def saved(pipeline: Any, folder: Path) -> Any:
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def upscaler(folder: Path, sampler: str = "ddim", **changes: Any) -> Any:
    """The x4 upscaler; here x2, since the tiny autoencoder's factor is 2."""
    made = diffusers.StableDiffusionUpscalePipeline(
        vae=vae(),
        unet=unet(**{"in_channels": 7, "num_class_embeds": 1000, "sample_size": 8, **changes}),
        text_encoder=text_model(),
        tokenizer=tokenizer(folder / "tokenizer"),
        scheduler=scheduler(sampler, prediction_type="v_prediction"),
        low_res_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        max_noise_level=350,
    )
    return saved(made, folder)


def xl(folder: Path, sampler: str = "euler", refiner: bool = False, **changes: Any) -> Any:
    """Stable Diffusion XL, or its refiner."""
    micro = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "use_linear_projection": True,
        "projection_class_embeddings_input_dim": 32 + 8 * (5 if refiner else 6),
        "cross_attention_dim": 32 if refiner else 64, "transformer_layers_per_block": (1, 2),
    }  # fmt: skip
    words = {
        "text_encoder": None if refiner else text_model(hidden_act="gelu"),
        "tokenizer": None if refiner else tokenizer(folder / "tokenizer"),
        "text_encoder_2": text_model(True, hidden_act="gelu"),
        "tokenizer_2": tokenizer(folder / "tokenizer_2"),
    }
    kind = "StableDiffusionXLImg2ImgPipeline" if refiner else "StableDiffusionXLPipeline"
    extra = {"requires_aesthetics_score": True} if refiner else {}
    made = getattr(diffusers, kind)(
        vae=vae(), unet=unet(**micro, **changes), scheduler=scheduler(sampler), **words, **extra
    )
    return saved(made, folder)


def example_encoder(**changes: Any) -> Any:
    """Paint by Example's network of pictures."""
    torch.manual_seed(5)
    fields = {
        "hidden_size": 24, "projection_dim": 32, "intermediate_size": 37, "num_hidden_layers": 9,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    return lively(PaintByExampleImageEncoder(CLIPVisionConfig(**{**fields, **changes})))


def paint_by_example(folder: Path, sampler: str = "ddim") -> Any:
    made = diffusers.PaintByExamplePipeline(
        vae=vae(),
        image_encoder=example_encoder(),
        unet=unet(in_channels=9),
        scheduler=scheduler(sampler),
        safety_checker=None,
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
    )
    return saved(made, folder)


def widened(scheduler: Any) -> Any:
    """The same, its float32 tables as float64: networks with peaked attention amplify their rounding."""
    for name in ("alphas_cumprod", "one", "final_alpha_cumprod", "betas", "alphas"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, getattr(scheduler, name).double())
    return scheduler


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def t5_words() -> dict[str, Any]:
    """A tiny T5 encoder and a tokenizer of bytes, as constructor arguments."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    letters = ["<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytes_ = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    bytes_.pre_tokenizer, bytes_.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bytes_.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=512, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False,
    )  # fmt: skip
    return {
        "tokenizer": PreTrainedTokenizerFast(tokenizer_object=bytes_, pad_token="<pad>", eos_token="</s>"),
        "text_encoder": T5EncoderModel(config).eval(),
    }


IF_LEVELS: dict[str, Any] = {
    "beta_schedule": "squaredcos_cap_v2", "thresholding": True, "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5, "prediction_type": "epsilon", "variance_type": "learned_range",
}  # fmt: skip


def if_unet(**changes: Any) -> diffusers.UNet2DConditionModel:
    torch.manual_seed(4)
    fields = {
        "sample_size": 16, "layers_per_block": 1, "block_out_channels": (32, 64), "in_channels": 3, "out_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "cross_attention_dim": 32, "encoder_hid_dim": 32, "attention_head_dim": 8, "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2, "cross_attention_norm": "group_norm",
        "resnet_time_scale_shift": "scale_shift", "act_fn": "gelu",
    }  # fmt: skip
    return lively(diffusers.UNet2DConditionModel(**{**fields, **changes}))


def deepfloyd(folder: Path, kind: str = "IFPipeline", upscales: bool = False, **unet_changes: Any) -> Any:
    """DeepFloyd IF's first or second stage; the second without words of its own, as users open it."""
    changes: dict[str, Any] = {}
    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "watermarker": None}
    if upscales:
        changes = {
            "in_channels": 6, "class_embed_type": "timestep", "sample_size": 32, "time_embedding_act_fn": "gelu",
            "resnet_skip_time_act": True, "resnet_out_scale_factor": 1.41421, "mid_block_scale_factor": 1.41421,
        }  # fmt: skip
        parts["image_noising_scheduler"] = diffusers.DDPMScheduler(**IF_LEVELS)
    made = getattr(diffusers, kind)(
        unet=if_unet(**{**changes, **unet_changes}),
        scheduler=diffusers.DDPMScheduler(**IF_LEVELS),
        **t5_words(),
        **parts,
        requires_safety_checker=False,
    )
    return saved(made, folder)
