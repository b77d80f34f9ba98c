"""Inputs of attention, and what its error may be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pydiff.ops import native

PIXELS = ("keep", "rescale", "borrow")
BIASES = ("none", "normal", "-10000", "-inf")

needs_core = pytest.mark.skipif(
    not hasattr(native.core(), "attention"), reason=f"no attention in the core ({native.why_missing()})"
)


def inputs(
    batch: int,
    heads: int,
    n: int,
    m: int,
    dim: int,
    text: int,
    *,
    amp: float = 1.0,
    bias: str = "none",
    columns: int = 3,
) -> dict[str, Any]:
    """q, k, v as a network has them, views of (B, N, H, d); amp scales q and k."""
    generator = torch.Generator().manual_seed(n + m + dim)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    added = draw(batch, 1, 1, text)
    if bias.startswith("-"):
        added = torch.where(torch.rand(added.shape, generator=generator) < 0.5, float(bias), 0.0)
        added[..., 0] = 0
    return {
        "q": amp * draw(batch, n, heads, dim).transpose(1, 2),
        "k": amp * draw(batch, m, heads, dim).transpose(1, 2),
        "v": draw(batch, m, heads, dim).transpose(1, 2),
        "bias": None if bias == "none" else added,
        "probe": draw(batch, text, columns),
        "heat": draw(batch, n, columns),
    }


def edit(batch: int, text: int, pixels: str) -> dict[str, Any]:
    """The first row is left alone; the others borrow from the one before, the last of them from itself."""
    generator = torch.Generator().manual_seed(batch + text)
    share = torch.rand(batch, text, text, generator=generator)
    sparse = share * (torch.rand(share.shape, generator=generator) < 0.3)
    source = torch.arange(batch) - 1
    source[0] = 0
    if batch > 2:
        source[-1] = batch - 1
    return {
        "source": source,
        "transfer": sparse / sparse.sum(-1, keepdim=True).clamp(min=1),
        "keep": torch.rand(batch, text, generator=generator),
        "pixels": pixels,
    }


def cast(given: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """q, k, v in dtype; in float64 everything else is too. heat is a copy, to be added to."""
    out = {name: x.to(dtype) if name in ("q", "k", "v") else x for name, x in given.items()}
    if dtype == torch.float64:
        out = {name: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in out.items()}
    if out.get("heat") is not None:
        out["heat"] = out["heat"].clone()
    return out


def without_capture(given: dict[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in given.items() if name not in ("probe", "heat")}


def score_ulp(given: dict[str, Any]) -> float:
    """What float32 rounds off the largest score: attention errs by as much, by torch's operator or by ours."""
    q, k = given["q"].double(), given["k"].double()
    return float((q @ k.mT).abs().max()) * q.shape[-1] ** -0.5 * 2**-23


def assert_no_worse(mine: Tensor, theirs: Tensor, exact: Tensor, what: str, slack: float = 0.0) -> None:
    """An error of at most twice that of torch's own operator, both against float64."""
    ours, allowed = ((x.double() - exact).abs().max() for x in (mine, theirs))
    assert not mine.isnan().any(), what
    tiny = 1e-6 * exact.abs().max().clamp(min=1) + slack
    assert ours <= 2 * allowed + tiny, f"{what}: {ours:.2e} against {allowed:.2e}"
