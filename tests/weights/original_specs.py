"""Files of Stable Diffusion in the fields of their original YAML files, at the published sizes and tiny."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP, REFINER_OPEN_CLIP = (
    "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.", "conditioner.embedders.0.model."
)  # fmt: skip


def text(width: int, inner: int, layers: int, vocab: int = 49408, positions: int = 77) -> Spec:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "projection_dim": width,
    }


VIT_L, VIT_H, VIT_BIG_G = text(768, 3072, 12), text(1024, 4096, 24), text(1280, 5120, 32)
KL_F8 = {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "in_channels": 3, "out_ch": 3, "z_channels": 4}
UNET_1 = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "transformer_depth": 1,
    "context_dim": 768,
}
LINEAR = {"num_head_channels": 64, "use_linear_in_transformer": True}
UNET_2 = {name: value for name, value in UNET_1.items() if name != "num_heads"} | LINEAR | {"context_dim": 1024}
UNET_XL = UNET_2 | {
    "attention_resolutions": [4, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [1, 2, 10],
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
UNET_REFINER = UNET_XL | {
    "model_channels": 384,
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": 4,
    "context_dim": 1280,
    "adm_in_channels": 2560,
}
UNET_X4 = UNET_1 | {
    "in_channels": 7,
    "model_channels": 256,
    "attention_resolutions": [2, 4, 8],
    "channel_mult": [1, 2, 2, 4],
    "use_linear_in_transformer": True,
    "context_dim": 1024,
    "num_classes": 1000,
    "disable_self_attentions": [True, True, True, False],
}


def spec(family: str, unet: Spec, autoencoder: Spec, texts: Spec, scale: float = 0.18215) -> Spec:
    return {"family": family, "unet": unet, "autoencoder": autoencoder, "texts": texts, "scale_factor": scale}


def channels(given: Spec, count: int) -> Spec:
    return given | {"unet": given["unet"] | {"in_channels": count}}


FULL = {
    "v1": spec("sd1", UNET_1, KL_F8, {CLIP: VIT_L}),
    "v2": spec("sd2", UNET_2, KL_F8, {OPEN_CLIP: VIT_H}),
    "xl_base": spec("sdxl", UNET_XL, KL_F8, {XL_CLIP: VIT_L, XL_OPEN_CLIP: VIT_BIG_G}, 0.13025),
    "xl_refiner": spec("sdxl_refiner", UNET_REFINER, KL_F8, {REFINER_OPEN_CLIP: VIT_BIG_G}, 0.13025),
    "upscale": spec("x4_upscaler", UNET_X4, KL_F8 | {"ch_mult": [1, 2, 4]}, {OPEN_CLIP: VIT_H}, 0.08333),
}
FULL |= {
    "inpainting": channels(FULL["v1"], 9),
    "instruct-pix2pix": channels(FULL["v1"], 8),
    "inpainting_v2": channels(FULL["v2"], 9),
    "xl_inpaint": channels(FULL["xl_base"], 9),
}

TINY_TEXT = text(64, 96, 2, vocab=50, positions=7)
TINY_KL = KL_F8 | {"ch": 32, "ch_mult": [1, 2, 2], "num_res_blocks": 1}
TINY_3 = {"model_channels": 64, "channel_mult": [1, 2, 2], "attention_resolutions": [1, 2], "context_dim": 64}
TINY = {
    "sd1": spec("sd1", UNET_1 | TINY_3, TINY_KL, {CLIP: TINY_TEXT}),
    "sd2": spec("sd2", UNET_2 | TINY_3, TINY_KL, {OPEN_CLIP: TINY_TEXT}),
    "sdxl": spec(
        "sdxl",
        UNET_XL
        | TINY_3
        | {
            "channel_mult": [1, 2],
            "attention_resolutions": [2],
            "transformer_depth": [1, 3],
            "context_dim": 128,
            "adm_in_channels": 64 + 6 * 256,
        },
        TINY_KL,
        {XL_CLIP: TINY_TEXT, XL_OPEN_CLIP: TINY_TEXT | {"projection_dim": 48}},
    ),
    "sdxl_refiner": spec(
        "sdxl_refiner",
        UNET_REFINER | TINY_3 | {"attention_resolutions": [2], "transformer_depth": 2, "num_res_blocks": 1},
        TINY_KL,
        {REFINER_OPEN_CLIP: TINY_TEXT},
    ),
    "x4_upscaler": spec(
        "x4_upscaler",
        UNET_X4
        | TINY_3
        | {"channel_mult": [1, 1, 2], "attention_resolutions": [2, 4], "disable_self_attentions": [True, True, False]},
        TINY_KL | {"ch_mult": [1, 2]},
        {OPEN_CLIP: TINY_TEXT},
    ),
}
