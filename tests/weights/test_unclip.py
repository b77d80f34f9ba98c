"""The folders of unCLIP's own networks: diffusers' opened here."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

from pydiff.weights.unclip import load_prior, load_text_projection

PRIOR = {
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "num_layers": 1,
    "embedding_dim": 6,
    "num_embeddings": 5,
}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    diffusers.PriorTransformer(**PRIOR).save_pretrained(tmp_path / "prior", max_shard_size="2KB")
    projection = UnCLIPTextProjModel(time_embed_dim=8, cross_attention_dim=7, clip_embeddings_dim=6)
    projection.save_pretrained(tmp_path / "text_proj", variant="fp16")
    return tmp_path


@torch.no_grad()
def test_a_prior_of_diffusers_is_opened(folders: Path) -> None:
    assert len(list((folders / "prior").glob("*.safetensors"))) > 1
    reference = diffusers.PriorTransformer.from_pretrained(folders / "prior")
    prior = load_prior(folders / "prior")
    assert not prior.training
    given = torch.randn(2, 6), torch.tensor(9), torch.randn(2, 6), torch.randn(2, 5, 6)
    mask = torch.ones(2, 5)
    torch.testing.assert_close(prior(*given, mask), reference(*given, mask)[0], atol=1e-5, rtol=0)
    assert {parameter.dtype for parameter in load_prior(folders / "prior", torch.float64).parameters()} == {
        torch.float64
    }


@torch.no_grad()
def test_a_text_projection_of_diffusers_is_opened(folders: Path) -> None:
    reference = UnCLIPTextProjModel.from_pretrained(folders / "text_proj", variant="fp16")
    projection = load_text_projection(folders / "text_proj", variant="fp16")
    assert not projection.training
    state = reference.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in projection.state_dict().items())


def test_another_network_is_refused(folders: Path) -> None:
    with pytest.raises(ValueError, match="expected a 'PriorTransformer'"):
        load_prior(folders / "text_proj", variant="fp16")
    with pytest.raises(ValueError, match="expected a 'UnCLIPTextProjModel'"):
        load_text_projection(folders / "prior")
    config = json.loads((folders / "prior" / "config.json").read_text())
    (folders / "prior" / "config.json").write_text(json.dumps(config | {"num_layers": 2}))
    with pytest.raises(ValueError, match=r"lack 16 tensors: transformer_blocks\.1"):
        load_prior(folders / "prior")
