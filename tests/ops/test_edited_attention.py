"""Native edited attention against its reference in float64, Prompt-to-Prompt's formulas, and its laws."""

from __future__ import annotations

import importlib
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from pydiff.ops.attention import attention, edited_attention, edited_attention_reference
from pydiff.ops.attention_call import Call, Edit, check, check_edit
from pydiff.ops.attention_torch import composed_edit
from tests.ops.attention_inputs import (
    BIASES,
    PIXELS,
    assert_no_worse,
    cast,
    edit,
    inputs,
    needs_core,
    without_capture,
)

module = importlib.import_module("pydiff.ops.attention")

SHAPES = [  # batch, heads, n, m, d, T
    (2, 1, 1, 1, 1, 1),
    (3, 2, 5, 7, 5, 7),
    (2, 3, 17, 77, 40, 77),
    (4, 2, 33, 110, 7, 77),
    (2, 2, 20, 400, 32, 130),
    (2, 1, 18, 300, 80, 9),
]


def torch_edited(**arguments: Any) -> Tensor:
    """The same by scaled_dot_product_attention."""
    tables = Edit(**{name: arguments.pop(name) for name in Edit._fields})
    call = check(Call(**arguments))
    return composed_edit(call, check_edit(call, tables))


def compare(full: dict[str, Any], tables: dict[str, Any], dtype: torch.dtype) -> None:
    mine, theirs, exact = cast(full, dtype), cast(full, dtype), cast({**cast(full, dtype), **tables}, torch.float64)
    out, peer = edited_attention(**mine, **tables), torch_edited(**theirs, **tables)
    truth = edited_attention_reference(**exact)
    assert out.dtype == dtype
    assert_no_worse(out, peer, truth, "output")
    assert_no_worse(mine["heat"], theirs["heat"], exact["heat"], "heat")
    assert torch.equal(out, edited_attention(**cast(without_capture(full), dtype), **tables))


@needs_core
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pixels", PIXELS)
def test_equals_reference(shape: tuple[int, ...], dtype: torch.dtype, pixels: str) -> None:
    for bias in BIASES:
        for amp in (0.1, 3):
            compare(inputs(*shape, amp=amp, bias=bias), edit(shape[0], shape[-1], pixels), dtype)


@needs_core
@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 150),
    st.integers(1, 40),
    st.data(),
    st.sampled_from(PIXELS),
    st.sampled_from(BIASES),
)
def test_any_shape(
    batch: int, heads: int, n: int, m: int, dim: int, data: st.DataObject, pixels: str, bias: str
) -> None:
    text = data.draw(st.integers(1, m))
    tables = edit(batch, text, pixels)
    tables["source"] = torch.tensor(data.draw(st.lists(st.integers(0, batch - 1), min_size=batch, max_size=batch)))
    compare(inputs(batch, heads, n, m, dim, text, bias=bias), tables, torch.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("bias", BIASES)
def test_composed_of_torch_equals_reference(shape: tuple[int, ...], pixels: str, bias: str) -> None:
    full = inputs(*shape, amp=2, bias=bias) | edit(shape[0], shape[-1], pixels)
    mine, exact = cast(full, torch.float64), cast(full, torch.float64)
    out, expected = edited_attention(**mine), edited_attention_reference(**exact)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mine["heat"], exact["heat"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_core), False])
