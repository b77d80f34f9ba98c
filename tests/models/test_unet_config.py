"""The configuration of a U-Net: the fields of diffusers, and refusals by name."""

from __future__ import annotations

import inspect
import json
from typing import Any

import diffusers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydiff.models.unet import UNetConfig

_SIGNATURE = inspect.signature(diffusers.UNet2DConditionModel.__init__).parameters
DEFAULTS = {name: parameter.default for name, parameter in _SIGNATURE.items() if name != "self"}


def test_fields_and_defaults_are_those_of_diffusers() -> None:
    written = UNetConfig().to_dict()
    assert written.pop("_class_name") == "UNet2DConditionModel"
    assert written == {name: list(value) if isinstance(value, tuple) else value for name, value in DEFAULTS.items()}


def test_round_trip_through_json_and_diffusers() -> None:
    config = UNetConfig.from_dict({"block_out_channels": [32, 64, 64, 64], "sample_size": [8, 16], "_private": 1})
    written = json.loads(json.dumps(config.to_dict()))
    assert UNetConfig.from_dict(written) == config
    opened = dict(diffusers.UNet2DConditionModel.from_config(written).config)
    assert UNetConfig.from_dict(opened) == config


_JOINT = {
    "down_block_types": ["DownBlock2D", "SimpleCrossAttnDownBlock2D"],
    "mid_block_type": None,
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 64],
}
REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "UNet1DModel"}, "UNet1DModel"),
    ({"chanels": 4}, "unknown fields in the config of a UNet2DConditionModel: chanels"),
    ({"down_block_types": ["AttnDownBlock2D"] * 4}, "down_block_types is .* expected a list: one of DownBlock2D"),
    ({"mid_block_type": "UNetMidBlock3D"}, "mid_block_type"),
    ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types has 3 values"),
    ({"up_block_types": "UpBlock2D"}, "up_block_types"),
    ({"block_out_channels": [320, 640]}, "down_block_types has 4 values"),
    ({"block_out_channels": []}, "block_out_channels"),
    ({"block_out_channels": [320, 640, 1280, 0]}, "block_out_channels"),
    ({"block_out_channels": [320, 640, 1280, 1281]}, "norm_num_groups is 32, which does not divide 1281"),
    ({"attention_head_dim": [5, 10, 20]}, "attention_head_dim has 3 values"),
    ({"attention_head_dim": 7}, "attention_head_dim is 7, which does not divide 320"),
    ({"attention_head_dim": None}, "attention_head_dim"),
    ({"num_attention_heads": 8}, "num_attention_heads"),
    ({"layers_per_block": True}, "layers_per_block"),
    ({"layers_per_block": 10**9}, "layers_per_block"),
    ({"transformer_layers_per_block": [[1, 1], 1, 1, 1]}, "transformer_layers_per_block"),
    ({"reverse_transformer_layers_per_block": [1, 1, 1, 1]}, "reverse_transformer_layers_per_block"),
    ({"cross_attention_dim": [768, 768, 768, 1024]}, "cross_attention_dim"),
    ({"norm_num_groups": None}, "norm_num_groups"),
    ({"norm_eps": 0}, "norm_eps"),
    ({"act_fn": "tanh"}, "act_fn is 'tanh'; expected one of silu"),
    ({"dropout": 1.0}, "dropout"),
    ({"downsample_padding": 2}, "downsample_padding"),
    ({"conv_in_kernel": 4}, "conv_in_kernel is 4; expected an odd int"),
    ({"mid_block_scale_factor": float("nan")}, "mid_block_scale_factor"),
    ({"dual_cross_attention": True}, "dual_cross_attention"),
    ({"attention_type": "gated"}, "attention_type is 'gated'; expected 'default'; nothing else is supported"),
    ({"time_embedding_type": "fourier"}, "time_embedding_type"),
    ({"time_cond_proj_dim": 256}, "time_cond_proj_dim"),
    ({"class_embeddings_concat": True}, "class_embeddings_concat"),
    ({"class_embed_type": "simple"}, "class_embed_type"),
    ({"class_embed_type": "projection"}, "give projection_class_embeddings_input_dim"),
    ({"class_embed_type": "timestep", "num_class_embeds": 5}, "num_class_embeds is given beside"),
    ({"addition_embed_type": "image"}, "addition_embed_type"),
    ({"addition_embed_type": "text_time"}, "give projection_class_embeddings_input_dim"),
    ({"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 9}, "give addition_time_embed_dim"),
    ({"addition_embed_type": "text", "addition_embed_type_num_heads": 7}, "addition_embed_type_num_heads is 7"),
    ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim is missing"),
    ({"encoder_hid_dim": 4, "encoder_hid_dim_type": "image_proj"}, "encoder_hid_dim_type"),
    ({"resnet_time_scale_shift": "ada_group"}, "resnet_time_scale_shift"),
    ({"cross_attention_norm": "rms_norm"}, "cross_attention_norm"),
    (_JOINT | {"cross_attention_norm": "group_norm", "cross_attention_dim": 48}, "32 groups of cross_attention_norm"),
    (
        _JOINT | {"cross_attention_norm": "layer_norm", "cross_attention_dim": 48},
        "cross_attention_norm is 'layer_norm'",
    ),
    (_JOINT | {"cross_attention_dim": 32, "attention_head_dim": [16, 48]}, "attention_head_dim is 48"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS)
def test_refuses_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNetConfig.from_dict(change)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["silu", "text", "DownBlock2D", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)) | st.text(max_size=4), _VALUES, max_size=4))
def test_any_object_is_read_or_refused(values: dict[str, Any]) -> None:
    try:
        config = UNetConfig.from_dict(values)
    except ValueError:
        return
    assert UNetConfig.from_dict(config.to_dict()) == config
