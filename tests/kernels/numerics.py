"""Triton's attention against its reference: on a GPU or, with TRITON_INTERPRET=1, in the interpreter on a CPU.

test_kernels.py runs this file in a process of its own, since that variable is read when triton is imported.
"""

from __future__ import annotations

import importlib
import os
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pydiff.ops import attention_triton
from pydiff.ops.attention import attention, attention_reference, edited_attention, edited_attention_reference
from pydiff.ops.attention_call import Call, Edit, check, check_edit
from pydiff.ops.attention_torch import composed, composed_edit
from tests.ops.attention_inputs import BIASES, PIXELS, assert_no_worse, cast, edit, inputs, without_capture

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy, where keys are masked
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
TYPES = [torch.float32, torch.bfloat16] if INTERPRETED else [torch.float32, torch.bfloat16, torch.float16]
kernels = importlib.import_module("pydiff.kernels.attention")
SMALL = kernels.Blocks(16, 32, 4, 2)

SHAPES = [  # batch, heads, n, m, d, T
    (1, 1, 1, 1, 1, 1),
    (2, 3, 5, 7, 5, 3),
    (1, 2, 17, 77, 40, 77),
    (2, 1, 9, 90, 33, 77),
    (2, 1, 17, 131, 20, 10),
    (1, 1, 5, 150, 80, 130),
]
EDITED = [(2, 2, 9, 77, 40, 77), (4, 1, 9, 90, 7, 77), (3, 1, 9, 131, 20, 9), (2, 1, 5, 129, 24, 129)]


@pytest.fixture(autouse=True)
def filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are small, so that there are many; memory that is NaN before it is written."""
    empty = torch.empty

    def nan(*size: Any, **options: Any) -> Tensor:
        return empty(*size, **options).fill_(torch.nan)

    monkeypatch.setattr(torch, "empty", nan)
    for name in ("flash", "text_attention"):
        module = importlib.import_module(f"pydiff.kernels.{name}")
        monkeypatch.setattr(module, "choose", partial(chosen, module.choose))


def chosen(choose: Any, table: Any, kind: str, q: Tensor, *sizes: int) -> Any:
    """The tables are for 16-bit types on a GPU."""
    return SMALL if INTERPRETED or q.dtype == torch.float32 else choose(table, kind, q, *sizes)


def kernel(**given: Any) -> Tensor:
    """The kernels' `attention` or `edited_attention`, through the door of pydiff.ops."""
    tables = {name: given.pop(name) for name in Edit._fields if name in given}
    call = check(Call(**given))
    edited = check_edit(call, Edit(**tables)) if tables else None
    return attention_triton.run(kernels, call, edited)


def torch_operator(**given: Any) -> Tensor:
    tables = {name: given.pop(name) for name in Edit._fields if name in given}
    call = check(Call(**given))
    return composed_edit(call, check_edit(call, Edit(**tables))) if tables else composed(call)


def reference(**given: Any) -> Tensor:
    return edited_attention_reference(**given) if "source" in given else attention_reference(**given)


def on_device(given: dict[str, Any]) -> dict[str, Any]:
    return {name: x.to(DEVICE) if isinstance(x, Tensor) else x for name, x in given.items()}


def compare(full: dict[str, Any], dtype: torch.dtype) -> None:
    full = on_device(full)
    mine, theirs, exact = cast(full, dtype), cast(full, dtype), cast(cast(full, dtype), torch.float64)
    out, peer, truth = kernel(**mine), torch_operator(**theirs), reference(**exact)
    assert out.dtype == dtype
    assert out.transpose(1, 2).is_contiguous()
    if INTERPRETED and dtype == torch.bfloat16:  # the interpreter cuts off what a GPU rounds
        torch.testing.assert_close(out.double(), truth, rtol=2**-6, atol=2**-7)
    else:
        assert_no_worse(out, peer, truth, "output")
    assert_no_worse(mine["heat"], theirs["heat"], exact["heat"], "heat")
    assert torch.equal(out, kernel(**cast(without_capture(full), dtype)))


