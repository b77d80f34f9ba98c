"""The T5 encoder against transformers' own."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Config as PeerConfig
from transformers import T5EncoderModel

from pydiff.models.t5 import T5Encoder
from pydiff.models.t5_config import T5Config

SIZES = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}


@pytest.mark.parametrize("projection", ["relu", "gated-gelu", "gated-silu"])
@pytest.mark.parametrize("max_distance", [128, 20])
def test_agrees_with_transformers(projection: str, max_distance: int) -> None:
    torch.manual_seed(0)
    options = {**SIZES, "feed_forward_proj": projection, "relative_attention_max_distance": max_distance}
    peer = T5EncoderModel(PeerConfig(**options, tie_word_embeddings=False)).eval()
    for parameter in peer.parameters():
        parameter.data.mul_(4).add_(0.01 * torch.randn_like(parameter))
    config = T5Config.from_dict(peer.config.to_dict())
    ours = T5Encoder(config)
    state = {k: v for k, v in peer.state_dict().items() if k != "encoder.embed_tokens.weight"}
    ours.load_state_dict(state)
    ids = torch.randint(0, 97, (3, 77))
    mask = (torch.arange(77) < torch.tensor([5, 30, 77])[:, None]).long()
    with torch.no_grad():
        expected = peer(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.allclose(ours(ids, mask), expected, rtol=1e-4, atol=1e-4)
        unmasked = peer(input_ids=ids).last_hidden_state
        assert torch.allclose(ours(ids), unmasked, rtol=1e-4, atol=1e-4)


def test_refuses_what_is_no_t5() -> None:
    with pytest.raises(ValueError, match="model_type 'clip'"):
        T5Config.from_dict({"model_type": "clip"})
    with pytest.raises(ValueError, match="lacks d_kv"):
        T5Config.from_dict({"model_type": "t5", **{k: v for k, v in SIZES.items() if k != "d_kv"}})
    with pytest.raises(ValueError, match="feed_forward_proj is 'gated-tanh'"):
        T5Config.from_dict({"model_type": "t5", **SIZES, "feed_forward_proj": "gated-tanh"})
