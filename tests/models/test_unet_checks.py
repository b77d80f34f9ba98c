"""What a U-Net refuses before it computes anything, and what it says then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.edit import AttentionEdit, PixelEdit

_TEXT = {
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "text": _TEXT,
    "class": _TEXT | {"num_class_embeds": 16},
    "level": _TEXT | {"class_embed_type": "timestep"},
    "vector": _TEXT | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 5},
    "sizes": _TEXT
    | {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 3,
    },
}
LABELS = {"class": torch.tensor([0, 15]), "level": torch.tensor([0, 250]), "vector": torch.zeros(2, 5)}
ADDED = {"text_embeds": torch.zeros(2, 3), "time_ids": torch.zeros(2, 6)}

Change = Callable[[Tensor, Tensor, Cond], tuple[Tensor, Tensor, Cond | Prepared]]


def ask(network: str, change: Change) -> Tensor:
    unet = UNet(UNetConfig.from_dict(NETWORKS[network]))
    cond = Cond(torch.zeros(2, 9, 6), labels=LABELS.get(network), added=ADDED if network == "sizes" else None)
    with torch.no_grad():
        out: Tensor = unet(*change(torch.zeros(2, 4, 8, 8), torch.tensor([1, 2]), cond))
    return out


REFUSALS: dict[str, tuple[str, Change, str]] = {
    "x channels": ("text", lambda x, t, c: (x[:, :3], t, c), "x is"),
    "x rank": ("text", lambda x, t, c: (x[0], t, c), "x is"),
    "x ints": ("text", lambda x, t, c: (x.long(), t, c), "x is"),
    "x too small": ("text", lambda x, t, c: (x[..., :1], t, c), "at least 2"),
    "t length": ("text", lambda x, t, c: (x, torch.zeros(3), c), "t has shape"),
    "t rank": ("text", lambda x, t, c: (x, torch.zeros(2, 1), c), "t has shape"),
    "text missing": ("text", lambda x, t, c: (x, t, Cond(None)), "text is missing"),
    "text width": ("text", lambda x, t, c: (x, t, c._replace(text=torch.zeros(2, 9, 5))), "encoder states"),
    "text empty": ("text", lambda x, t, c: (x, t, c._replace(text=torch.zeros(2, 0, 6))), "encoder states"),
    "text batch": ("text", lambda x, t, c: (x, t, c._replace(text=torch.zeros(1, 9, 6))), "is for 1 pictures"),
    "mask shape": ("text", lambda x, t, c: (x, t, c._replace(mask=torch.ones(2, 8))), "mask has shape"),
    "labels given": ("text", lambda x, t, c: (x, t, c._replace(labels=torch.zeros(2))), "takes none"),
    "added given": ("text", lambda x, t, c: (x, t, c._replace(added={"time_ids": x})), "takes nothing"),
    "edit given": ("text", lambda x, t, c: (x, t, c._replace(edit=object())), "expected an AttentionEdit"),
    "edit of another batch": (
        "text",
        lambda x, t, c: (x, t, c._replace(edit=AttentionEdit(5, pixel_edit=PixelEdit(torch.arange(7), "map")))),
        "pixel_edit of the edit is for 7 pictures, but x has",
    ),
    "prepared elsewhere": ("text", lambda x, t, c: (x, t, Prepared(None, (), None)), "prepare it"),
    "labels missing": ("level", lambda x, t, c: (x, t, c._replace(labels=None)), "labels are missing"),
    "labels shape": ("level", lambda x, t, c: (x, t, c._replace(labels=torch.zeros(2, 1))), "of shape"),
    "labels batch": ("level", lambda x, t, c: (x, t, c._replace(labels=torch.zeros(3))), r"for \[2, 3\] pictures"),
    "labels width": ("vector", lambda x, t, c: (x, t, c._replace(labels=torch.zeros(2, 4))), r"expected \(B, 5\)"),
    "class too high": ("class", lambda x, t, c: (x, t, c._replace(labels=torch.tensor([0, 16]))), "from 0 to 15"),
    "class below 0": ("class", lambda x, t, c: (x, t, c._replace(labels=torch.tensor([0, -1]))), "from 0 to 15"),
    "class of floats": ("class", lambda x, t, c: (x, t, c._replace(labels=torch.zeros(2))), "ints from 0 to 15"),
    "added missing": ("sizes", lambda x, t, c: (x, t, c._replace(added=None)), "text_embeds, time_ids"),
    "added width": ("sizes", lambda x, t, c: (x, t, c._replace(added=ADDED | {"time_ids": x[:, 0, 0, :5]})), "in all"),
    "added rank": ("sizes", lambda x, t, c: (x, t, c._replace(added=ADDED | {"text_embeds": x})), r"expected \(B, P\)"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses(name: str) -> None:
    network, change, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        ask(network, change)


@pytest.mark.parametrize("network", NETWORKS)
def test_accepts_what_fits(network: str) -> None:
    assert ask(network, lambda x, t, c: (x, t, c)).shape == (2, 4, 8, 8)
