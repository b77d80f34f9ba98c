"""The prior of unCLIP against diffusers' PriorTransformer: tiny random networks with peaked attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import pytest
import torch
from torch import Tensor, nn

from pydiff.models.prior import Prior, PriorConfig

_KARLO = {
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "num_layers": 3,
    "embedding_dim": 14,
    "num_embeddings": 9,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "karlo": _KARLO,
    "norms": _KARLO | {"norm_in_type": "layer", "embedding_proj_norm_type": "layer"},
    "widths": _KARLO | {"embedding_proj_dim": 11, "clip_embed_dim": 14, "time_embed_dim": 20},
    "one head": _KARLO | {"num_attention_heads": 1, "attention_head_dim": 13, "time_embed_act_fn": "gelu"},
    "one block": _KARLO | {"num_layers": 1, "num_embeddings": 1, "dropout": 0.1},
}


class Case(NamedTuple):
    reference: diffusers.PriorTransformer
    prior: Prior
    x: Tensor
    t: Tensor
    text_embeds: Tensor
    text_states: Tensor
    mask: Tensor

    def ask(self, **changed: Tensor) -> Tensor:
        """What pydiff answers."""
        case = self._replace(**changed)
        out: Tensor = self.prior(case.x, case.t, case.text_embeds, case.text_states, case.mask)
        return out

    def ask_reference(self) -> Tensor:
        """What diffusers answers."""
        out: Tensor = self.reference(
            self.x, self.t, self.text_embeds, self.text_states, attention_mask=self.mask
        ).predicted_image_embedding
        return out


def randomise(model: nn.Module, peak: float) -> None:
    """Random norms, biases and learned tokens; queries and keys so large that attention is far from uniform, and other
    weights so large that tokens tell each other much."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "embedding" in name.split(".")[-1] or name.startswith("clip_"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(peak if "to_q" in name or "to_k" in name else 2)


