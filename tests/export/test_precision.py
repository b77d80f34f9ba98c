"""Graphs with smaller weights, and weights in files beside their graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pydiff.export import write
from pydiff.export.graphs import example_inputs, networks_of, unet_network
from pydiff.export.parity import CALL_BOUNDS, root_mean_square
from pydiff.export.precision import CONVERSIONS, quantize
from pydiff.folders import read_index
from tests.export.conftest import Pair

SIZES = {"batch": 2, "tokens": 9, "height": 16, "width": 24}
SMALLER = {"float16": 0.55, "int8": 0.5}  # of the bytes; tiny networks have many that stay float32


def ran(path: Path, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {value.name: inputs[value.name] for value in session.get_inputs()})


@pytest.mark.parametrize("dtype", SMALLER)
@pytest.mark.parametrize("family", ["xl", "if"])
def test_smaller_weights(pair: Callable[[str], Pair], tmp_path: Path, family: str, dtype: str) -> None:
    ours, _, folder = pair(family)
    index = read_index(folder / "model")
    for network in networks_of(index, ours):
        whole = folder / "model" / f"{network.name}.onnx"
        small = tmp_path / whole.name
        write.save(CONVERSIONS[dtype](ir.load(whole)), small)
        onnx.checker.check_model(small, full_check=True)
        inputs = {name: value.numpy() for name, value in example_inputs(network, SIZES).items()}
        expected, made = ran(whole, inputs), ran(small, inputs)
        assert all(one.dtype == np.float32 for one in made)
        errors = [root_mean_square(one, two) for one, two in zip(made, expected, strict=True)]
        assert 0 < max(errors) <= CALL_BOUNDS[dtype], network.name
    assert _bytes(tmp_path / "unet.onnx") <= SMALLER[dtype] * _bytes(folder / "model" / "unet.onnx")


def _bytes(path: Path) -> int:
    """Of weights that are more than a few numbers."""
    return sum(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer if len(tensor.raw_data) > 512)


def tables(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """An edit in which the second row borrows words from the first, and what it captures."""
    rows, tokens = SIZES["batch"], SIZES["tokens"]
    made = {
        "transfer": rng.random((rows, tokens, tokens)) / tokens,
        "keep": rng.random((rows, tokens)),
        "probe": rng.random((rows, tokens, 2)),
        "pixel_layers": np.zeros(4),  # as many as the tiny network has
        "unborrowed": np.zeros(rows),
        "rescale": np.ones(()),
    }
    rows_of = {"source": np.zeros(rows, np.int64), "pixel_source": np.arange(rows), "pooled": np.arange(rows)}
    return {**{name: value.astype(np.float32) for name, value in made.items()}, **rows_of}


@pytest.mark.parametrize("dtype", SMALLER)
def test_smaller_edit_graph(pair: Callable[[str], Pair], tmp_path: Path, dtype: str) -> None:
    ours, _, folder = pair("if")
    whole, small = folder / "model" / "unet_edit.onnx", tmp_path / "unet_edit.onnx"
    write.save(CONVERSIONS[dtype](ir.load(whole)), small)
    onnx.checker.check_model(small, full_check=True)
    own = {name: value.numpy() for name, value in example_inputs(unet_network(ours), SIZES).items()}
    inputs = {**own, **tables(np.random.default_rng(0))}
    for made, expected in zip(ran(small, inputs), ran(whole, inputs), strict=True):
        assert root_mean_square(made, expected) <= CALL_BOUNDS[dtype]


@given(st.integers(0, 2), st.integers(0, 1000))
def test_quantize(axis: int, seed: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((3, 4, 5)).astype(np.float32)
    weights[1] = 0
    whole, scale = quantize(weights, axis)
    shape = [len(scale) if place == axis else 1 for place in range(3)]
    assert whole.dtype == np.int8
    assert np.abs(whole * scale.reshape(shape) - weights).max() <= scale.max() / 2 + 1e-6
    assert np.abs(whole).max() == 127


def test_weights_beside_the_graph(pair: Callable[[str], Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a graph too large for one file; the edit graph has the same ones."""
    monkeypatch.setattr(write, "MOST_BYTES", 1 << 16)
    folder = pair("if").folder / "model"
    plain, edit = tmp_path / "unet.onnx", tmp_path / "unet_edit.onnx"
    write.save(ir.load(folder / "unet.onnx"), plain)
    write.save(ir.load(folder / "unet_edit.onnx"), edit, beside=plain)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unet.onnx", "unet.onnx.data", "unet_edit.onnx"]
    assert (tmp_path / "unet.onnx.data").stat().st_size > 10 * edit.stat().st_size
    own = {name: value.numpy() for name, value in example_inputs(unet_network(pair("if").ours), SIZES).items()}
    inputs = {**own, **tables(np.random.default_rng(0))}
    for path in (plain, edit):
        assert all(map(np.array_equal, ran(path, inputs), ran(folder / path.name, inputs)))
