"""Folders that are incomplete, of another kind, or whose parts do not fit: refused by name before weights are read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTextModel

import pydiff
from tests.checkpoints import broken, makers
from tests.checkpoints.broken import DROP
from tests.checkpoints.test_unclip import common

THREE = {
    "block_out_channels": [8] * 3,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
Fresh = Callable[[str], Path]
INDEX, UNET, VAE = "model_index.json", "unet/config.json", "vae/config.json"
TEXT, SCHEDULER = "text_encoder/config.json", "scheduler/scheduler_config.json"


def refused(folder: Any, message: str, **how: Any) -> None:
    with pytest.raises(ValueError, match=message):
        pydiff.load(folder, **how)


@pytest.mark.parametrize("family", broken.FAMILIES)
def test_checkpoints_that_are_whole_open(whole: Fresh, family: str) -> None:
    assert pydiff.load(whole(family)).sizes


def test_checkpoints_with_ints_for_floats_open(fresh: Fresh) -> None:
    folder = fresh("sd")
    broken.rewrite(folder / TEXT, layer_norm_eps=1)
    broken.rewrite(folder / UNET, norm_eps=1)
    broken.rewrite(folder / VAE, scaling_factor=1)
    assert pydiff.load(folder).cascade.stages[0].codec.config.scaling_factor == 1


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("family", "component"), broken.EVERY)
@pytest.mark.parametrize("part", ["", "config.json", "*.safetensors"])
def test_checkpoints_without_a_part(fresh: Fresh, family: str, component: str, part: str) -> None:
    folder = fresh(family)
    if part:
        next((folder / component).glob(part)).unlink()
        refused(folder, rf"{component}(/config\.json is not a file| holds no weights)")
    else:
        shutil.rmtree(folder / component)
        refused(folder, rf"{component} is missing; .*model_index\.json says it is a ")


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("family", "part", "message"),
    [
        ("sd", INDEX, "has no model_index.json; expected a folder"),
        ("sd", "tokenizer", "tokenizer is missing"),
        ("sd", "scheduler", "scheduler is missing"),
        ("if", "tokenizer/tokenizer.json", "tokenizer.json is not a file"),
        ("x4", "low_res_scheduler", "low_res_scheduler is missing"),
        ("ddpm", SCHEDULER, "scheduler_config.json is not a file"),
        ("unclip", "prior_scheduler", "prior_scheduler is missing"),
        ("variation", "feature_extractor", "feature_extractor is missing"),
        ("example", "feature_extractor", "feature_extractor is missing"),
    ],
)
def test_checkpoints_without_a_file(fresh: Fresh, family: str, part: str, message: str) -> None:
    folder = fresh(family)
    shutil.rmtree(folder / part) if (folder / part).is_dir() else (folder / part).unlink()
    refused(folder, message)


FIELDS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "sd",
        INDEX,
        {"_class_name": "FluxPipeline"},
        "is a 'FluxPipeline', which pydiff does not run; it runs IFPipeline",
    ),
    ("sd", INDEX, {"_class_name": ["pipeline", "Mine"]}, r"is a \['pipeline', 'Mine'\], which pydiff does not run"),
    ("sd", INDEX, {"_class_name": DROP}, "is a None, which pydiff does not run"),
    (
        "sd",
        INDEX,
        {"unet": ["my_unet", "UNet2DConditionModel"]},
        "takes unet from 'my_unet', code that pydiff does not",
    ),
    ("sd", INDEX, {"text_encoder": ["mine", "CLIPTextModel"]}, "takes text_encoder from 'mine'"),
    ("sd", INDEX, {"tokenizer": ["mine", "CLIPTokenizer"]}, "takes tokenizer from 'mine'"),
    ("sd", INDEX, {"scheduler": ["mine", "DDIMScheduler"]}, "takes scheduler from 'mine'"),
    ("sd", INDEX, {"unet": ["diffusers", "FluxTransformer2DModel"]}, "unet is a FluxTransformer2DModel; pydiff opens"),
    (
        "sd",
        INDEX,
        {"text_encoder": ["transformers", "T5EncoderModel"]},
        "text_encoder is a T5EncoderModel; pydiff opens",
    ),
    ("sd", INDEX, {"unet": [None, None]}, "names no unet; a StableDiffusionPipeline needs one"),
    ("sd", INDEX, {"unet": "UNet2DConditionModel"}, "names no unet"),
    ("sd", INDEX, {"unet": ["diffusers", 5]}, r"has unet = \['diffusers', 5\]; expected \[library, class\]"),
    ("sd", INDEX, {"_class_name": "StableDiffusionInstructPix2PixPipeline"}, "takes 4 channels, which does not fit"),
    (
        "sd",
        INDEX,
        {"_class_name": "StableDiffusionXLPipeline"},
        "unet does not fit .* added holds text_embeds, time_ids",
    ),
    ("xl", INDEX, {"_class_name": "StableDiffusionPipeline"}, "text_encoder_2 is a CLIPTextModelWithProjection"),
    ("xl", INDEX, {"requires_aesthetics_score": True}, "5 time_ids of 8 make 72; this network takes 80"),
    ("xl", INDEX, {"requires_aesthetics_score": "yes"}, "requires_aesthetics_score = 'yes'; expected true or false"),
    ("xl", INDEX, {"text_encoder_2": [None, None]}, "unet does not fit"),
    ("x4", INDEX, {"max_noise_level": "much"}, "max_noise_level is 'much'"),
    ("if", INDEX, {"_class_name": "IFSuperResolutionPipeline"}, "names no image_noising_scheduler"),
    ("if", INDEX, {"text_encoder": [None, None]}, "has no text encoder"),
    ("ddpm", INDEX, {"_class_name": "IFPipeline"}, "unet is a UNet2DModel; pydiff opens UNet2DConditionModel"),
    (
        "example",
        INDEX,
        {"image_encoder": ["transformers", "CLIPModel"]},
        "pydiff opens PaintByExampleImageEncoder there",
    ),
    ("unclip", INDEX, {"text_encoder": ["transformers", "CLIPTextModel"]}, "text_encoder is a CLIPTextModel; pydiff"),
    (
        "sd",
        SCHEDULER,
        {"_class_name": "UniPCMultistepScheduler"},
        "scheduler is of no .*'UniPCMultistepScheduler'.*DDIM",
    ),
    ("sd", SCHEDULER, {"_class_name": DROP}, "scheduler class None is unsupported"),
    ("sd", SCHEDULER, {"odd": 1}, "DDIMScheduler has a field 'odd' that pydiff does not know"),
    ("sd", SCHEDULER, {"use_beta_sigmas": True}, "use_beta_sigmas = True, which pydiff does not support"),
    ("sd", SCHEDULER, {"beta_schedule": "odd"}, "beta_schedule 'odd' is unknown"),
    ("sd", SCHEDULER, {"beta_start": -1.0}, r"beta_start is -1\.0; expected a number from 0 to 1"),
    ("sd", SCHEDULER, {"beta_end": "0.1"}, "beta_end is '0.1'; expected a number"),
    ("sd", SCHEDULER, {"trained_betas": [10**400]}, "trained_betas is "),
    ("sd", SCHEDULER, {"num_train_timesteps": 10**12}, "num_train_timesteps is 1000000000000; expected .* at most"),
    ("sd", SCHEDULER, {"prediction_type": "flow"}, "prediction_type is 'flow'"),
    ("sd", SCHEDULER, {"timestep_spacing": "odd"}, "timestep_spacing = 'odd'; expected one of leading"),
    ("sd", SCHEDULER, {"clip_sample": "no"}, "clip_sample = 'no'; expected true or false"),
    ("sd", SCHEDULER, {"steps_offset": -1}, "steps_offset is -1"),
    ("if", SCHEDULER, {"variance_type": 5}, "variance_type = 5; expected one of fixed_small"),
    ("if", SCHEDULER, {"sample_max_value": "2"}, "max_value is '2'"),
    ("x4", "low_res_scheduler/scheduler_config.json", {"beta_end": 7}, "low_res_scheduler is of no .*beta_end is 7"),
    ("unclip", "decoder_scheduler/scheduler_config.json", {"odd": 1}, "decoder_scheduler is of no .*'odd'"),
    (
        "unclip",
        "prior_scheduler/scheduler_config.json",
        {"prediction_type": "v_prediction"},
        "prior_scheduler is of no",
    ),
    (
        "sd",
        UNET,
        {"odd": 1, "even": 2},
        r"unet/config\.json is of no .*unknown fields .*: even, odd; remove or correct",
    ),
    ("sd", UNET, {"_class_name": "UNet3DConditionModel"}, "the config is of a 'UNet3DConditionModel'; expected"),
    ("sd", UNET, {"layers_per_block": "1"}, "layers_per_block is '1'; expected an int from 1 to 128"),
    ("sd", UNET, {"norm_num_groups": 3}, r"norm_num_groups is 3, which does not divide 8"),
    ("sd", UNET, {"down_block_types": ["DownBlock2D"]}, "down_block_types has 1 values, block_out_channels 2"),
    ("sd", UNET, {"num_class_embeds": 3, "class_embed_type": "timestep"}, "num_class_embeds is given beside"),
    ("sd", UNET, {"block_out_channels": [1 << 30, 16]}, "block_out_channels is .*; expected .* at most 1048576"),
    ("sd", UNET, {"block_out_channels": [8] * 17}, "block_out_channels has 17 values; expected at most 16"),
    ("sd", UNET, {"layers_per_block": 100000}, "layers_per_block is 100000; expected an int from 1 to 128"),
    ("sd", UNET, {"layers_per_block": 128, "transformer_layers_per_block": 128}, "asks for 32768 blocks in all"),
    ("sd", UNET, {"sample_size": 10**9}, "sample_size is 1000000000; expected a positive int of at most 16384"),
    ("sd", UNET, {"sample_size": None}, r"unet/config\.json has no sample_size"),
    ("sd", UNET, {"num_class_embeds": 3}, "unet lack 1 tensors: class_embedding.weight; its config.json is of another"),
    ("sd", VAE, THREE | {"layers_per_block": 128}, r"vae/config\.json is of no .*asks for 384 blocks"),
    ("sd", VAE, {"odd": 1}, r"vae/config\.json is of no .*unknown fields .*: odd"),
    ("sd", VAE, {"layers_per_block": 0}, "layers_per_block is 0"),
    ("sd", VAE, {"latents_mean": [0.0]}, "latents_mean has 1 values; expected 4"),
    ("sd", TEXT, {"hidden_size": 30}, r"text_encoder/config\.json is of no .*num_attention_heads is 4, which does not"),
    ("sd", TEXT, {"model_type": "bert"}, "model_type 'bert'; expected 'clip_text_model'"),
    ("sd", TEXT, {"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000; expected an int from 1 to 128"),
    ("sd", TEXT, {"vocab_size": DROP}, "lacks vocab_size"),
    ("if", TEXT, {"num_layers": "2"}, r"text_encoder/config\.json is of no .*num_layers is '2'; expected an int"),
    ("if", TEXT, {"d_model": 1 << 40}, "d_model is 1099511627776; expected a positive int of at most"),
    ("if", TEXT, {"relative_attention_max_distance": 8}, "relative_attention_max_distance is 8; expected more than"),
    ("if", TEXT, {"feed_forward_proj": ["gated-gelu"]}, "feed_forward_proj is "),
    ("if", "tokenizer/tokenizer_config.json", {"pad_token": [1]}, r"tokenizer_config\.json has pad_token = \[1\]"),
    ("ddpm", UNET, {"layers_per_block": 129}, "layers_per_block is 129; expected an int from 1 to 128"),
    ("unclip", "prior/config.json", {"num_layers": 10**6}, r"prior/config\.json is of no .*num_layers is 1000000"),
    ("unclip", "text_proj/config.json", {"cross_attention_dim": DROP}, "lacks cross_attention_dim"),
    (
        "sd",
        "pydiff.json",
        {"guidance_scale": float("inf")},
        r"pydiff\.json has guidance_scale = inf; expected a finite",
    ),
    (
        "variation",
        "image_encoder/config.json",
        {"image_size": 10**6},
        "image_encoder/config.json is of no .*image_size",
    ),
    ("variation", "feature_extractor/preprocessor_config.json", {"do_resize": False}, "do_resize is False"),
    ("if", "pydiff.json", {"odd": 1}, r"pydiff\.json has an unknown field 'odd'; expected num_inference_steps"),
]


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("family", "file", "fields", "message"), FIELDS, ids=lambda given: given if isinstance(given, str) else None
)
def test_checkpoints_with_a_field_that_does_not_fit(
    fresh: Fresh, family: str, file: str, fields: dict[str, Any], message: str
) -> None:
    folder = fresh(family)
    broken.rewrite(folder / file, **fields)
    refused(folder, message)


def unclip_part(name: str, **changes: Any) -> Callable[[Path], Any]:
    def put(folder: Path) -> None:
        part = common(folder)[name]
        kind, config = type(part), dict(part.config)
        kind.from_config({**config, **changes}).save_pretrained(folder / name)

    return put


def put(name: str, part: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda folder: part().save_pretrained(folder / name)


def narrow_text(name: str) -> Callable[[Path], Any]:
    return put(name, lambda: CLIPTextModel(makers.text_config(hidden=16)))


FITS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("sd", narrow_text("text_encoder"), r"unet does not fit .* text is of shape \(1, 1, 16\); expected .* 32\)"),
    ("xl", narrow_text("text_encoder"), r"text is of shape \(1, 1, 48\); expected .* 64\)"),
    ("xl", put("text_encoder_2", lambda: makers.text_model(True, projection_dim=16)), "text_embeds of width 16 and 6"),
    ("xl", put("unet", lambda: broken.xl_unet(projection_class_embeddings_input_dim=81)), "this network takes 81"),
    ("x4", put("vae", lambda: makers.vae(latent_channels=3)), "unet takes 7 channels; expected 6"),
    ("sd", put("vae", lambda: makers.vae(latent_channels=8)), "unet takes 4 channels, .* autoencoder makes 8"),
    ("sd", put("vae", lambda: makers.vae(in_channels=4)), "vae takes 4 channels and makes 3; expected 3"),
    ("sd", put("unet", lambda: makers.unet(out_channels=8)), "unet makes 8 channels, but latents have 4"),
    ("sd", put("unet", lambda: makers.unet(cross_attention_dim=16)), r"\(1, 1, 32\); expected .* 16\)"),
    ("sd", put("unet", lambda: makers.unet(num_class_embeds=5)), "labels are missing"),
    ("if", put("unet", lambda: makers.if_unet(in_channels=4)), "unet takes 4 channels; a IFPipeline's takes 3"),
    ("if", put("unet", lambda: makers.if_unet(out_channels=4)), "unet makes 4 channels; expected 3, or 6"),
    ("if", put("unet", lambda: makers.if_unet(out_channels=3)), "'learned_range', but .*unet predicts no variance"),
    ("if", put("unet", lambda: makers.if_unet(encoder_hid_dim=48)), r"\(1, 1, 32\); expected .* 48\)"),
    ("unclip", unclip_part("decoder", in_channels=4), "decoder takes 4 channels; a UnCLIPPipeline's takes 3"),
    ("unclip", unclip_part("decoder", cross_attention_dim=64), "decoder does not fit"),
    ("unclip", unclip_part("text_proj", time_embed_dim=64), "decoder does not fit .* labels are of shape"),
    ("unclip", unclip_part("text_proj", clip_embeddings_dim=16), "embeddings of 32; .*text_proj takes 16"),
    ("unclip", unclip_part("super_res_last", in_channels=3), "super_res_last takes 3 channels; .* takes 6"),
    (
        "unclip",
        put("prior", lambda: broken.prior(embedding_dim=16)),
        "prior has embeddings of 16; .*text_proj takes 32",
    ),
    ("variation", put("image_encoder", lambda: broken.image_encoder(projection_dim=16)), "has embeddings of 16; .* 32"),
    (
        "example",
        put("image_encoder", lambda: makers.example_encoder(projection_dim=16)),
        r"\(1, 1, 16\); expected .* 32",
    ),
    ("example", put("image_encoder", lambda: makers.example_encoder(image_size=40)), r"crops to \(32, 32\); .* 40 pix"),
    ("example", put("unet", lambda: makers.unet()), "unet takes 4 channels; expected 9"),
    ("unclip", put("prior", lambda: broken.prior(num_embeddings=9)), "prior reads 9 tokens; its text encoder makes 77"),
]


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("family", "change", "message"), FITS, ids=range(len(FITS)))
def test_checkpoints_whose_parts_do_not_fit(
    fresh: Fresh, family: str, change: Callable[[Path], Any], message: str
) -> None:
    folder = fresh(family)
    change(folder)
    refused(folder, message)
