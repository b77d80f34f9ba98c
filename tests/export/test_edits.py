"""The edit graph against the torch network with the same edit: attention that is separate, and joint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pydiff.arrays import like, on_host
from pydiff.cascade import Stage
from pydiff.export.graphs import example_inputs, unet_network
from pydiff.nn.cond import Cond
from pydiff.nn.edit import AttentionEdit, Heat, Layers, PixelEdit
from tests.export.conftest import Pair

ROWS, TOKENS, SIZE, CALL = 4, 9, (12, 20), 1e-4
RNG = np.random.default_rng(0)
SOURCE, OWN = np.array([0, 0, 0, 3]), np.arange(ROWS)  # rows 0 and 3 borrow nothing
REPLACED = np.broadcast_to(np.eye(TOKENS), (ROWS, TOKENS, TOKENS))
REFINED, KEPT = RNG.random((ROWS, TOKENS, TOKENS)) / TOKENS, RNG.random((ROWS, TOKENS))
REWEIGHTED = REPLACED * RNG.uniform(-1, 3, (ROWS, 1, TOKENS))
PROBE = RNG.random((ROWS, TOKENS, 3))
WORDS = {"source": SOURCE, "transfer": REFINED, "keep": KEPT}
SMALL = Layers(max_pixels=SIZE[0] * SIZE[1] // 4)

EDITS: dict[str, dict[str, Any]] = {
    "none": {},
    "replace": {"source": SOURCE, "transfer": REPLACED, "keep": np.zeros((ROWS, TOKENS))},
    "refine": WORDS,
    "refine, pixels kept": {**WORDS, "pixels": "keep"},
    "reweight": {"source": SOURCE, "transfer": REWEIGHTED, "keep": np.zeros((ROWS, TOKENS))},
    "pixels": {"pixel_edit": (SOURCE, Layers(), None)},
    "pixels of small layers": {"pixel_edit": (SOURCE, SMALL, None)},
    "words, pixels of small layers": {**WORDS, "pixel_edit": (SOURCE, SMALL, None)},
    "words of row 2, both of row 1": {**WORDS, "pixel_edit": (np.array([0, 0, 2, 3]), Layers(), OWN == 2)},
    "words and pooled": {**WORDS, "pooled": SOURCE},
}


def edit_of(stage: Stage, parts: dict[str, Any], heat: Heat) -> AttentionEdit:
    """The edit in the network's kind of arrays."""

    def own(value: NDArray[Any]) -> Any:
        is_host = isinstance(stage.unet.like, np.ndarray)
        return value if is_host and value.dtype.kind != "f" else _placed(value, stage)

    made = {name: own(value) if isinstance(value, np.ndarray) else value for name, value in parts.items()}
    if "pixel_edit" in parts:
        source, layers, unborrowed = parts["pixel_edit"]
        left = None if unborrowed is None else own(unborrowed)
        made["pixel_edit"] = PixelEdit(own(source), "map", layers, left)
    return AttentionEdit(TOKENS, **made).capturing(own(PROBE), heat)


def _placed(value: NDArray[Any], stage: Stage) -> Any:
    if value.dtype.kind == "f":
        return like(value, stage.unet.like)
    import torch

    return torch.from_numpy(value)


def predicted(stage: Stage, inputs: dict[str, Any], edit: AttentionEdit | None) -> NDArray[Any]:
    given = {name: like(on_host(value), stage.unet.like) for name, value in inputs.items()}
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    cond = Cond(given["encoder_hidden_states"], given["encoder_attention_mask"], None, added or None, edit)
    return on_host(stage.unet(given["sample"], given["timestep"], stage.unet.prepare(cond)))


def inputs_of(stage: Stage) -> dict[str, Any]:
    sizes = {"batch": ROWS, "tokens": TOKENS, "height": SIZE[0], "width": SIZE[1]}
    return dict(example_inputs(unet_network(stage), sizes))


@pytest.mark.parametrize("family", ["xl", "if"])
@pytest.mark.parametrize("name", EDITS)
def test_edits(pair: Callable[[str], Pair], family: str, name: str) -> None:
    ours, exported, _ = pair(family)
    inputs, parts = inputs_of(ours), EDITS[name]
    heats = Heat(), Heat()
    expected = predicted(ours, inputs, edit_of(ours, parts, heats[0]))
    made = predicted(exported, inputs, edit_of(exported, parts, heats[1]))
    assert np.abs(made - expected).max() <= CALL * max(1, np.abs(expected).max())
    assert heats[1].sums.keys() == heats[0].sums.keys()
    for pixels, sums in heats[0].sums.items():
        assert np.abs(on_host(heats[1].sums[pixels]) - on_host(sums)).max() <= CALL
    plain = predicted(exported, inputs, None)
    moved = np.abs(made - plain).max(axis=(1, 2, 3))
    assert moved[[0, 3]].max() <= CALL / 10  # the runtime may fuse the two graphs otherwise
    assert (moved[[1, 2]] > 20 * CALL).any() == bool(parts)
