"""The U-Net of pixels against diffusers' UNet2DModel: tiny random networks with peaked attention and random norms."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import diffusers
import pytest
import torch
from torch import Tensor, nn

from pydiff.models.unet2d import UNet2D, UNet2DConfig
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.resnet import ResnetBlock

_THREE = {
    "block_out_channels": (16, 16, 32),
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
_GUIDED = _THREE | {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "ddpm": _THREE
    | {
        "layers_per_block": 2,
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    "latent": _THREE
    | {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "dropout": 0.5,
        "num_train_timesteps": 1000,
    },
    "guided": _GUIDED | {"attn_norm_num_groups": 16, "num_class_embeds": 10, "out_channels": 6},
    "no_norm_in_the_middle": _GUIDED | {"class_embed_type": "timestep"},
    "other_norm_in_the_middle": _THREE | {"attn_norm_num_groups": 2, "mid_block_scale_factor": 1.5},
    "super": _THREE
    | {
        "in_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D",) * 3,
        "up_block_types": ("ResnetUpsampleBlock2D",) * 3,
        "add_attention": False,
        "mid_block_scale_factor": 1.4142271248762554,
    },
    "no_middle": _THREE | {"mid_block_type": None, "time_embedding_dim": 40, "class_embed_type": "identity"},
    "corners": _THREE
    | {
        "block_out_channels": (40, 24, 16),
        "center_input_sample": True,
        "act_fn": "mish",
        "norm_eps": 1e-2,
        "norm_num_groups": 4,
        "down_block_types": ("AttnDownBlock2D",) * 3,
        "up_block_types": ("AttnUpBlock2D",) * 3,
        "upsample_type": "resnet",
        "in_channels": 1,
        "out_channels": 2,
    },
    "one_level": {
        "block_out_channels": (16,),
        "norm_num_groups": 8,
        "down_block_types": ("AttnDownBlock2D",),
        "up_block_types": ("AttnUpBlock2D",),
        "layers_per_block": 3,
        "act_fn": "gelu",
    },
}
GRID = list(
    itertools.product(
        ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        ("conv", "resnet"),
        ("conv", "resnet"),
        ("default", "scale_shift"),
    )
)


class Case(NamedTuple):
    reference: diffusers.UNet2DModel
    unet: UNet2D
    x: Tensor
    t: Tensor
    cond: Cond


def randomise(model: nn.Module, peak: float) -> None:
    """Random norms and biases; queries and keys so large that attention is far from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "to_q" in name or "to_k" in name:
                parameter.mul_(peak)


def make(config: dict[str, Any], dtype: torch.dtype, peak: float, size: tuple[int, int] = (16, 12)) -> Case:
    torch.manual_seed(0)
    reference = diffusers.UNet2DModel(**config).to(dtype).eval()
    randomise(reference, peak)
    if config.get("class_embed_type") == "timestep":  # diffusers embeds labels in float32 only
        reference.class_embedding.register_forward_pre_hook(lambda _, args: (args[0].to(dtype),))
    unet = UNet2D(UNet2DConfig.from_dict(dict(reference.config))).to(dtype).eval()
    unet.load_state_dict(reference.state_dict(), strict=True)
    labels: Tensor | None = None
    if config.get("class_embed_type") == "identity":
        labels = torch.randn(3, unet.config.embed_dim, dtype=dtype)
    elif "class_embed_type" in config or "num_class_embeds" in config:
        labels = torch.tensor([3, 0, 9])
    x = torch.randn(3, unet.config.in_channels, *size, dtype=dtype)
    return Case(reference, unet, x, torch.tensor([17, 801, 0]), Cond(None, labels=labels))


def ask(case: Case) -> Tensor:
    """What diffusers answers."""
    out: Tensor = case.reference(case.x, case.t, case.cond.labels).sample
    return out


