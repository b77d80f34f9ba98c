"""The U-Net against diffusers' UNet2DConditionModel: tiny random networks with peaked attention and random norms."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import diffusers
import pytest
import torch
from torch import Tensor, nn

from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.cond import Cond, Prepared

_SD = {
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}
_IF = {
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "in_channels": 3,
    "out_channels": 6,
    "act_fn": "gelu",
    "resnet_time_scale_shift": "scale_shift",
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "cross_attention_dim": 32,
    "encoder_hid_dim": 24,
    "attention_head_dim": 8,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "cross_attention_norm": "group_norm",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": _SD,
    "sd2": _SD | {"use_linear_projection": True, "attention_head_dim": (2, 4), "upcast_attention": True},
    "sdxl": _SD
    | {
        "block_out_channels": (8, 16, 32),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 3),
        "layers_per_block": (2, 1, 1),
        "attention_head_dim": (1, 2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 20,
    },
    "x4": _SD | {"in_channels": 7, "num_class_embeds": 16, "only_cross_attention": (True, False)},
    "plain_middle": _SD
    | {"mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1.5, "class_embed_type": "identity"},
    "corners": _SD
    | {
        "mid_block_type": None,
        "center_input_sample": True,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "act_fn": "mish",
        "timestep_post_act": "gelu",
        "time_embedding_dim": 40,
        "conv_in_kernel": 5,
        "conv_out_kernel": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-3,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 12,
        "transformer_layers_per_block": (2, 0),
    },
    "if": _IF,
    "if_super": _IF
    | {
        "in_channels": 6,
        "layers_per_block": (1, 2),
        "class_embed_type": "timestep",
        "resnet_skip_time_act": True,
        "resnet_out_scale_factor": 1.4142271248762554,
        "mid_block_scale_factor": 1.4142271248762554,
        "time_embedding_act_fn": "gelu",
        "time_embedding_dim": 32,
    },
    "if_text_only": _IF
    | {
        "only_cross_attention": True,
        "attention_head_dim": (4, 8),
        "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": 12,
        "cross_attention_norm": None,
    },
    "if_mixed": _IF
    | {
        "block_out_channels": (32, 32, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "CrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "attention_head_dim": (4, 8, 16),
        "cross_attention_norm": "layer_norm",
        "act_fn": "silu",
        "addition_embed_type": None,
        "resnet_skip_time_act": True,
        "resnet_out_scale_factor": 1.2,
    },
}
MASKED = [
    name for name in CONFIGS if name != "if_text_only"
]  # diffusers pads that mask over pixels which are not there


class Case(NamedTuple):
    reference: diffusers.UNet2DConditionModel
    unet: UNet
    x: Tensor
    t: Tensor
    cond: Cond


def randomise(model: nn.Module, peak: float) -> None:
    """Random norms and biases; queries and keys so large that attention is far from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif any(part in name for part in ("to_q", "to_k", "add_k_proj", "pool.q_proj", "pool.k_proj")):
                parameter.mul_(peak)


def make(name: str, dtype: torch.dtype, peak: float, size: tuple[int, int] = (24, 16)) -> Case:
    torch.manual_seed(0)
    reference = diffusers.UNet2DConditionModel(**CONFIGS[name]).to(dtype).eval()
    randomise(reference, peak)
    config = UNetConfig.from_dict(dict(reference.config))
    unet = UNet(config).to(dtype).eval()
    unet.load_state_dict(reference.state_dict(), strict=True)
    text = torch.randn(2, 9, config.text_dim, dtype=dtype)
    labels: Tensor | None = None
    if config.class_embed_type == "timestep" or config.num_class_embeds:
        labels = torch.tensor([3, 11])
    elif config.class_embed_type is not None:
        width = 64 if config.class_embed_type == "identity" else 12
        labels = torch.randn(2, width, dtype=dtype)
    added = None
    if config.addition_embed_type == "text_time":
        added = {"text_embeds": torch.randn(2, 20, dtype=dtype), "time_ids": torch.randint(0, 1024, (2, 6))}
    x = torch.randn(2, config.in_channels, *size, dtype=dtype)
    return Case(reference, unet, x, torch.tensor([17, 801]), Cond(text, None, labels, added))


def ask(case: Case, cond: Cond) -> Tensor:
    """What diffusers answers."""
    out: Tensor = case.reference(
        case.x,
        case.t,
        cond.text,
        class_labels=cond.labels,
        encoder_attention_mask=cond.mask,
        added_cond_kwargs=cond.added,
    ).sample
    return out


