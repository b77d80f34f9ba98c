"""The configuration of an autoencoder: the fields of diffusers, and refusals by name."""

from __future__ import annotations

import inspect
import json
from typing import Any

import diffusers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydiff.models.autoencoder import AutoencoderConfig

_SIGNATURE = inspect.signature(diffusers.AutoencoderKL.__init__).parameters
DEFAULTS = {name: parameter.default for name, parameter in _SIGNATURE.items() if name != "self"}


def test_fields_and_defaults_are_those_of_diffusers() -> None:
    written = AutoencoderConfig().to_dict()
    assert written.pop("_class_name") == "AutoencoderKL"
    assert written == {name: list(value) if isinstance(value, tuple) else value for name, value in DEFAULTS.items()}


def test_round_trip_through_json_and_diffusers() -> None:
    config = AutoencoderConfig.from_dict(
        {
            "block_out_channels": [32, 64],
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "sample_size": 8,
            "shift_factor": 0.5,
            "_private": 1,
        }
    )
    written = json.loads(json.dumps(config.to_dict()))
    assert AutoencoderConfig.from_dict(written) == config
    opened = dict(diffusers.AutoencoderKL.from_config(written).config)
    assert AutoencoderConfig.from_dict(opened) == config
    assert (config.levels, config.factor, config.tile_size) == (2, 2, 8)


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"_class_name": "AutoencoderTiny"}, "config is of a 'AutoencoderTiny'; expected a 'AutoencoderKL'"),
    ({"latent_chanels": 4}, "unknown fields in the config of a AutoencoderKL: latent_chanels"),
    ({"in_channels": 0}, "in_channels is 0; expected a positive int"),
    ({"out_channels": None}, "out_channels"),
    ({"latent_channels": 4.0}, "latent_channels"),
    ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "down_block_types is .* 'DownEncoderBlock2D'; nothing else"),
    ({"up_block_types": ["UpBlock2D"]}, "up_block_types"),
    ({"up_block_types": ["UpDecoderBlock2D"] * 2}, "up_block_types has 2 values, block_out_channels 1"),
    ({"block_out_channels": [64, 64]}, "down_block_types has 1 values, block_out_channels 2"),
    ({"block_out_channels": []}, "block_out_channels"),
    ({"block_out_channels": 64}, "block_out_channels"),
    ({"block_out_channels": [65]}, "norm_num_groups is 32, which does not divide 65"),
    ({"layers_per_block": 0}, "layers_per_block"),
    ({"layers_per_block": 10**9}, "layers_per_block"),
    ({"act_fn": "tanh"}, "act_fn is 'tanh'; expected one of silu"),
    ({"norm_num_groups": None}, "norm_num_groups"),
    ({"sample_size": None}, "sample_size is None; expected a positive int"),
    ({"sample_size": [8, 8, 8]}, "sample_size"),
    ({"scaling_factor": 0}, "scaling_factor is 0; expected a positive number"),
    ({"scaling_factor": "0.18215"}, "scaling_factor"),
    ({"shift_factor": float("nan")}, "shift_factor is nan; expected a finite number, or null"),
    ({"shift_factor": True}, "shift_factor"),
    ({"latents_mean": [0.0] * 3, "latents_std": [1.0] * 4}, "latents_mean has 3 values; expected 4, one per channel"),
    ({"latents_mean": [0.0] * 4, "latents_std": [1.0, 1.0, 1.0, 0.0]}, "latents_std"),
    ({"latents_mean": [0.0] * 4}, "one of latents_mean and latents_std is given without the other"),
    ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.1}, "shift_factor is given beside"),
    ({"force_upcast": None}, "force_upcast"),
    ({"use_quant_conv": 1}, "use_quant_conv is 1; expected true or false"),
    ({"use_post_quant_conv": "yes"}, "use_post_quant_conv"),
    ({"mid_block_add_attention": None}, "mid_block_add_attention"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS)
def test_refuses_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig.from_dict(change)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["silu", "DownEncoderBlock2D", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)) | st.text(max_size=4), _VALUES, max_size=4))
def test_any_object_is_read_or_refused(values: dict[str, Any]) -> None:
    try:
        config = AutoencoderConfig.from_dict(values)
    except ValueError:
        return
    assert AutoencoderConfig.from_dict(config.to_dict()) == config