@pytest.mark.skipif(INTERPRETED, reason="pydiff.ops sends only CUDA tensors to the kernels")
def test_pydiff_ops_choose_these_kernels() -> None:
    full = cast(on_device(without_capture(inputs(2, 2, 33, 90, 40, 77))), torch.bfloat16)
    tables = on_device(edit(2, 77, "rescale"))
    assert torch.equal(attention(**full), kernel(**full))
    assert torch.equal(edited_attention(**full, **tables), kernel(**full, **tables))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_attention(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for bias in BIASES if shape[2] == 5 and dtype == torch.float32 else ("normal",):
        compare(inputs(*shape, amp=2, bias=bias, columns=17 if bias == "normal" else 3), dtype)


@pytest.mark.parametrize("shape", EDITED)
@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize(("dtype", "bias"), [(torch.float32, "-inf"), (torch.bfloat16, "normal")])
def test_edited_attention(shape: tuple[int, ...], pixels: str, dtype: torch.dtype, bias: str) -> None:
    if pixels == PIXELS[0] or shape[-1] < shape[3]:
        compare(inputs(*shape, amp=2, bias=bias) | edit(shape[0], shape[-1], pixels), dtype)


@pytest.mark.parametrize(("m", "text"), [(77, 77), (131, 70)])
@pytest.mark.parametrize("pixels", PIXELS)
def test_plain_rows_are_plain(m: int, text: int, pixels: str) -> None:
    full = on_device(inputs(3, 1, 9, m, 24, text, bias="-10000"))
    tables = on_device(edit(3, text, pixels))
    for name in ("transfer", "keep"):
        tables[name][[0, 2]] = torch.nan  # not read
    mine, plain = ({**full, "heat": full["heat"].clone()} for _ in range(2))
    out, expected = kernel(**mine, **tables), kernel(**plain)
    assert torch.equal(out[[0, 2]], expected[[0, 2]])
    assert torch.equal(mine["heat"][[0, 2]], plain["heat"][[0, 2]])
    assert not torch.isclose(out[1], expected[1]).all(-1).any()


@pytest.mark.parametrize("m", [77, 131])
@pytest.mark.parametrize("pixels", ["keep", "rescale"])
def test_the_identity_edit_changes_nothing(m: int, pixels: str) -> None:
    full = on_device(inputs(2, 1, 9, m, 24, 70))
    tables = edit(2, 70, pixels) | {"transfer": torch.zeros(2, 70, 70), "keep": torch.ones(2, 70)}
    mine, plain = ({**full, "heat": full["heat"].clone()} for _ in range(2))
    torch.testing.assert_close(kernel(**mine, **on_device(tables)), kernel(**plain), rtol=3e-6, atol=3e-6)
    torch.testing.assert_close(mine["heat"], plain["heat"], rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("m", [30, 131])
@pytest.mark.parametrize("rows", [([0, 0, 3], None, [3, 1, 1]), ([1, 1, 1], [1, 1, 1], None), (None, [2, 2], [2, 2])])
def test_rows_choose(m: int, rows: tuple[list[int] | None, ...]) -> None:
    batch = next(len(index) for index in rows if index)
    full = on_device(inputs(4, 1, 9, m, 20, 30))
    chosen = {name: index for name, index in zip("qkv", rows, strict=True) if index}
    given = {name: full[name] if name in chosen else full[name][:batch] for name in "qkv"}
    gathered = {name: full[name][chosen.get(name, slice(batch))] for name in "qkv"}
    capture = {"probe": full["probe"][:batch]}
    mine, expected = (capture | {"heat": full["heat"][:batch].clone()} for _ in range(2))
    indices = {f"{name}_rows": None for name in "qkv"} | {f"{n}_rows": torch.tensor(i) for n, i in chosen.items()}
    call = check(Call(**given, **mine, rows=tuple(indices.values())))
    torch.testing.assert_close(attention_triton.run(kernels, call), kernel(**gathered, **expected))
    torch.testing.assert_close(mine["heat"], expected["heat"])


@pytest.mark.parametrize("m", [9, 131])
def test_a_query_without_keys_gets_nothing(m: int) -> None:
    full = on_device(inputs(2, 2, 5, m, 4, m))
    full["bias"], full["heat"] = torch.zeros(2, 1, 1, m, device=DEVICE), torch.zeros_like(full["heat"])
    full["bias"][1] = -torch.inf
    out = kernel(**full)
    assert not out[1].any()
    assert not full["heat"][1].any()
    assert out[0].isfinite().all()


@pytest.mark.parametrize("m", [9, 131])
def test_keys_that_all_have_the_lowest_bias_share_alike(m: int) -> None:
    full = on_device(without_capture(inputs(1, 1, 5, m, 4, m)))
    full["bias"] = torch.full((1, 1, 1, m), torch.finfo(torch.float32).min, device=DEVICE)
    torch.testing.assert_close(kernel(**full), full["v"].mean(2, keepdim=True).expand(-1, -1, 5, -1))


@pytest.mark.parametrize("m", [40, 131])
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_nan_stays_where_it_is(m: int, where: str) -> None:
    full = on_device(without_capture(inputs(2, 2, 17, m, 8, 9)))
    full[where][1, 1, 16, 3] = torch.nan
    assert torch.equal(kernel(**full).isnan(), reference(**full).isnan())


@pytest.mark.parametrize("m", [9, 131])
def test_text_that_takes_every_share_leaves_the_pixels_alone(m: int) -> None:
    full = on_device(without_capture(inputs(2, 1, 4, m, 4, 5)) | edit(2, 5, "rescale"))
    full["bias"] = torch.full((2, 1, 1, 5), 300.0, device=DEVICE)
    torch.testing.assert_close(kernel(**full), reference(**full), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("m", [21, 131])
def test_layouts(m: int) -> None:
    full = on_device(without_capture(inputs(2, 1, 10, m, 6, 4, bias="normal")))
    expected = kernel(**full)
    turned = {name: full[name].mT.contiguous().mT for name in "qkv"}
    strange = torch.empty(2, 4, 2, device=DEVICE)[:, :, 0].copy_(full["bias"][:, 0, 0])[:, None, None]
    assert torch.equal(kernel(**full | turned | {"bias": strange}), expected)
    packed = torch.cat([full["k"], full["v"]], dim=-1).split(6, dim=-1)  # rows that do not start at 16 bytes
    torch.testing.assert_close(kernel(q=full["q"], **dict(zip("kv", packed, strict=True)), bias=full["bias"]), expected)


def test_heat_of_any_layout() -> None:
    full = on_device(inputs(2, 2, 21, 40, 8, 13, columns=19))
    turned = full | {"heat": full["heat"].mT.contiguous().mT, "probe": full["probe"].mT.contiguous().mT}
    kernel(**turned)
    kernel(**full)
    assert torch.equal(turned["heat"], full["heat"])
