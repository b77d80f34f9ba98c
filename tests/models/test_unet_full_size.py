"""One call of every big family in its real configuration, with random weights, beside diffusers: `pytest -m slow`.

Up to 11 GB and a minute or two each; both networks hold the same tensors.
"""

from __future__ import annotations

import gc

import diffusers
import pytest
import torch

from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.cond import Cond
from tests.models.test_unet_sizes import PUBLISHED


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", PUBLISHED)
def test_checkpoints_of_full_size(name: str) -> None:
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**PUBLISHED[name])
        ours = UNet(UNetConfig.from_dict(dict(theirs.config)))
    theirs.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            spread = parameter.shape[1:].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.uniform_(-spread, spread, generator=generator).add_(parameter.ndim == 1)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    config = ours.config
    x = torch.randn(1, config.in_channels, 16, 24, generator=generator)
    text = torch.randn(1, 7, config.text_dim, generator=generator)
    added = None
    if config.addition_embed_type == "text_time":
        width = (config.projection_class_embeddings_input_dim or 0) - 6 * (config.addition_time_embed_dim or 0)
        added = {"text_embeds": torch.randn(1, width, generator=generator), "time_ids": torch.arange(6.0)[None]}
    t = torch.tensor(500)
    labels = None if config.num_class_embeds is None else torch.tensor([20])
    with torch.inference_mode():
        expected = theirs(x, t, text, class_labels=labels, added_cond_kwargs=added).sample
        made = ours.eval()(x, t, Cond(text, labels=labels, added=added))
    scale = expected.abs().max()
    assert expected.std() > 0
    assert (made - expected).abs().max() < 1e-4 * max(1.0, float(scale))
    del theirs, ours
    gc.collect()
