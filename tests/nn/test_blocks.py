"""Single blocks against diffusers' classes, in float64."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnAddedKVProcessor
from diffusers.models.embeddings import TextTimeEmbedding as TextTimeReference
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from pydiff.nn.attention import AttentionSpec, JointAttention, Transformer2D
from pydiff.nn.cond import Prepared
from pydiff.nn.embeddings import TextTimeEmbedding, sinusoidal
from pydiff.nn.resnet import ResnetBlock, ResnetSpec


def paired(ours: nn.Module, reference: nn.Module) -> None:
    """Give both the same random float64 weights, with peaked attention."""
    with torch.no_grad():
        for name, parameter in reference.double().eval().named_parameters():
            peak = 6 if any(part in name for part in ("to_q", "to_k", "add_k", "q_proj")) else 1
            parameter.copy_(
                peak * torch.randn_like(parameter) / max(parameter[0].numel(), 4) ** 0.5 + (parameter.ndim < 2)
            )
    ours.double().eval().load_state_dict(reference.state_dict(), strict=True)


def same(ours: Tensor, expected: Tensor) -> None:
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dim", [8, 9, 320])
@pytest.mark.parametrize("cos_first", [True, False])
@pytest.mark.parametrize("freq_shift", [0, 1])
def test_sinusoidal(dim: int, cos_first: bool, freq_shift: int) -> None:
    t = torch.tensor([0.0, 0.25, 999.0])
    expected = get_timestep_embedding(t, dim, flip_sin_to_cos=cos_first, downscale_freq_shift=freq_shift)
    assert torch.equal(sinusoidal(t, dim, cos_first=cos_first, freq_shift=freq_shift), expected)


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("act", ["silu", "gelu"])
@pytest.mark.parametrize("resample", [None, "up", "down"])
@torch.no_grad()
def test_residual_block(scale_shift: bool, act: str, resample: str | None) -> None:
    torch.manual_seed(0)
    spec = ResnetSpec(
        10, 4, 1e-5, act, scale_shift, skip_embed_act=act == "gelu", out_scale=1.5 if scale_shift else 1.0
    )
    ours = ResnetBlock(8, 12, spec, resample)
    reference = ResnetBlock2D(
        in_channels=8,
        out_channels=12,
        temb_channels=10,
        groups=4,
        eps=1e-5,
        non_linearity=act,
        skip_time_act=spec.skip_embed_act,
        time_embedding_norm="scale_shift" if scale_shift else "default",
        output_scale_factor=spec.out_scale,
        up=resample == "up",
        down=resample == "down",
    )
    paired(ours, reference)
    x, emb = torch.randn(2, 8, 6, 4).double(), torch.randn(2, 10).double()
    same(ours(x, emb, (12, 8)), reference(x, emb))


def test_dropout_acts_in_training_only() -> None:
    block = ResnetBlock(8, 8, ResnetSpec(4, 4, 1e-5, dropout=0.5))
    x, emb = torch.randn(1, 8, 4, 4), torch.randn(1, 4)
    assert not torch.equal(block.train()(x, emb), block(x, emb))
    assert torch.equal(block.eval()(x, emb), block(x, emb))


@pytest.mark.parametrize("linear", [True, False])
@torch.no_grad()
def test_transformer(linear: bool) -> None:
    torch.manual_seed(0)
    ours = Transformer2D(12, AttentionSpec("separate", 3, 7, 4, False, depth=2, linear_projection=linear))
    reference = Transformer2DModel(
        3, 4, in_channels=12, num_layers=2, cross_attention_dim=7, norm_num_groups=4, use_linear_projection=linear
    )
    paired(ours, reference)
    x, text = torch.randn(2, 12, 5, 3).double(), torch.randn(2, 6, 7).double()
    layers = [block.attn2 for block in ours.transformer_blocks]
    for index, layer in enumerate(layers):
        layer.layer = index
    cond = Prepared(None, tuple(layer.text_keys(text) for layer in layers), None)
    same(ours(x, cond), reference(x, text).sample)


@pytest.mark.parametrize("norm", [None, "group_norm"])
@pytest.mark.parametrize("only_text", [True, False])
@torch.no_grad()
def test_joint_attention(norm: str | None, only_text: bool) -> None:
    """Against diffusers' processor that writes the softmax out."""
    torch.manual_seed(0)
    ours = JointAttention(12, AttentionSpec("joint", 3, 32, 4, only_text, text_norm=norm))
    reference = Attention(
        query_dim=12,
        cross_attention_dim=12,
        heads=3,
        dim_head=4,
        added_kv_proj_dim=32,
        norm_num_groups=4,
        bias=True,
        only_cross_attention=only_text,
        cross_attention_norm=norm,
        processor=AttnAddedKVProcessor(),
    )
    paired(ours, reference)
    x, text = torch.randn(2, 12, 5, 3).double(), torch.randn(2, 6, 32).double()
    same(ours(x, Prepared(None, (ours.text_keys(text),), None)), reference(x, encoder_hidden_states=text))


@torch.no_grad()
def test_pooled_text(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(Tensor, "float", lambda self: self)  # diffusers rounds this softmax to float32
    ours, reference = TextTimeEmbedding(12, 10, 3), TextTimeReference(12, 10, 3)
    paired(ours, reference)
    text = torch.randn(2, 6, 12).double()
    same(ours(text), reference(text))
