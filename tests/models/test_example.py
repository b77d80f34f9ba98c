"""Paint by Example's network of pictures against diffusers: whole, and its mapper with more tokens than it is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.pipelines.deprecated.paint_by_example.image_encoder import (
    PaintByExampleImageEncoder,
    PaintByExampleMapper,
)
from transformers import CLIPVisionConfig

from pydiff.models.example import ExampleNetwork, Mapper, example_key, example_network

PUBLISHED = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "projection_dim": 768,
    "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "two blocks": {"num_hidden_layers": 9, "projection_dim": 20},
    "one block": {"num_hidden_layers": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-3},
    "none": {"num_hidden_layers": 3, "projection_dim": 7},
}


def config(name: str) -> dict[str, Any]:
    fields = {"hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 4, "image_size": 24, "patch_size": 6}
    return {"model_type": "clip_vision_model", **fields, **CONFIGS[name]}


def uneven(module: torch.nn.Module) -> torch.nn.Module:
    """Peaked attention, pictures that count, norms and biases of random values."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if (name.startswith("model.") and parameter.ndim > 1) or "to_q.weight" in name or "to_k.weight" in name:
                parameter.mul_(8)
            elif parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def pair(name: str, dtype: torch.dtype) -> tuple[Any, ExampleNetwork]:
    torch.manual_seed(0)
    fields = {key: value for key, value in config(name).items() if key != "model_type"}
    reference = uneven(PaintByExampleImageEncoder(CLIPVisionConfig(**fields))).to(dtype)
    network = example_network(config(name)).to(dtype).eval()
    network.load_state_dict({example_key(key, network): value for key, value in reference.state_dict().items()})
    return reference, network


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_diffusers(name: str, dtype: torch.dtype, atol: float) -> None:
    reference, network = pair(name, dtype)
    pictures = torch.randn(3, 3, 24, 24, dtype=dtype)
    expected, nothing = reference(pictures, return_uncond_vector=True)
    made = network(pictures)
    assert made.shape == (3, 1, CONFIGS[name].get("projection_dim", 512))
    assert (made[0] - made[1]).abs().max() > 0.1
    torch.testing.assert_close(made, expected, atol=atol, rtol=0)
    assert torch.equal(network.uncond_vector, nothing)


@torch.no_grad()
def test_the_mapper_equals_diffusers() -> None:
    torch.manual_seed(1)
    reference = uneven(PaintByExampleMapper(CLIPVisionConfig(hidden_size=12, num_hidden_layers=9))).double()
    mapper = Mapper(12, 2).double()
    mapper.load_state_dict(reference.state_dict())
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(mapper(x), reference(x), atol=1e-8, rtol=0)
    assert (mapper(x)[:, :1] - mapper(x[:, :1])).abs().max() > 1e-2  # with one token alone there is nothing to weigh


def test_the_published_one_has_the_keys_of_diffusers() -> None:
    with torch.device("meta"):
        reference = PaintByExampleImageEncoder(CLIPVisionConfig(**PUBLISHED))
        network = example_network(PUBLISHED)
    expected = {key: tensor.shape for key, tensor in reference.state_dict().items()}
    assert {key: tensor.shape for key, tensor in network.state_dict().items()} == expected
    assert len(network.mapper.blocks) == 5


def test_old_keys() -> None:
    """Published checkpoints hold CLIP's own keys as transformers wrote them then, and positions."""
    network = example_network(config("none"))
    kept = set(network.state_dict())
    for key in kept:
        old = key.replace("model.", "model.vision_model.", 1) if key.startswith("model.") else key
        assert example_key(old, network) == example_key(key, network) == key
    assert example_key("model.vision_model.embeddings.position_ids", network) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "clip_text_model"}, "model_type 'clip_text_model'; expected 'clip_vision_model'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"projection_dim": "wide"}, "projection_dim = 'wide'"),
        ({"num_attention_heads": 5}, "num_attention_heads is 5, which does not divide 24"),
    ],
)
def test_refuses_other_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example_network({**config("none"), **changes})
