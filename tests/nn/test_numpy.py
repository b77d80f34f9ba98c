"""Conditioning, edits and captured attention as NumPy's arrays, and what networks say of their layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pydiff.models.autoencoder import Autoencoder, AutoencoderConfig
from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.attention import JointAttention, SelfAttention, TextAttention
from pydiff.nn.cond import Cond, together
from pydiff.nn.edit import AttentionEdit, Heat, among
from pydiff.nn.resnet import ResnetBlock

KINDS = {JointAttention: "text and pixels", SelfAttention: "pixels", TextAttention: "text"}
CONFIG = UNetConfig.from_dict(
    {
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 6,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
)


def test_batches_are_joined() -> None:
    text = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    cond = Cond(text, None, np.array([1, 2]), {"time_ids": np.ones((2, 6))})
    both = together([cond, cond.repeated(2)])
    assert both.text is not None
    assert both.labels is not None
    assert np.array_equal(both.text, np.concatenate([text] * 3))
    assert both.labels.tolist() == [1, 2] * 3
    assert both.mask is None
    assert both.of(slice(1, 3)).added["time_ids"].shape == (2, 6)  # type: ignore[index]


def test_probes_and_tables() -> None:
    heat, probe = Heat(), np.ones((2, 5, 1), np.float32)
    edit = AttentionEdit(5).capturing(probe, heat).capturing(probe * 2, heat)
    assert edit.probe is not None
    assert edit.probe.shape == (2, 5, 2)
    assert [(start, stop) for _, start, stop in edit.captures] == [(0, 1), (1, 2)]
    tables = edit.tables(np.array([0, 0]))
    assert tables is not None
    assert [table.dtype for table in tables] == [np.int64, np.float32, np.float32]
    assert among(np.array([0, 0]), 4).tolist() == [0, 0, 2, 3]  # type: ignore[union-attr]
    assert among(np.array([True]), 2).tolist() == [True, False]  # type: ignore[union-attr]


def test_heat_is_added_up_as_in_place() -> None:
    generator = torch.Generator().manual_seed(0)
    added, placed = Heat(), Heat()
    for rows in (2, 3, 1):  # a run may evaluate fewer branches at some levels
        share = torch.rand(rows, 4, 2, generator=generator)
        placed.place(torch.empty(rows, 1, 4, 8), 2).add_(share)
        added.add(4, share.numpy())
    assert added.counts == placed.counts == {4: 3}
    assert isinstance(added.mean(4), np.ndarray)
    np.testing.assert_array_equal(added.mean(4), placed.mean(4).numpy(), strict=True)


def test_networks_say_what_their_layers_do() -> None:
    network = UNet(CONFIG)
    assert network.attention == {
        name: KINDS[type(layer)] for name, layer in network.layers.items() if type(layer) in KINDS
    }
    assert set(network.attention.values()) == {"pixels", "text"}
    assert network.residual_layers == [n for n, layer in network.layers.items() if isinstance(layer, ResnetBlock)]
    assert len(network.residual_layers) + len(network.attention) == len(network.layers)
    assert network.half().like.dtype == torch.float16
    assert Autoencoder(replace(AutoencoderConfig(), norm_num_groups=4)).double().like.dtype == torch.float64
