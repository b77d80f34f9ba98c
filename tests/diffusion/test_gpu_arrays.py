"""The loop and what stands around it on a GPU's arrays: the numbers that NumPy's have, and no copy to the host."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pydiff import gpu
from pydiff.diffusion import (
    SAMPLERS,
    Noise,
    NoiseSchedule,
    classifier_free,
    make_threshold,
    resampled,
    sample,
    step_table,
    unguided,
)
from pydiff.diffusion.local_blend import blend_mask, blended
from pydiff.diffusion.loop import Known
from pydiff.diffusion.windows import make_windows
from pydiff.ops import native
from pydiff.ops.guided_step import quantile
from pydiff.ops.resize import max_pool, resize
from tests import device_arrays
from tests.device_arrays import crossings

SCHEDULE = NoiseSchedule.make("squaredcos_cap_v2")
SHAPE, SEEDS = (3, 4, 6), [5, 6]
OPTIONS: dict[str, Any] = {"ddim": {"eta": 0.7}, "edm": {"s_churn": 3.0}}
CLOSE = 1e-5


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    serves = native.serves
    with device_arrays.installed():
        monkeypatch.setattr(native, "serves", lambda *given: None if gpu.is_on_gpu(given[0]) else serves(*given))
        yield


def predict(x: Any, t: float, branches: tuple[int, ...]) -> Any:
    xp = device_arrays.xp if gpu.is_on_gpu(x) else np
    return xp.stack([(0.7 + 0.2 * b) * xp.sin(1.3 * x + math.cos(t / 150) + b) for b in branches])


def with_variance(x: Any, t: float, branches: tuple[int, ...]) -> Any:
    made, xp = predict(x, t, branches), device_arrays.xp if gpu.is_on_gpu(x) else np
    return xp.concat([made, xp.cos(made)], axis=2)


def assert_same(table: Any, network: Any = predict, known: Known | None = None, **options: Any) -> None:
    guidance, walks = options.pop("guidance", unguided(table.levels)), []
    for like in (np.empty(0, np.float32), gpu.empty((0,), np.float32)):
        noise: Any = Noise(SEEDS)
        x = noise(SHAPE, like=like) * table.initial_scale
        kept = known if known is None or isinstance(like, np.ndarray) else Known(*map(there, known[:3]), known.clean)
        seen, states = [], []
        for state in sample(network, table, guidance, x=x, noise=noise, known=kept, **options):
            states.append(state)
            seen.append(crossings.copy())
        walks.append(states)
    for before, after in pairwise(seen):
        assert (after - before).total() == (after - before)["to device"] <= 1
    for expected, made in zip(*walks, strict=True):
        close(made.x, expected.x)
        if expected.denoised is not None:
            close(made.denoised, expected.denoised)


def there(part: Any) -> Any:
    return gpu.from_host(part) if isinstance(part, np.ndarray) else part


def close(made: Any, expected: Any) -> None:
    assert gpu.is_on_gpu(made)
    np.testing.assert_allclose(
        gpu.to_host(made), expected, rtol=CLOSE, atol=CLOSE * np.abs(expected).max(), strict=True
    )


@pytest.mark.parametrize(
    ("kind", "threshold"), [("v_prediction", "none"), ("epsilon", "static"), ("epsilon", "dynamic")]
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(sampler: str, kind: str, threshold: str) -> None:
    table = step_table(sampler, SCHEDULE, 6, **OPTIONS.get(sampler, {}))
    guidance = classifier_free(3.0, table.levels, rescale=0.3)
    assert_same(table, guidance=guidance, prediction_type=kind, threshold=make_threshold(threshold))


@pytest.mark.parametrize("variance", ["learned_range", "learned"])
def test_learned_variance(variance: str) -> None:
    table = step_table("ddpm", SCHEDULE, 6, variance_type=variance)
    assert_same(table, network=with_variance, threshold=make_threshold("static"))


def test_what_is_kept() -> None:
    draw = np.random.default_rng(1)
    x0, noise = (draw.standard_normal((rows, *SHAPE)).astype(np.float32) for rows in (1, 2))
    mask = np.broadcast_to(np.arange(6, dtype=np.float32) / 5, (1, 1, 4, 6))
    for clean in (False, True):
        assert_same(step_table("ddim", SCHEDULE, 6), known=Known(x0, mask, noise, clean))  # type: ignore[arg-type]
    assert_same(resampled(step_table("ddpm", SCHEDULE, 6), 2, 2), known=Known(x0, mask))  # type: ignore[arg-type]


def test_windows() -> None:
    x = np.random.default_rng(2).standard_normal((2, 3, 10, 17)).astype(np.float32)
    windows = make_windows((10, 17), (8, 8), 0.5)
    assert windows is not None
    placed = windows.beside(gpu.from_host(x))
    crossings.clear()
    made = placed.merged(device_arrays.xp.stack([placed.split(gpu.from_host(x))] * 2))
    assert dict(crossings) == {"to device": 1}  # x
    close(made, windows.merged(np.stack([windows.split(x)] * 2)))  # type: ignore[arg-type]


def test_pictures_and_masks() -> None:
    draw = np.random.default_rng(3)
    heat, excluded = draw.random((2, 2, 4, 3, 5), np.float32)
    x = draw.standard_normal((2, 3, 9, 7)).astype(np.float32)
    onto, others, there_x = gpu.from_host(heat), gpu.from_host(excluded), gpu.from_host(x)
    crossings.clear()
    mask = blend_mask(onto, (9, 7), excluded=others)
    result = blended(there_x, mask)
    pooled, enlarged = max_pool(onto, 3), resize(there_x, (18, 5))
    assert not crossings
    expected = blend_mask(heat, (9, 7), excluded=excluded)  # type: ignore[arg-type]
    assert np.array_equal(gpu.to_host(mask), expected)
    close(result, blended(x, expected))  # type: ignore[arg-type]
    close(pooled, max_pool(heat, 3))  # type: ignore[arg-type]
    close(enlarged, resize(x, (18, 5)))  # type: ignore[arg-type]
    for mode in ("area", "bilinear", "bicubic"):
        close(resize(there_x, (5, 11), mode), resize(x, (5, 11), mode))  # type: ignore[arg-type]


@pytest.mark.parametrize("percentile", [0.0, 0.5, 0.995, 1.0])
def test_quantiles(percentile: float) -> None:
    values = np.random.default_rng(4).standard_normal((3, 101)).astype(np.float32)
    values[1, :3], values[2, 5] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        made = gpu.to_host(quantile(gpu.from_host(values), percentile))
        expected = np.quantile(values, percentile, axis=1)
    np.testing.assert_allclose(made[[0, 2]], expected[[0, 2]], rtol=1e-6)
    assert made[1] == (np.inf if percentile > 0.9 else pytest.approx(expected[1], rel=1e-6))