def make(name: str, dtype: torch.dtype, peak: float = 8, batch: int = 3) -> Case:
    torch.manual_seed(0)
    reference = diffusers.PriorTransformer(**CONFIGS[name]).to(dtype).eval()
    randomise(reference, peak)
    config = PriorConfig.from_dict(dict(reference.config))
    prior = Prior(config).to(dtype).eval()
    prior.load_state_dict(reference.state_dict(), strict=True)
    tokens, dim = config.num_embeddings, config.embedding_dim
    text_states = 2 * torch.randn(batch, tokens, dim, dtype=dtype)
    text_embeds = torch.randn(batch, config.text_embed_dim, dtype=dtype)
    mask = torch.arange(tokens) < torch.tensor([4, 9, 1])[:batch, None]
    t = torch.tensor([17, 801, 0])[:batch]
    return Case(reference, prior, torch.randn(batch, dim, dtype=dtype), t, text_embeds, text_states, mask)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_diffusers_in_float32(name: str, batch: int) -> None:
    case = make(name, torch.float32, peak=4, batch=batch)
    torch.testing.assert_close(case.ask(), case.ask_reference(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_diffusers_in_float64(name: str, batch: int) -> None:
    case = make(name, torch.float64, peak=16, batch=batch)
    torch.testing.assert_close(case.ask(), case.ask_reference(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", ["karlo", "norms"])
@torch.no_grad()
def test_all_that_is_given_is_heard(name: str) -> None:
    case = make(name, torch.float64, peak=4)
    out = case.ask()
    changes = {
        "x": case.x + torch.randn_like(case.x),
        "t": case.t + 40,
        "text_embeds": case.text_embeds + torch.randn_like(case.text_embeds),
        "text_states": case.text_states + torch.randn_like(case.text_states),
    }
    for part, other in changes.items():
        assert (out - case.ask(**{part: other})).abs().max() > 0.1, part


@torch.no_grad()
def test_the_mask_is_heard_and_padding_is_not() -> None:
    case = make("karlo", torch.float64)
    states = case.text_states.masked_fill(~case.mask[:, :, None], 7.0)
    torch.testing.assert_close(case.ask(text_states=states), case.ask(), atol=1e-12, rtol=0)
    longer = case.mask.clone()
    longer[0, 6] = True
    changed = (case.ask(mask=longer) - case.ask()).abs().amax(dim=1)
    assert changed[0] > 1e-3
    assert changed[1:].max() == 0


@torch.no_grad()
def test_no_mask_is_a_mask_of_ones() -> None:
    """diffusers drops the causal mask together with the other one; its pipelines always give both."""
    case = make("norms", torch.float64)
    full = case._replace(mask=torch.ones_like(case.mask))
    out = case.prior(case.x, case.t, case.text_embeds, case.text_states)
    torch.testing.assert_close(out, full.ask_reference(), atol=1e-8, rtol=0)


@torch.no_grad()
def test_prepared_text_serves_every_step() -> None:
    case = make("norms", torch.float64)
    text = case.prior.prepare(case.text_embeds, case.text_states, case.mask)
    for t in (999, 500, 0):
        x = torch.randn_like(case.x)
        out = case.prior.predict(x, torch.tensor(t), text)
        torch.testing.assert_close(out, case._replace(x=x, t=torch.tensor([t] * 3)).ask_reference(), atol=1e-8, rtol=0)


@torch.no_grad()
def test_a_batch_equals_its_rows_alone() -> None:
    case = make("karlo", torch.float64)
    together = case.ask()
    for row in range(3):
        alone = {name: getattr(case, name)[row : row + 1] for name in case._fields[2:]}
        torch.testing.assert_close(case.ask(**alone), together[row : row + 1], atol=1e-12, rtol=0)


@torch.no_grad()
def test_times_and_masks_may_be_of_any_type() -> None:
    case = make("karlo", torch.float32)
    expected = case.ask(t=torch.tensor([500] * 3))
    for t in (torch.tensor(500), torch.tensor(500.0, dtype=torch.float64), torch.tensor([500])):
        assert torch.equal(case.ask(t=t, mask=case.mask.long()), expected)


@torch.no_grad()
def test_weights_of_another_dtype() -> None:
    case = make("karlo", torch.float32, peak=1)
    half = case.prior.to(torch.bfloat16)
    out = half(case.x, case.t, case.text_embeds, case.text_states, case.mask)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, case.ask_reference(), atol=0.1, rtol=0.1)


@torch.no_grad()
def test_unnormalised_equals_diffusers() -> None:
    case = make("karlo", torch.float32)
    expected = case.reference.post_process_latents(case.x)
    torch.testing.assert_close(case.prior.unnormalised(case.x), expected, atol=1e-6, rtol=0)
    assert (expected - case.x).abs().max() > 0.1


def test_gradients_equal_diffusers() -> None:
    case = make("norms", torch.float64)
    weight = torch.randn_like(case.x)
    (case.ask() * weight).mean().backward()
    (case.ask_reference() * weight).mean().backward()
    expected = {key: parameter.grad for key, parameter in case.reference.named_parameters()}
    for key, parameter in case.prior.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], atol=1e-8, rtol=1e-6, msg=key)


def test_karlo_has_the_keys_of_diffusers() -> None:
    with torch.device("meta"):
        expected = diffusers.PriorTransformer().state_dict()
        ours = Prior(PriorConfig()).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in expected.items()}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "'UNet2DModel'; expected a 'PriorTransformer'"),
        ({"clip_embeddings_dim": 14}, "unknown fields .* clip_embeddings_dim"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_attention_heads": 1 << 11}, "num_attention_heads is 2048"),
        ({"additional_embeddings": 0}, "additional_embeddings is 0; expected 4"),
        ({"norm_in_type": "batch"}, "norm_in_type is 'batch'"),
        ({"added_emb_type": None}, "added_emb_type is None; expected 'prd'"),
        ({"encoder_hid_proj_type": None}, "encoder_hid_proj_type is None"),
        ({"time_embed_act_fn": "sin"}, "time_embed_act_fn is 'sin'"),
        ({"time_embed_dim": 40}, "time_embed_dim is 40; expected null or 20"),
        ({"clip_embed_dim": 13}, "clip_embed_dim is 13; expected null or 14"),
        ({"embedding_dim": "14"}, "embedding_dim is '14'"),
    ],
)
def test_refuses_other_configurations(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PriorConfig.from_dict(_KARLO | changed)


Change = Callable[[Case], dict[str, Tensor]]
REFUSALS: dict[str, tuple[Change, str]] = {
    "x width": (lambda c: {"x": c.x[:, :5]}, r"x is torch.float32 \(3, 5\); expected floats \(B, 14\)"),
    "x rank": (lambda c: {"x": c.x[0]}, "x is"),
    "x ints": (lambda c: {"x": c.x.long()}, "x is torch.int64"),
    "x batch": (lambda c: {"x": c.x[:2], "t": c.t[:2]}, "the text is of 3 prompts, but x has 2"),
    "t length": (lambda c: {"t": c.t[:2]}, r"t has shape \(2,\)"),
    "t rank": (lambda c: {"t": c.t[:, None]}, "t has shape"),
    "text_embeds width": (lambda c: {"text_embeds": c.text_embeds[:, 1:]}, "text_embeds has shape"),
    "text_embeds batch": (lambda c: {"text_embeds": c.text_embeds[:1]}, r"text_states .*; expected \(1, 9, 14\)"),
    "text_states length": (lambda c: {"text_states": c.text_states[:, 1:]}, "text_states .*pad the prompts"),
    "text_states width": (lambda c: {"text_states": c.text_states[..., 1:]}, "text_states has shape"),
    "mask shape": (lambda c: {"mask": c.mask[:, 1:]}, r"mask has shape \(3, 8\); expected \(3, 9\)"),
    "mask of no token": (lambda c: {"mask": torch.zeros_like(c.mask)}, "mask hides the first token"),
    "mask of padding in front": (lambda c: {"mask": c.mask.flip(1)}, "mask hides the first token"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses(name: str) -> None:
    change, message = REFUSALS[name]
    case = make("karlo", torch.float32)
    with pytest.raises(ValueError, match=message):
        case.ask(**change(case))


@torch.no_grad()
def test_refuses_text_prepared_elsewhere() -> None:
    case, other = make("karlo", torch.float32), make("one block", torch.float32)
    text = other.prior.prepare(other.text_embeds, other.text_states)
    with pytest.raises(ValueError, match="keys for 1 blocks, not 3"):
        case.prior.predict(case.x, case.t, text)
