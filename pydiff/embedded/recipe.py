"""What the embedded networks are: one table of sizes per network, and the constants of their training."""

from __future__ import annotations

from typing import Any, NamedTuple

STAGE_SIZES = (64, 256, 1024)
TRAIN_TIMESTEPS = 1000
BETA_SCHEDULE = "squaredcos_cap_v2"  # of the super-resolution stages, and of the noise on their low-res pictures
BASE_SHIFT = -3.5  # of the base stage's log-SNR against the cosine schedule: its surfaces are large and plain

TEXT: dict[str, Any] = {
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 3,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "is_encoder_decoder": False,
    "use_cache": False,
    "tie_word_embeddings": False,
}

_COMMON: dict[str, Any] = {
    "act_fn": "silu",
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "out_channels": 6,  # prediction and variance, as IF
}

BASE: dict[str, Any] = {  # 64x64; thin where the picture is large, words where it is small
    **_COMMON,
    "sample_size": 64,
    "in_channels": 3,
    "block_out_channels": (16, 24, 64, 128),
    "layers_per_block": (1, 1, 1, 2),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 32,
    "cross_attention_dim": 128,
    "encoder_hid_dim": TEXT["d_model"],
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
}

PALETTE: dict[str, Any] = {**BASE, "in_channels": 6}  # the damaged picture stands beside x
INSTRUCT: dict[str, Any] = {**BASE, "in_channels": 6}  # the picture to change stands beside x


def _super_resolution(size: int, channels: tuple[int, ...], groups: int) -> dict[str, Any]:
    return {  # noisy picture and upsampled low-res picture in; convolutions only, so any size runs
        **_COMMON,
        "norm_num_groups": groups,  # a group of one channel would take the colour out of a plain surface
        "sample_size": size,
        "in_channels": 6,
        "block_out_channels": channels,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D",) * len(channels),
        "mid_block_type": None,
        "up_block_types": ("UpBlock2D",) * len(channels),
        "class_embed_type": "timestep",  # the noise level of the low-res picture
    }


SUPER_256 = _super_resolution(256, (16, 32, 64), groups=8)
SUPER_1024 = _super_resolution(1024, (8, 16, 32), groups=1)


class Phase(NamedTuple):
    """How one network is trained."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    ema: float
    drop_text: float = 0.0
    fine: float = 0.0  # share of noise levels drawn from the lowest quarter


PHASES = {
    "text": Phase(steps=1500, batch=128, learning_rate=2e-3, warmup=100, ema=0.0),
    "base": Phase(steps=8_000, batch=16, learning_rate=1.5e-3, warmup=300, ema=0.9995, drop_text=0.1, fine=0.4),
    "super_256": Phase(steps=1_600, batch=16, learning_rate=2e-3, warmup=100, ema=0.998),
    "super_1024": Phase(steps=1_000, batch=16, learning_rate=2e-3, warmup=100, ema=0.998),
    "palette": Phase(steps=3_200, batch=16, learning_rate=7e-4, warmup=100, ema=0.998, fine=0.25),
    "instruct": Phase(steps=19_000, batch=16, learning_rate=7e-4, warmup=100, ema=0.998, fine=0.25),
}
