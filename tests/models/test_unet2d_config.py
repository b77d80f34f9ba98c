"""U-Nets of pixels: the fields of diffusers, published sizes, and refusals by name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pydiff.models.unet2d import UNet2D, UNet2DConfig
from pydiff.nn.cond import Cond, Prepared

_SIGNATURE = inspect.signature(diffusers.UNet2DModel.__init__).parameters
DEFAULTS = {name: parameter.default for name, parameter in _SIGNATURE.items() if name != "self"}


def test_fields_and_defaults_are_those_of_diffusers() -> None:
    written = UNet2DConfig().to_dict()
    assert written.pop("_class_name") == "UNet2DModel"
    assert written == {name: list(value) if isinstance(value, tuple) else value for name, value in DEFAULTS.items()}


def test_round_trip_through_json_and_diffusers() -> None:
    config = UNet2DConfig.from_dict({"block_out_channels": [32, 64, 64, 64], "sample_size": [8, 16], "_private": 1})
    written = json.loads(json.dumps(config.to_dict()))
    assert UNet2DConfig.from_dict(written) == config
    opened = dict(diffusers.UNet2DModel.from_config(written).config)
    assert UNet2DConfig.from_dict(opened) == config


def _ddpm(sample_size: int, channels: list[int], down: int, up: int) -> dict[str, Any]:
    """The config.json that diffusers 0.0.4 wrote for Ho et al. 2020; attention at one level down and one up."""
    downs, ups = ["DownBlock2D"] * len(channels), ["UpBlock2D"] * len(channels)
    downs[down], ups[up] = "AttnDownBlock2D", "AttnUpBlock2D"
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.0.4",
        "act_fn": "silu",
        "attention_head_dim": None,
        "block_out_channels": channels,
        "center_input_sample": False,
        "down_block_types": downs,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": 3,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": sample_size,
        "time_embedding_type": "positional",
        "up_block_types": ups,
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "google/ddpm-cifar10-32": _ddpm(32, [128, 256, 256, 256], down=1, up=2),
    "google/ddpm-ema-celebahq-256, -church-256, -bedroom-256, -cat-256": _ddpm(
        256, [128, 128, 256, 256, 512, 512], down=4, up=1
    ),
    "CompVis/ldm-celebahq-256": {"attention_head_dim": 32},
    "openai/diffusers-cd_imagenet64_l2": {
        "num_class_embeds": 1000,
        "block_out_channels": [192, 384, 576, 768],
        "layers_per_block": 3,
        "attention_head_dim": 64,
        "down_block_types": ["ResnetDownsampleBlock2D"] + ["AttnDownBlock2D"] * 3,
        "up_block_types": ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 32,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    },
    "openai/diffusers-cd_bedroom256_l2": {
        "block_out_channels": [256, 256, 512, 512, 1024, 1024],
        "attention_head_dim": 64,
        "down_block_types": ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3,
        "up_block_types": ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    },
    "kakaobrain/karlo-v1-alpha, super_res_first and super_res_last": {
        "sample_size": 256,
        "layers_per_block": 3,
        "down_block_types": ["ResnetDownsampleBlock2D"] * 4,
        "up_block_types": ["ResnetUpsampleBlock2D"] * 4,
        "block_out_channels": [320, 640, 960, 1280],
        "in_channels": 6,
        "out_channels": 3,
        "add_attention": False,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_keys_of_diffusers(name: str) -> None:
    with torch.device("meta"):
        expected = diffusers.UNet2DModel.from_config(PUBLISHED[name]).state_dict()
        ours = UNet2D(UNet2DConfig.from_dict(PUBLISHED[name])).state_dict()
    assert sorted(ours) == sorted(expected)
    assert all(ours[key].shape == tensor.shape for key, tensor in expected.items())


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
    ({"cross_attention_dim": 4}, "unknown fields in the config of a UNet2DModel: cross_attention_dim"),
    ({"down_block_types": ["SkipDownBlock2D"] + ["DownBlock2D"] * 3}, "'SkipDownBlock2D'.* one of DownBlock2D"),
    ({"up_block_types": ["AttnSkipUpBlock2D"] * 4}, "'AttnSkipUpBlock2D'.* one of UpBlock2D"),
    ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types has 3 values"),
    ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type"),
    ({"block_out_channels": [224, 448]}, "down_block_types has 4 values"),
    ({"block_out_channels": 224}, "block_out_channels"),
    ({"block_out_channels": [224, 448, 672, 897]}, "norm_num_groups is 32, which does not divide 897"),
    ({"attention_head_dim": 5}, "attention_head_dim is 5, which does not divide 448"),
    ({"attention_head_dim": 1024}, "attention_head_dim is 1024, which does not divide 448"),
    ({"attention_head_dim": [8, 8, 8, 8]}, "attention_head_dim is .8, 8, 8, 8.; expected a positive int"),
    ({"attn_norm_num_groups": 36}, "attn_norm_num_groups is 36, which does not divide 896"),
    ({"layers_per_block": [1, 2, 2, 2]}, "layers_per_block"),
    ({"layers_per_block": 10**9}, "layers_per_block"),
    ({"norm_num_groups": None}, "norm_num_groups"),
    ({"norm_eps": 0}, "norm_eps"),
    ({"act_fn": "tanh"}, "act_fn is 'tanh'; expected one of silu"),
    ({"dropout": 1.0}, "dropout"),
    ({"downsample_padding": 2}, "downsample_padding"),
    ({"downsample_type": "fir"}, "downsample_type is 'fir'; expected 'conv' or 'resnet'"),
    ({"upsample_type": None}, "upsample_type"),
    ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'; expected 'positional'"),
    ({"time_embedding_type": "learned", "num_train_timesteps": 9}, "time_embedding_type is 'learned'"),
    ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift"),
    ({"mid_block_scale_factor": float("nan")}, "mid_block_scale_factor"),
    ({"add_attention": 1}, "add_attention"),
    ({"class_embed_type": "projection"}, "class_embed_type"),
    ({"class_embed_type": "timestep", "num_class_embeds": 5}, "num_class_embeds is given beside"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS)
def test_refuses_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet2DConfig.from_dict(change)


def test_heads_need_not_fit_where_nothing_attends() -> None:
    config = UNet2DConfig(
        block_out_channels=(12, 20),
        norm_num_groups=4,
        attention_head_dim=5,
        attn_norm_num_groups=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )
    assert UNet2DConfig.from_dict(config.to_dict()) == config


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["silu", "resnet", "DownBlock2D", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)) | st.text(max_size=4), _VALUES, max_size=4))
def test_any_object_is_read_or_refused(values: dict[str, Any]) -> None:
    try:
        config = UNet2DConfig.from_dict(values)
    except ValueError:
        return
    assert UNet2DConfig.from_dict(config.to_dict()) == config


_PLAIN = {
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": _PLAIN,
    "class": _PLAIN | {"num_class_embeds": 16},
    "level": _PLAIN | {"class_embed_type": "timestep"},
    "vector": _PLAIN | {"class_embed_type": "identity"},
}
LABELS = {"class": torch.tensor([0, 15]), "level": torch.tensor([0.5, 250]), "vector": torch.zeros(2, 32)}
Change = Callable[[Tensor, Tensor, Cond], tuple[Tensor, Tensor, Cond | Prepared]]


def ask(network: str, change: Change) -> Tensor:
    unet = UNet2D(UNet2DConfig.from_dict(NETWORKS[network]))
    with torch.no_grad():
        out: Tensor = unet(
            *change(torch.zeros(2, 3, 8, 8), torch.tensor([1, 2]), Cond(None, labels=LABELS.get(network)))
        )
    return out


INPUTS: dict[str, tuple[str, Change, str]] = {
    "x channels": ("plain", lambda x, t, c: (x[:, :2], t, c), r"expected floats \(B, 3, H, W\)"),
    "x ints": ("plain", lambda x, t, c: (x.long(), t, c), "x is torch.int64"),
    "x too small": ("plain", lambda x, t, c: (x[..., :1], t, c), "at least 2"),
    "t length": ("plain", lambda x, t, c: (x, torch.zeros(3), c), "t has shape"),
    "labels given": ("plain", lambda x, t, c: (x, t, c._replace(labels=torch.zeros(2))), "takes none"),
    "added given": ("plain", lambda x, t, c: (x, t, c._replace(added={"time_ids": x})), "time_ids; .* takes nothing"),
    "edit given": ("plain", lambda x, t, c: (x, t, c._replace(edit=object())), "reads no text"),
    "prepared elsewhere": ("plain", lambda x, t, c: (x, t, Prepared(None, ((x, x),), None)), "prepare it"),
    "labels missing": ("class", lambda x, t, c: (x, t, Cond(None)), r"labels are missing; expected \(B,\)"),
    "labels batch": ("level", lambda x, t, c: (x, t, c._replace(labels=torch.zeros(3))), "is for 3 pictures"),
    "labels rank": ("level", lambda x, t, c: (x, t, c._replace(labels=torch.zeros(2, 1))), "of shape"),
    "labels width": ("vector", lambda x, t, c: (x, t, c._replace(labels=torch.zeros(2, 8))), r"expected \(B, 32\)"),
    "class too high": ("class", lambda x, t, c: (x, t, c._replace(labels=torch.tensor([0, 16]))), "from 0 to 15"),
    "class of floats": ("class", lambda x, t, c: (x, t, c._replace(labels=torch.zeros(2))), "ints from 0 to 15"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_refuses_inputs(name: str) -> None:
    network, change, message = INPUTS[name]
    with pytest.raises(ValueError, match=message):
        ask(network, change)


@pytest.mark.parametrize("network", NETWORKS)
def test_accepts_what_fits(network: str) -> None:
    assert ask(network, lambda x, t, c: (x, t, c)).shape == (2, 3, 8, 8)