@pytest.mark.parametrize("m", [77, 150])
@pytest.mark.parametrize("pixels", PIXELS)
def test_rows_without_edits_are_plain(native: bool, m: int, pixels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(module, "_serves", lambda *_: None)
    full = inputs(4, 2, 21, m, 24, 77, bias="-10000")
    tables = edit(4, 77, pixels)
    for name in ("transfer", "keep"):
        tables[name][[0, 3]] = torch.nan  # not read
    mine, plain = ({**full, "heat": full["heat"].clone()} for _ in range(2))
    out, expected = edited_attention(**mine, **tables), attention(**plain)
    assert torch.equal(out[[0, 3]], expected[[0, 3]])
    assert torch.equal(mine["heat"][[0, 3]], plain["heat"][[0, 3]])
    assert not torch.isclose(out[[1, 2]], expected[[1, 2]]).all(-1).any()


@needs_core
@pytest.mark.parametrize("m", [77, 150])
@pytest.mark.parametrize("pixels", ["keep", "rescale"])
def test_the_identity_edit_changes_nothing(m: int, pixels: str) -> None:
    full = inputs(3, 2, 21, m, 24, 77)
    tables = edit(3, 77, pixels) | {"transfer": torch.zeros(3, 77, 77), "keep": torch.ones(3, 77)}
    mine, plain = ({**full, "heat": full["heat"].clone()} for _ in range(2))
    torch.testing.assert_close(edited_attention(**mine, **tables), attention(**plain), rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(mine["heat"], plain["heat"], rtol=2e-6, atol=2e-6)


@needs_core
@pytest.mark.parametrize("m", [77, 150])
def test_borrowing_everything_is_attention_with_other_queries_and_keys(m: int) -> None:
    full = inputs(3, 2, 21, m, 24, 77)
    tables = edit(3, 77, "borrow") | {"transfer": torch.eye(77).expand(3, -1, -1), "keep": torch.zeros(3, 77)}
    rows = {"q_rows": tables["source"], "k_rows": tables["source"]}
    mine, plain = ({**full, "heat": full["heat"].clone()} for _ in range(2))
    out = edited_attention(**mine, **tables)
    torch.testing.assert_close(out, attention(**plain, **rows), rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(mine["heat"], plain["heat"], rtol=2e-6, atol=2e-6)


@needs_core
def test_text_that_takes_every_share_leaves_the_pixels_alone() -> None:
    full = without_capture(inputs(2, 1, 4, 9, 4, 5))
    full["bias"] = torch.full((2, 1, 1, 5), 1000.0)
    tables = edit(2, 5, "rescale")
    exact = cast(full | tables, torch.float64)
    torch.testing.assert_close(
        edited_attention(**full, **tables), edited_attention_reference(**exact).float(), rtol=1e-5, atol=1e-5
    )


@needs_core
@pytest.mark.parametrize("m", [77, 150])
@pytest.mark.parametrize("pixels", PIXELS)
def test_rows_are_the_same_in_any_order_and_on_any_threads(m: int, pixels: str) -> None:
    full, tables = inputs(4, 3, 50, m, 24, 77, bias="normal"), edit(4, 77, pixels)
    order = torch.tensor([2, 0, 3, 1])
    mixed = {name: x[order] for name, x in (full | tables).items() if isinstance(x, Tensor)}
    mixed["source"] = order.argsort()[mixed["source"]]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        whole = edited_attention(**full, **tables)
        torch.set_num_threads(1)
        assert torch.equal(edited_attention(**mixed, pixels=pixels), whole[order])
        assert torch.equal(mixed["heat"], full["heat"][order])
    finally:
        torch.set_num_threads(threads)


def test_replace_refine_and_reweight_as_published() -> None:
    """Prompt-to-Prompt's own arithmetic on maps (Hertz et al. 2022, section 3.2), source first, then the target."""
    full = cast(without_capture(inputs(2, 3, 16, 6, 8, 6)), torch.float64)
    maps = torch.softmax(full["q"] @ full["k"].mT / 8**0.5, dim=-1)
    mapper = torch.eye(6, dtype=torch.float64)[[0, 2, 1, 4, 3, 5]]
    index, alpha = torch.tensor([0, 1, 1, 2, 3, 4]), torch.tensor([1.0, 1, 0, 1, 1, 1]).double()
    scale, schedule = torch.tensor([1.0, 1, 1, -2, 1, 1]).double(), torch.tensor([1.0, 0, 0.5, 1, 1, 1]).double()
    gather = torch.nn.functional.one_hot(index, 6).double().T
    for edited, transfer, keep in (
        (maps[0] @ mapper * schedule + maps[1] * (1 - schedule), mapper * schedule, 1 - schedule),
        (maps[0][..., index] * alpha + maps[1] * (1 - alpha), gather * alpha, 1 - alpha),
        (maps[0] * scale, torch.eye(6).double() * scale, torch.zeros(6).double()),
    ):
        tables = {"source": torch.tensor([0, 0]), "transfer": transfer.expand(2, 6, 6), "keep": keep.expand(2, 6)}
        for run in (edited_attention, edited_attention_reference):
            torch.testing.assert_close(run(**full, **tables)[1], edited @ full["v"][1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pixels", PIXELS)
def test_gradients(pixels: str) -> None:
    full = cast(inputs(3, 2, 3, 5, 4, 3, bias="normal") | edit(3, 3, pixels), torch.float64)
    names = ("q", "k", "v", "bias", "probe", "transfer", "keep")
    fixed = {"source": full["source"], "pixels": pixels}

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        heat = torch.zeros(3, 3, 3, dtype=torch.float64)
        return edited_attention(**dict(zip(names, tensors, strict=True)), **fixed, heat=heat), heat

    assert torch.autograd.gradcheck(run, tuple(full[name].requires_grad_() for name in names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": torch.tensor([0, 2])}, r"source is \[0, 2\]; expected rows in \[0, 2\)"),
        ({"source": torch.tensor([0.0, 1.0])}, "source is torch.float32"),
        ({"source": torch.tensor(0)}, r"source is torch.int64 \(\)"),
        ({"keep": torch.zeros(2, 4)}, r"transfer is .* expected floats \(2, 4, 4\)"),
        ({"keep": torch.zeros(3, 5)}, r"keep is .* expected floats \(2, 5\)"),
        ({"keep": torch.tensor(1.0)}, "keep is"),
        ({"transfer": torch.zeros(2, 5, 4)}, r"transfer is .* expected floats \(2, 5, 5\)"),
        ({"transfer": torch.zeros(2, 5, 5, dtype=torch.int64)}, "transfer is torch.int64"),
        ({"transfer": torch.zeros(2, 8, 8), "keep": torch.zeros(2, 8)}, "8 text columns; expected 1 to 7"),
        ({"transfer": torch.zeros(2, 0, 0), "keep": torch.zeros(2, 0)}, "0 text columns"),
        ({"bias": torch.zeros(4)}, "bias and probe have 4 text columns, keep has 5"),
        ({"pixels": "scale"}, "pixels is 'scale'; expected one of keep, rescale, borrow"),
        ({"q": torch.zeros(2, 3, 8)}, "q is torch.float32"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    full = inputs(2, 3, 4, 7, 8, 5) | edit(2, 5, "keep")
    bare = {name: x for name, x in full.items() if name not in ("bias", "probe", "heat")}
    for run in (edited_attention, edited_attention_reference):
        with pytest.raises(ValueError, match=message):
            run(**bare | change)