@pytest.fixture
def wide_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers rounds its pooling softmax to float32; let it keep float64, so that the two can be compared at 1e-8."""
    narrow = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda self: self if self.dtype == torch.float64 else narrow(self))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_diffusers_in_float32(name: str) -> None:
    case = make(name, torch.float32, peak=4)
    out = case.unet(case.x, case.t, case.cond)
    torch.testing.assert_close(out, ask(case, case.cond), atol=1e-4, rtol=0)


@pytest.mark.usefixtures("wide_floats")
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_diffusers_in_float64(name: str) -> None:
    case = make(name, torch.float64, peak=16)
    out = case.unet(case.x, case.t, case.cond)
    torch.testing.assert_close(out, ask(case, case.cond), atol=1e-8, rtol=0)
    other = case.unet(case.x, case.t, case.cond._replace(text=case.cond.text + torch.randn_like(case.cond.text)))
    assert (out - other).abs().max() > 1e-2  # the text is heard


@pytest.mark.usefixtures("wide_floats")
@pytest.mark.parametrize("name", MASKED)
@torch.no_grad()
def test_prompts_of_unequal_length_equal_diffusers(name: str) -> None:
    case = make(name, torch.float64, peak=8)
    mask = torch.ones(2, 9)
    mask[0, 4:] = 0
    cond = case.cond._replace(mask=mask)
    out = case.unet(case.x, case.t, cond)
    torch.testing.assert_close(out, ask(case, cond), atol=1e-8, rtol=0)
    assert (out - case.unet(case.x, case.t, case.cond)).abs().max() > 1e-3  # the mask is heard


@torch.no_grad()
def test_mask_without_pixels_in_the_softmax() -> None:
    case = make("if_text_only", torch.float64, peak=8)
    unet, text = case.unet, case.cond.text
    unet.add_embedding.pool.forward = lambda states: states[:, 0]  # pooling has no mask, in diffusers neither
    unet.encoder_hid_proj.weight.mul_(4)
    mask = torch.ones(2, 9)
    mask[:, 5:] = 0
    masked = unet(case.x, case.t, case.cond._replace(mask=mask))
    short = unet(case.x, case.t, case.cond._replace(text=text[:, :5]))
    torch.testing.assert_close(masked, short, atol=1e-10, rtol=0)


@torch.no_grad()
def test_as_many_tokens_as_pixels_may_be_masked() -> None:
    """diffusers cannot: it takes a text mask as long as the pixels for a mask of the pixels."""
    case = make("if", torch.float64, peak=8, size=(6, 6))
    mask = torch.ones(2, 9)  # 3 x 3 pixels at the lower level
    out = case.unet(case.x, case.t, case.cond._replace(mask=mask))
    torch.testing.assert_close(out, case.unet(case.x, case.t, case.cond), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "x4"])
@torch.no_grad()
def test_odd_sizes_equal_diffusers(name: str) -> None:
    case = make(name, torch.float64, peak=8, size=(13, 18))
    torch.testing.assert_close(case.unet(case.x, case.t, case.cond), ask(case, case.cond), atol=1e-8, rtol=0)


@torch.no_grad()
def test_residual_resampling_takes_odd_sizes() -> None:
    case = make("if", torch.float32, peak=4, size=(13, 18))
    out = case.unet(case.x, case.t, case.cond)
    assert out.shape == (2, 6, 13, 18)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", ["sd1", "sdxl", "if_super"])
@torch.no_grad()
def test_prepared_equals_unprepared(name: str) -> None:
    case = make(name, torch.float32, peak=4)
    cond = case.cond._replace(mask=torch.tensor([[1.0] * 9, [1.0] * 4 + [0.0] * 5]))
    prepared = case.unet.prepare(cond)
    assert isinstance(prepared, Prepared)
    assert torch.equal(case.unet(case.x, case.t, prepared), case.unet(case.x, case.t, cond))


@pytest.mark.parametrize("name", ["sd1", "if_super"])
@torch.no_grad()
def test_a_batch_equals_its_pictures_alone(name: str) -> None:
    case = make(name, torch.float64, peak=4)
    together = case.unet(case.x, case.t, case.cond)
    for i in range(2):
        labels = None if case.cond.labels is None else case.cond.labels[i : i + 1]
        alone = case.unet(case.x[i : i + 1], case.t[i], Cond(case.cond.text[i : i + 1], labels=labels))
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-10, rtol=0)


@torch.no_grad()
def test_times_may_be_scalars_of_any_type() -> None:
    case = make("sd1", torch.float32, peak=4)
    expected = case.unet(case.x, torch.tensor([500, 500]), case.cond)
    for t in (torch.tensor(500), torch.tensor(500.0, dtype=torch.float64), torch.tensor([500])):
        assert torch.equal(case.unet(case.x, t, case.cond), expected)


@pytest.mark.parametrize("name", ["sd1", "if"])
@torch.no_grad()
def test_memory_format_and_dtype_of_x(name: str) -> None:
    case = make(name, torch.float32, peak=2)
    expected = case.unet(case.x, case.t, case.cond)
    last = copy.deepcopy(case.unet).to(memory_format=torch.channels_last)
    out = last(case.x.to(memory_format=torch.channels_last), case.t, case.cond)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)
    half = copy.deepcopy(case.unet).bfloat16()
    out = half(case.x, case.t, case.cond)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, atol=0.2, rtol=0.1)


@pytest.mark.usefixtures("wide_floats")
@pytest.mark.parametrize("name", ["sd1", "if_super"])
def test_gradients_equal_diffusers(name: str) -> None:
    case = make(name, torch.float64, peak=4, size=(8, 12))
    weight = torch.randn_like(case.x[:, :1])
    for network in (case.unet, case.reference):
        network.train().requires_grad_(True)
    (case.unet(case.x, case.t, case.cond) * weight).mean().backward()
    (ask(case, case.cond) * weight).mean().backward()
    expected = {key: parameter.grad for key, parameter in case.reference.named_parameters()}
    for key, parameter in case.unet.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], atol=1e-8, rtol=1e-6, msg=key)