def follow_skips(reference: diffusers.UNet2DModel) -> None:
    """Let diffusers grow to the size of the next skip, as its text networks do; it doubles, which fits no odd size."""
    sizes: list[tuple[int, int]] = []
    for block in reference.down_blocks:
        block.register_forward_pre_hook(
            lambda _, args, kwargs: sizes.append(tuple(kwargs["hidden_states"].shape[2:])), with_kwargs=True
        )
    for index, block in enumerate(reference.up_blocks[:-1]):
        upsampler = getattr(block.upsamplers[0], "upsample", block.upsamplers[0])  # of a residual block, or alone
        grow = upsampler.forward
        upsampler.forward = lambda x, *_, grow=grow, index=index: grow(x, sizes[-2 - index])


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_diffusers_in_float32(name: str) -> None:
    case = make(CONFIGS[name], torch.float32, peak=4)
    torch.testing.assert_close(case.unet(case.x, case.t, case.cond), ask(case), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_diffusers_in_float64(name: str) -> None:
    case = make(CONFIGS[name], torch.float64, peak=16)
    out = case.unet(case.x, case.t, case.cond)
    assert out.shape == (3, case.unet.config.out_channels, 16, 12)
    assert out.std() > 0.05
    torch.testing.assert_close(out, ask(case), atol=1e-8, rtol=0)


@pytest.mark.parametrize(("down", "up", "downsample", "upsample", "scale_shift"), GRID)
@torch.no_grad()
def test_every_pair_of_blocks(down: str, up: str, downsample: str, upsample: str, scale_shift: str) -> None:
    config = _THREE | {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": (down, "AttnDownBlock2D"),
        "up_block_types": (up, "UpBlock2D"),
        "downsample_type": downsample,
        "upsample_type": upsample,
        "resnet_time_scale_shift": scale_shift,
    }
    case = make(config, torch.float64, peak=8, size=(4, 6))
    torch.testing.assert_close(case.unet(case.x, case.t, case.cond), ask(case), atol=1e-8, rtol=0)


@pytest.mark.parametrize("size", [(13, 18), (11, 7)])
@pytest.mark.parametrize("name", ["ddpm", "guided", "corners", "super"])
@torch.no_grad()
def test_odd_sizes_equal_diffusers(name: str, size: tuple[int, int]) -> None:
    case = make(CONFIGS[name], torch.float64, peak=8, size=size)
    follow_skips(case.reference)
    torch.testing.assert_close(case.unet(case.x, case.t, case.cond), ask(case), atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", ["guided", "no_norm_in_the_middle", "no_middle"])
@torch.no_grad()
def test_labels_are_heard(name: str) -> None:
    case = make(CONFIGS[name], torch.float64, peak=4)
    assert case.cond.labels is not None
    other = case.unet(case.x, case.t, Cond(None, labels=case.cond.labels.flip(0)))
    difference = (other - case.unet(case.x, case.t, case.cond)).abs().amax(dim=(1, 2, 3))
    assert difference[0] > 1e-3
    assert difference[1] == 0  # the middle label stayed
    torch.testing.assert_close(case.unet(case.x, case.t, case.unet.prepare(case.cond)), ask(case), atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", ["guided", "ddpm"])
@torch.no_grad()
def test_a_batch_equals_its_pictures_alone(name: str) -> None:
    case = make(CONFIGS[name], torch.float64, peak=4)
    together = case.unet(case.x, case.t, case.cond)
    for i in range(3):
        labels = None if case.cond.labels is None else case.cond.labels[i : i + 1]
        alone = case.unet(case.x[i : i + 1], case.t[i], Cond(None, labels=labels))
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-10, rtol=0)


@torch.no_grad()
def test_text_is_passed_over_and_times_may_be_of_any_type() -> None:
    case = make(CONFIGS["ddpm"], torch.float32, peak=4)
    assert not case.unet.reads_text
    expected = case.unet(case.x, torch.tensor([500, 500, 500]), case.cond)
    text = Cond(torch.zeros(1, 5, 8), mask=torch.ones(1, 5))
    assert case.unet.prepare(text) == Prepared(None, (), None)
    for t in (torch.tensor(500), torch.tensor(500.0, dtype=torch.float64), torch.tensor([500])):
        assert torch.equal(case.unet(case.x, t, text), expected)
    half = case.unet(case.x, torch.tensor([0.5, 250.25, 3.0]), case.cond)
    exact = case.reference(case.x, torch.tensor([0.5, 250.25, 3.0])).sample
    torch.testing.assert_close(half, exact, atol=1e-4, rtol=0)


@torch.no_grad()
def test_dropout_acts_in_every_residual_block_in_training_only() -> None:
    case = make(CONFIGS["latent"], torch.float32, peak=1)
    assert {block.spec.dropout for block in case.unet.modules() if isinstance(block, ResnetBlock)} == {0.5}
    expected = case.unet(case.x, case.t, case.cond)
    assert not torch.equal(case.unet.train()(case.x, case.t, case.cond), expected)
    assert torch.equal(case.unet.eval()(case.x, case.t, case.cond), expected)


@pytest.mark.parametrize("name", ["latent", "guided"])
@torch.no_grad()
def test_memory_format_and_dtype_of_x(name: str) -> None:
    case = make(CONFIGS[name], torch.float32, peak=2)
    expected = case.unet(case.x, case.t, case.cond)
    out = case.unet.to(memory_format=torch.channels_last)(
        case.x.to(memory_format=torch.channels_last), case.t, case.cond
    )
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)
    out = case.unet.bfloat16()(case.x, case.t, case.cond)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, atol=0.2, rtol=0.1)


@pytest.mark.parametrize("name", ["guided", "other_norm_in_the_middle"])
def test_gradients_equal_diffusers(name: str) -> None:
    case = make(CONFIGS[name], torch.float64, peak=4, size=(8, 12))
    x = case.x.requires_grad_(True)
    weight = torch.randn_like(case.x[:, :1])
    (case.unet(x, case.t, case.cond) * weight).mean().backward()
    of_x, x.grad = x.grad, None
    (ask(case) * weight).mean().backward()
    torch.testing.assert_close(of_x, x.grad, atol=1e-8, rtol=1e-6)
    expected = {key: parameter.grad for key, parameter in case.reference.named_parameters()}
    for key, parameter in case.unet.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], atol=1e-8, rtol=1e-6, msg=key)
