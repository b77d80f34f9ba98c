"""U-Nets of published sizes, U-Nets without text, and their first weights."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.cond import Cond

PUBLISHED: dict[str, dict[str, Any]] = {
    "Stable Diffusion 1.5": {"cross_attention_dim": 768},
    "Stable Diffusion 2.1": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "Stable Diffusion XL": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "Stable Diffusion x4 upscaler": {
        "in_channels": 7,
        "block_out_channels": (256, 512, 512, 1024),
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
        "cross_attention_dim": 1024,
        "only_cross_attention": (True, True, True, False),
        "num_class_embeds": 1000,
        "use_linear_projection": True,
    },
    "DeepFloyd IF-I-M": {
        "in_channels": 3,
        "out_channels": 6,
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
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_keys_of_diffusers(name: str) -> None:
    with torch.device("meta"):
        expected = diffusers.UNet2DConditionModel(**PUBLISHED[name]).state_dict()
        ours = UNet(UNetConfig.from_dict(PUBLISHED[name])).state_dict()
    assert sorted(ours) == sorted(expected)
    assert all(ours[key].shape == tensor.shape for key, tensor in expected.items())


def test_the_same_seed_gives_the_same_weights() -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        small = PUBLISHED["DeepFloyd IF-I-M"] | {"block_out_channels": (64,) * 4, "layers_per_block": 1}
        made.append(UNet(UNetConfig.from_dict(small | {"cross_attention_dim": 64, "encoder_hid_dim": 64})).state_dict())
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


@torch.no_grad()
def test_a_network_of_convolutions_needs_no_text() -> None:
    torch.manual_seed(0)
    config = {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "in_channels": 6,
        "out_channels": 6,
        "down_block_types": ("DownBlock2D",) * 2,
        "mid_block_type": None,
        "up_block_types": ("UpBlock2D",) * 2,
        "class_embed_type": "timestep",
    }
    reference = diffusers.UNet2DConditionModel(**config).eval()
    unet = UNet(UNetConfig.from_dict(config)).eval()
    unet.load_state_dict(reference.state_dict())
    x, t, level = torch.randn(2, 6, 17, 10), torch.tensor(40), torch.tensor([0, 250])
    expected = reference(x, t, None, class_labels=level).sample
    for text in (None, torch.randn(2, 5, 7)):
        torch.testing.assert_close(unet(x, t, Cond(text, labels=level)), expected, atol=1e-5, rtol=0)
