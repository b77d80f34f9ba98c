"""What unCLIP's decoder is told, against diffusers: the projection alone, and a decoder that hears it."""

from __future__ import annotations

from typing import Any, NamedTuple

import diffusers
import pytest
import torch
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from torch import Tensor

from pydiff.models.unclip import TextProjection, TextProjectionConfig
from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.cond import Cond

TOKENS = 7
CONFIGS: dict[str, dict[str, Any]] = {
    "karlo": {"clip_embeddings_dim": 12, "time_embed_dim": 64, "cross_attention_dim": 20},
    "three tokens": {
        "clip_embeddings_dim": 9,
        "time_embed_dim": 16,
        "cross_attention_dim": 5,
        "clip_extra_context_tokens": 3,
    },
    "one token": {
        "clip_embeddings_dim": 5,
        "time_embed_dim": 8,
        "cross_attention_dim": 9,
        "clip_extra_context_tokens": 1,
    },
}
DECODER = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "in_channels": 3,
    "out_channels": 6,
    "class_embed_type": "identity",
    "cross_attention_dim": 20,
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "scale_shift",
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
}


class Case(NamedTuple):
    reference: UnCLIPTextProjModel
    projection: TextProjection
    image: Tensor
    text: tuple[Tensor, Tensor]  # embeddings (B, P) and states (B, T, P)
    null: tuple[Tensor, Tensor]

    def ask_reference(self, guided: bool) -> tuple[Tensor, Tensor]:
        """What diffusers' pipelines ask: null branch first, both in one batch."""
        both = zip(self.null, self.text, strict=True)
        embeds, states = (torch.cat(pair) for pair in both) if guided else self.text
        made: tuple[Tensor, Tensor] = self.reference(
            image_embeddings=self.image,
            prompt_embeds=embeds,
            text_encoder_hidden_states=states,
            do_classifier_free_guidance=guided,
        )
        return made


def make(name: str, dtype: torch.dtype, batch: int) -> Case:
    torch.manual_seed(0)
    reference = UnCLIPTextProjModel(**CONFIGS[name]).to(dtype).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    projection = TextProjection(TextProjectionConfig.from_dict(dict(reference.config))).to(dtype).eval()
    projection.load_state_dict(reference.state_dict(), strict=True)
    width = CONFIGS[name]["clip_embeddings_dim"]

    def text() -> tuple[Tensor, Tensor]:
        return torch.randn(batch, width, dtype=dtype), torch.randn(batch, TOKENS, width, dtype=dtype)

    return Case(reference, projection, torch.randn(batch, width, dtype=dtype), text(), text())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_diffusers(name: str, batch: int, dtype: torch.dtype) -> None:
    case = make(name, dtype, batch)
    text, null = case.projection(case.image, *case.text), case.projection(None, *case.null)
    assert text[0].shape[1] == TOKENS + case.projection.config.clip_extra_context_tokens
    atol = 1e-4 if dtype == torch.float32 else 1e-8
    for ours, expected in zip(text, case.ask_reference(guided=False), strict=True):
        torch.testing.assert_close(ours, expected, atol=atol, rtol=0)
    for first, second, expected in zip(null, text, case.ask_reference(guided=True), strict=True):
        torch.testing.assert_close(torch.cat([first, second]), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_a_decoder_hears_it_as_diffusers_does(batch: int) -> None:
    case = make("karlo", torch.float64, batch)
    reference = diffusers.UNet2DConditionModel(**DECODER).double().eval()
    for name, parameter in reference.named_parameters():
        if any(part in name for part in ("to_q", "to_k", "add_k_proj")):
            parameter.mul_(8)
    unet = UNet(UNetConfig.from_dict(dict(reference.config))).double().eval()
    unet.load_state_dict(reference.state_dict())
    mask = torch.arange(TOKENS) < torch.tensor([2, 7, 4])[:batch, None]
    null_mask = torch.arange(TOKENS) < torch.full((batch, 1), 2)
    x, t = torch.randn(batch, 3, 8, 12, dtype=torch.float64), torch.tensor(341)

    states, labels = case.ask_reference(guided=True)
    padded = torch.nn.functional.pad(torch.cat([null_mask, mask]), (4, 0), value=True)
    expected = reference(torch.cat([x, x]), t, states, class_labels=labels, attention_mask=padded).sample
    branches = (case.projection(None, *case.null), null_mask), (case.projection(case.image, *case.text), mask)
    out = [unet(x, t, Cond(s, case.projection.widen_mask(shown), added)) for (s, added), shown in branches]
    torch.testing.assert_close(torch.cat(out), expected, atol=1e-8, rtol=0)
    assert (out[0] - out[1]).abs().max() > 1e-2


def test_the_mask_is_widened_in_its_own_type() -> None:
    projection = TextProjection(TextProjectionConfig(8, 6, clip_embeddings_dim=5))
    for dtype in (torch.bool, torch.int64, torch.float32):
        mask = torch.tensor([[1, 1, 0]]).to(dtype)
        assert torch.equal(projection.widen_mask(mask), torch.tensor([[1, 1, 1, 1, 1, 1, 0]]).to(dtype))


def test_karlo_has_the_keys_of_diffusers() -> None:
    widths = {"time_embed_dim": 1280, "cross_attention_dim": 1536}
    with torch.device("meta"):
        expected = UnCLIPTextProjModel(**widths).state_dict()
        ours = TextProjection(TextProjectionConfig(**widths)).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in expected.items()}


@torch.no_grad()
def test_weights_of_another_dtype() -> None:
    case = make("karlo", torch.float32, 2)
    made = case.projection.to(torch.bfloat16)(case.image, *case.text)
    for ours, expected in zip(made, case.ask_reference(guided=False), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_class_name": "PriorTransformer"}, "'PriorTransformer'; expected a 'UnCLIPTextProjModel'"),
        ({"clip_dim": 5}, "unknown fields .* clip_dim"),
        ({"time_embed_dim": None}, "time_embed_dim is None"),
        ({"clip_extra_context_tokens": 0}, "clip_extra_context_tokens is 0"),
    ],
)
def test_refuses_other_configurations(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextProjectionConfig.from_dict(CONFIGS["karlo"] | changed)


def test_refuses_a_configuration_without_the_widths_of_the_decoder() -> None:
    with pytest.raises(ValueError, match="lacks time_embed_dim, cross_attention_dim"):
        TextProjectionConfig.from_dict({"clip_embeddings_dim": 5})


@pytest.mark.parametrize(
    ("image", "embeds", "states", "message"),
    [
        ((2, 5), (2, 5), (2, 7, 4), r"text_states has shape \(2, 7, 4\); expected \(2, T, 5\)"),
        ((2, 5), (2, 5), (3, 7, 5), "text_states has shape"),
        ((2, 5), (2, 5), (2, 5), "text_states has shape"),
        ((2, 5), (2, 4), (2, 7, 5), r"text_embeds has shape \(2, 4\); expected \(B, 5\)"),
        ((1, 5), (2, 5), (2, 7, 5), r"image_embeds has shape \(1, 5\); expected \(2, 5\)"),
        ((2, 1, 5), (2, 5), (2, 7, 5), "image_embeds has shape"),
    ],
)
def test_refuses(image: tuple[int, ...], embeds: tuple[int, ...], states: tuple[int, ...], message: str) -> None:
    projection = TextProjection(TextProjectionConfig(8, 6, clip_embeddings_dim=5))
    with pytest.raises(ValueError, match=message):
        projection(torch.zeros(image), torch.zeros(embeds), torch.zeros(states))
