"""unCLIP (Karlo): prior, decoder and two super-resolution networks; and variations of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip import UnCLIPImageVariationPipeline, UnCLIPPipeline
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

import pydiff
from tests.checkpoints import makers

WORDS = ["the red cat on a table", "a cat"]
RUN = 5e-4


def common(folder: Path) -> dict[str, Any]:
    torch.manual_seed(6)
    decoder = UNet2DConditionModel(
        sample_size=16, in_channels=3, out_channels=6, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=32, attention_head_dim=8, resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )  # fmt: skip
    sr = {
        "sample_size": 32, "in_channels": 6, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (32, 64),
        "down_block_types": ("ResnetDownsampleBlock2D",) * 2, "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        "add_attention": False,
    }  # fmt: skip
    return {
        "text_encoder": makers.text_model(True),
        "tokenizer": makers.tokenizer(folder / "tokenizer"),
        "text_proj": makers.lively(
            UnCLIPTextProjModel(time_embed_dim=128, cross_attention_dim=32, clip_embeddings_dim=32)
        ),
        "decoder": makers.lively(decoder),
        "super_res_first": makers.lively(UNet2DModel(**sr)),
        "super_res_last": makers.lively(UNet2DModel(**sr), seed=1),
        "decoder_scheduler": UnCLIPScheduler(variance_type="learned_range", prediction_type="epsilon"),
        "super_res_scheduler": UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="epsilon"),
    }


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("unclip")
    torch.manual_seed(8)
    prior = PriorTransformer(num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1)
    scheduler = UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0)
    made = UnCLIPPipeline(prior=makers.lively(prior), prior_scheduler=scheduler, **common(folder))
    return in_float64(makers.saved(made, folder)), pydiff.load(folder, dtype=torch.float64)


def in_float64(pipeline: Any) -> Any:
    """Peaked attention after a clipped prior amplifies rounding."""
    for name, part in pipeline.components.items():
        if name.endswith("scheduler"):
            makers.widened(part)
    return pipeline.to(torch.float64)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("variation")
    torch.manual_seed(9)
    config = CLIPVisionConfig(
        hidden_size=32, projection_dim=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        image_size=32, patch_size=8,
    )  # fmt: skip
    made = UnCLIPImageVariationPipeline(
        image_encoder=makers.lively(CLIPVisionModelWithProjection(config)),
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        **common(folder),
    )
    return makers.saved(made, folder), pydiff.load(folder)


@pytest.mark.parametrize("scales", [(4.0, 8.0), (1.0, 1.0), (4.0, 1.0), (1.0, 8.0)])
def test_checkpoints_of_prompts(prompted: Any, scales: tuple[float, float]) -> None:
    theirs, ours = prompted
    assert ours.sizes == (16, 32)
    expected = theirs(
        WORDS, prior_num_inference_steps=3, decoder_num_inference_steps=3, super_res_num_inference_steps=2,
        prior_guidance_scale=scales[0], decoder_guidance_scale=scales[1], generator=makers.generators([1, 2]),
        output_type="np",
    ).images  # fmt: skip
    made = ours.generate(
        WORDS, prior_num_inference_steps=3, num_inference_steps=[3, 2], prior_guidance_scale=scales[0],
        guidance_scale=[scales[1], None], seed=[1, 2], output_type="np",
    )  # fmt: skip
    assert made.images.shape == expected.shape
    assert np.abs(made.images - expected).max() < RUN
    assert made.settings[0]["prior_num_inference_steps"] == 3


def test_checkpoints_defaults(prompted: Any) -> None:
    ours = prompted[1]
    assert [stage.defaults[:2] for stage in ours.cascade.stages] == [(25, 8.0), (7, 1.0)]


def test_checkpoints_of_variations(varied: Any) -> None:
    theirs, ours = varied
    image = Image.fromarray((np.random.default_rng(0).random((40, 48, 3)) * 255).astype(np.uint8))
    expected = theirs(
        image, num_images_per_prompt=2, decoder_num_inference_steps=3, super_res_num_inference_steps=2,
        generator=makers.generators([1, 2]), output_type="np",
    ).images  # fmt: skip
    made = ours.variations(image, num_images_per_prompt=2, num_inference_steps=[3, 2], seed=[1, 2], output_type="np")
    assert np.abs(made.images - expected).max() < RUN


def test_checkpoints_do_what_they_can(prompted: Any, varied: Any) -> None:
    with pytest.raises(ValueError, match=r"use pipe.variations\(image\)"):
        varied[1].generate("a cat")
    with pytest.raises(ValueError, match="makes no variations"):
        prompted[1].variations(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="prior_num_inference_steps is 0"):
        prompted[1].generate("a cat", prior_num_inference_steps=0)
    with pytest.raises(ValueError, match="prior_guidance_scale is for making pictures with unCLIP's prior"):
        varied[1].variations(np.zeros((8, 8, 3), np.uint8), prior_guidance_scale=2.0)
    with pytest.raises(ValueError, match="begins from an embedding too; leave them out"):
        prompted[1].generate("a cat", latents=torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="begins from an embedding of its own, not from a picture"):
        prompted[1].image_to_image(np.zeros((8, 8, 3), np.uint8), "a cat")
    for name in ("negative_prompt_embeds", "prompt_embeds"):
        with pytest.raises(ValueError, match="prompt_embeds"):
            prompted[1].generate(**{name: torch.zeros(1, 3, 32)})
