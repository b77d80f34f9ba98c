"""Native attention against its reference in float64 and torch's operator, its captures, and its laws."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from pydiff.ops import native
from pydiff.ops.attention import attention, attention_reference
from pydiff.ops.attention_call import Call, check
from pydiff.ops.attention_torch import composed
from tests.ops.attention_inputs import (
    BIASES,
    assert_no_worse,
    cast,
    inputs,
    needs_core,
    score_ulp,
    without_capture,
)

SHAPES = [  # batch, heads, n, m, d, T
    (1, 1, 1, 1, 1, 1),
    (2, 3, 5, 7, 5, 3),
    (4, 2, 17, 77, 40, 77),
    (1, 2, 33, 300, 7, 77),
    (2, 4, 64, 141, 32, 77),
    (1, 1, 20, 129, 80, 9),
    (1, 2, 16, 257, 160, 256),
]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def torch_attention(**arguments: Any) -> Tensor:
    """The same by scaled_dot_product_attention."""
    return composed(check(Call(**arguments)))


def rows_of(x: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    return {name: None if value is None else value[rows] for name, value in x.items()}


@needs_core
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bias", BIASES)
def test_equals_reference(shape: tuple[int, ...], dtype: torch.dtype, bias: str) -> None:
    for amp in (0.1, 1, 100):
        full = cast(inputs(*shape, amp=amp, bias=bias), dtype)
        mine, theirs, exact = cast(full, dtype), cast(full, dtype), cast(full, torch.float64)
        out, peer, truth = attention(**mine), torch_attention(**theirs), attention_reference(**exact)
        assert out.dtype == dtype
        assert_no_worse(out, peer, truth, f"output, amp {amp}")
        assert_no_worse(mine["heat"], theirs["heat"], exact["heat"], f"heat, amp {amp}")
        assert torch.equal(out, attention(**without_capture(full)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", BIASES)
def test_composed_of_torch_equals_reference(shape: tuple[int, ...], bias: str) -> None:
    full = cast(inputs(*shape, amp=3, bias=bias, columns=50), torch.float64)
    mine, exact = cast(full, torch.float64), cast(full, torch.float64)
    torch.testing.assert_close(attention(**mine), attention_reference(**exact), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine["heat"], exact["heat"], rtol=1e-12, atol=1e-12)
    assert torch.equal(attention(**full), attention(**without_capture(full)))


@needs_core
@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 150),
    st.integers(1, 40),
    st.data(),
    st.sampled_from(BIASES),
    st.sampled_from([0.01, 1.0, 30.0]),
)
def test_any_shape(
    batch: int, heads: int, n: int, m: int, dim: int, data: st.DataObject, bias: str, amp: float
) -> None:
    full = inputs(batch, heads, n, m, dim, data.draw(st.integers(1, m)), amp=amp, bias=bias)
    mine, theirs, exact = (cast(full, dtype) for dtype in (torch.float32, torch.float32, torch.float64))
    slack = score_ulp(full)  # with few outputs, which of the two errs more is chance
    assert_no_worse(attention(**mine), torch_attention(**theirs), attention_reference(**exact), "output", slack)
    assert_no_worse(mine["heat"], theirs["heat"], exact["heat"], "heat", slack)


@needs_core
@pytest.mark.parametrize("kind", ["identity", "words", "nothing", "some rows"])
def test_probes(kind: str) -> None:
    full = inputs(3, 4, 37, 150, 24, 77)
    if kind == "identity":
        full["probe"] = torch.eye(77).expand(3, 77, 77)
    elif kind == "words":
        full["probe"] = torch.eye(77)[:, [5, 5, 76, 0]].expand(3, 77, 4)
    else:
        full["probe"][0 if kind == "some rows" else slice(None)] = 0
    columns = full["probe"].shape[2]
    full["heat"] = torch.randn(3, columns, 37).mT  # not contiguous
    mine, exact = full | {"heat": full["heat"].clone()}, cast(full, torch.float64)
    attention_reference(**exact)
    attention(**mine)
    torch.testing.assert_close(mine["heat"], exact["heat"].float(), rtol=1e-6, atol=1e-6)
    if kind == "nothing":
        assert torch.equal(mine["heat"], full["heat"])
    strided = full["heat"].clone(memory_format=torch.preserve_format)
    attention(**full | {"heat": strided})
    assert torch.equal(strided, mine["heat"])


@needs_core
@pytest.mark.parametrize("bias", ["none", "-10000"])
def test_rows_choose(bias: str) -> None:
    full = inputs(4, 2, 19, 100, 20, 30, bias=bias)
    rows = {name: torch.tensor(i) for name, i in (("q_rows", [0, 0, 3]), ("k_rows", [0, 2, 1]), ("v_rows", [3, 1, 1]))}
    three = {name: None if full[name] is None else full[name][:3] for name in ("bias", "probe", "heat")}
    chosen = {name: full[name][rows[f"{name}_rows"]] for name in "qkv"}
    mine, expected = ({**three, "heat": three["heat"].clone()} for _ in range(2))
    out = attention(full["q"], full["k"], full["v"], **mine, **rows)
    assert torch.equal(out, attention(**chosen, **expected))
    assert torch.equal(mine["heat"], expected["heat"])
    for run in (attention, attention_reference):
        wide = {name: x.double() for name, x in full.items() if name in "qkv"}
        found, reference = run(**wide, **rows), run(**{name: x.double() for name, x in chosen.items()})
        torch.testing.assert_close(found, reference)


@needs_core
@pytest.mark.parametrize("shape", [(5, 3, 70, 77, 40, 77), (3, 2, 100, 400, 33, 77)])
def test_a_row_is_the_same_in_any_batch(shape: tuple[int, ...]) -> None:
    full = inputs(*shape, bias="normal", columns=5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        mine = full | {"heat": full["heat"].clone()}
        whole = attention(**mine)
        torch.set_num_threads(1)
        for rows in ([2, 0], [1]):
            alone = rows_of(full, rows)
            assert torch.equal(attention(**alone), whole[rows])
            assert torch.equal(alone["heat"], mine["heat"][rows])
        first = {name: full[name][:, :, :21] if name == "q" else full[name] for name in ("q", "k", "v", "bias")}
        assert torch.equal(attention(**first), whole[:, :, :21])
    finally:
        torch.set_num_threads(threads)


@needs_core
@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 1), (15, 77, 5), (16, 8, 8), (37, 130, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_output_is_written_and_nothing_else(n: int, m: int, dim: int, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, 3, size, dim).to(dtype) for size in (n, m, m))
    memory = torch.full((2 * 3 * n * (dim + 1) + 1,), torch.nan).to(dtype)
    out = memory[1:].view(2, 3, n, dim + 1)
    core = native.core()
    assert core is not None
    places = [(x.data_ptr(), 2, *x.stride()[:3]) for x in (q, k, v, out)]
    rows = ([0, 1],) * 3
    core.attention(*places, dtype == torch.bfloat16, (3, n, m, dim, 0, 0), rows, 0, 0, 0, [], 0, 0, 0, 2)
    assert memory[0].isnan()
    assert out[..., dim].isnan().all()
    assert torch.equal(out[..., :dim], attention(q, k, v))


@pytest.mark.parametrize("dtype", [*TYPES, torch.float64])
def test_a_query_without_keys_gets_nothing(dtype: torch.dtype) -> None:
    full = cast(inputs(2, 2, 5, 9, 4, 9), dtype)
    full["bias"] = torch.zeros(2, 1, 1, 9)
    full["bias"][1] = -torch.inf
    for run in (attention, attention_reference):
        heat = torch.zeros_like(full["heat"])
        out = run(**full | {"heat": heat})
        assert not out[1].any()
        assert not heat[1].any()
        assert out[0].isfinite().all()


@pytest.mark.parametrize("dtype", TYPES)
def test_keys_that_all_have_the_lowest_bias_share_alike(dtype: torch.dtype) -> None:
    full = cast(without_capture(inputs(2, 2, 5, 9, 40, 9)), dtype)
    full["bias"] = torch.full((2, 1, 1, 9), torch.finfo(torch.float32).min)
    expected = full["v"].float().mean(2, keepdim=True).expand(-1, -1, 5, -1)
    torch.testing.assert_close(attention(**full).float(), expected, rtol=0, atol=1e-2)


@needs_core
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_nan_stays_where_it_is(where: str) -> None:
    full = without_capture(inputs(2, 2, 40, 150, 8, 9))
    full[where][1, 1, 33, 3] = torch.nan
    out, expected = attention(**full), attention_reference(**full)
    assert torch.equal(out.isnan(), expected.isnan())
    assert not out[0].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts(dtype: torch.dtype) -> None:
    full = cast(without_capture(inputs(2, 3, 10, 21, 6, 4, bias="normal")), dtype)
    expected = attention(**full)
    turned = {name: full[name].mT.contiguous().mT for name in "qkv"}
    packed = dict(zip("qk", torch.cat([full["q"], full["k"][:, :, :10]], dim=-1).split(6, dim=-1), strict=True))
    assert torch.equal(attention(**full | turned), expected)
    assert torch.equal(attention(packed["q"], full["k"], full["v"], bias=full["bias"]), expected)
    one = {name: full[name][:1].expand(4, -1, -1, -1) for name in "qkv"}
    assert torch.equal(attention(**one, bias=full["bias"][0]), expected[:1].expand(4, -1, -1, -1))
    assert expected.transpose(1, 2).is_contiguous()


def test_empty() -> None:
    assert attention(torch.zeros(0, 2, 3, 4), *torch.zeros(2, 0, 2, 5, 4)).shape == (0, 2, 3, 4)
    assert attention(torch.zeros(2, 2, 0, 4), *torch.zeros(2, 2, 2, 5, 4)).shape == (2, 2, 0, 4)


def test_gradients() -> None:
    full = cast(inputs(2, 2, 3, 5, 4, 3, bias="normal"), torch.float64)
    names = ("q", "k", "v", "bias", "probe")

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        heat = torch.zeros(2, 3, 3, dtype=torch.float64)
        return attention(**dict(zip(names, tensors, strict=True)), heat=heat), heat

    assert torch.autograd.gradcheck(run, tuple(full[name].requires_grad_() for name in names))
    single = {name: full[name].detach().float() for name in "qkv"}
    assert attention(**single | {"q": single["q"].requires_grad_()}).requires_grad


def test_export_sees_torch() -> None:
    class Layer(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
            return attention(q, k, k, bias=bias, q_rows=rows)

    q, k = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 5, 4)
    arguments = q, k, torch.randn(2, 1, 1, 5), torch.tensor([1, 0])
    exported = torch.export.export(Layer(), arguments)
    torch.testing.assert_close(exported.module()(*arguments), Layer()(*arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 3, 8)}, r"q is torch.float32 \(2, 3, 8\)"),
        ({"q": torch.zeros(2, 3, 4, 8, dtype=torch.int64)}, "q is torch.int64"),
        ({"k": torch.zeros(2, 3, 7, 8).bfloat16()}, r"k is torch.bfloat16 .* expected torch.float32"),
        ({"k": torch.zeros(2, 3, 7, 9)}, r"k has shape \(2, 3, 7, 9\) for q \(2, 3, 4, 8\)"),
        ({"v": torch.zeros(2, 3, 6, 8)}, "as many keys as values"),
        ({"k": torch.zeros(2, 3, 0, 8), "v": torch.zeros(2, 3, 0, 8)}, "at least one"),
        ({"v": torch.zeros(1, 3, 7, 8)}, "v has 1 rows; expected 2, or v_rows"),
        ({"bias": torch.zeros(2, 1, 1, 8)}, r"bias is .* expected floats \(2, 1, 1, T\), T <= 7"),
        ({"bias": torch.zeros(2, 3, 1, 5)}, r"bias is .* \(2, 3, 1, 5\)"),
        ({"bias": torch.zeros(2, 1, 1, 5, dtype=torch.bool)}, "bias is torch.bool"),
        ({"probe": torch.zeros(2, 5, 2)}, "given together"),
        ({"probe": torch.zeros(2, 8, 2), "heat": torch.zeros(2, 4, 2)}, r"probe is .* T <= 7"),
        ({"bias": torch.zeros(5), "probe": torch.zeros(2, 4, 2), "heat": torch.zeros(2, 4, 2)}, "T = 5, as bias"),
        ({"probe": torch.zeros(2, 5, 2), "heat": torch.zeros(2, 4, 3)}, r"heat is .* expected .* \(2, 4, 2\)"),
        ({"probe": torch.zeros(2, 5, 2), "heat": torch.zeros(2, 4, 2).half()}, "heat is torch.float16"),
        ({"k_rows": torch.tensor([0, 2])}, r"k_rows is \[0, 2\]; expected rows in \[0, 2\)"),
        ({"k_rows": torch.tensor([0, 1], dtype=torch.int32)}, "k_rows is torch.int32"),
        ({"k_rows": torch.tensor([[0, 1]])}, r"k_rows is torch.int64 \(1, 2\)"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    full = {"q": torch.zeros(2, 3, 4, 8), "k": torch.zeros(2, 3, 7, 8), "v": torch.zeros(2, 3, 7, 8)}
    for run in (attention, attention_reference):
        with pytest.raises(ValueError, match=message):
            run(**full | change)
