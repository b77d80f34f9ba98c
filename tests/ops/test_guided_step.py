"""The native guided_step against its reference in float64, against diffusers' schedulers, and its laws."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from pydiff.ops import Step, Threshold, guided_step, guided_step_reference, native
from tests.ops.guided_step_inputs import DYNAMIC, STEP, check, converted, inputs, needs_core

SHAPES = [(1, 1, 1, 3), (2, 3, 5, 7), (3, 3, 33, 31), (2, 4, 64, 65)]


@needs_core
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("threshold", [Threshold(), Threshold("static", max_value=0.7), DYNAMIC])
def test_equals_reference(shape: tuple[int, ...], prediction_type: str, threshold: Threshold) -> None:
    for branches in (1, 2, 3, 4):
        check(inputs(shape, branches), STEP, prediction_type=prediction_type, threshold=threshold)


@needs_core
@pytest.mark.parametrize("threshold", [Threshold(), DYNAMIC, Threshold("dynamic", 0.95, 1.0)])
def test_learned_variance_and_rescale(threshold: Threshold) -> None:
    step = STEP._replace(log_variance=(-9.0, -2.0), c_noise=1.0)
    check(inputs((2, 3, 33, 31), 2, variance=True), step, threshold=threshold)
    check(inputs((2, 3, 33, 31), 3), STEP, threshold=threshold, rescale=0.7)
    check(inputs((2, 3, 5, 7), 2, variance=True), step, threshold=threshold, rescale=1.0)


@needs_core
@pytest.mark.parametrize("coefficients", itertools.product([0.0, 0.5], repeat=3))
def test_unused_terms_are_not_read(coefficients: tuple[float, float, float]) -> None:
    c_raw, c_previous, c_noise = coefficients
    step = STEP._replace(c_raw=c_raw, c_previous=c_previous, c_noise=c_noise)
    given = inputs((2, 3, 9, 5))
    if not c_previous:
        given["previous"] = None
    if not c_noise:
        given["noise"] = None
    check(given, step, threshold=DYNAMIC)


@needs_core
def test_variance_channels_are_ignored_by_a_plain_step() -> None:
    given = inputs((2, 3, 9, 5), variance=True)
    bare = given | {"predictions": given["predictions"][:, :, :3].contiguous()}
    for a, b in zip(guided_step(**given, step=STEP), guided_step(**bare, step=STEP), strict=True):
        assert torch.equal(a, b)


@needs_core
@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (3, 3, 193, 191)])
@pytest.mark.parametrize("threshold", [Threshold(), DYNAMIC, Threshold("dynamic", 0.5, 100.0)])
def test_a_batch_is_its_pictures_alone(shape: tuple[int, ...], threshold: Threshold) -> None:
    given = inputs(shape, 3, variance=True)
    step = STEP._replace(log_variance=(-5.0, -1.0))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        whole = guided_step(**given, step=step, threshold=threshold, rescale=0.5)
        torch.set_num_threads(1)
        for i in range(shape[0]):
            alone = {k: v[i : i + 1] for k, v in given.items() if k in ("x", "previous", "noise")}
            alone |= {"predictions": given["predictions"][:, i : i + 1], "weights": given["weights"]}
            one = guided_step(**alone, step=step, threshold=threshold, rescale=0.5)
            assert all(torch.equal(a[i : i + 1], b) for a, b in zip(whole, one, strict=True))
    finally:
        torch.set_num_threads(threads)


@needs_core
@pytest.mark.parametrize("n", [1, 2, 7, 8, 1023, 1024, 1025, 40000])
@pytest.mark.parametrize("limit", [0, 1, 2])
def test_every_output_is_written_and_nothing_else(n: int, limit: int) -> None:
    x, prediction, previous, noise = torch.randn(4, 2 * n)
    x_next, denoised = torch.full((2, 2 * n + 2), torch.nan)
    ends = [tensor[1:].data_ptr() for tensor in (x_next, denoised)]
    core = native.core()
    assert core is not None
    places = [tensor.data_ptr() for tensor in (x, prediction, previous, noise)]
    core.guided_step(*places, *ends, 2, n, n, [1.0], STEP[:7], None, None, 0, limit, 0.9, 1.5, 0.0, 0, 2)
    for out in (x_next, denoised):
        assert not out[1:-1].isnan().any()
        assert out[0].isnan()
        assert out[-1].isnan()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("threshold", [Threshold(), Threshold("static"), DYNAMIC, Threshold("dynamic", 0.9, 1.0)])
def test_values_that_are_not_finite_spread_as_in_torch(bad: float, threshold: Threshold) -> None:
    for count in (1, 90):
        given = inputs((2, 3, 5, 7))
        given["predictions"][0, 0].view(-1)[:count] = bad
        mine = guided_step(**given, step=STEP, threshold=threshold)
        plain = guided_step_reference(**given, step=STEP, threshold=threshold)
        for a, b in zip(mine, plain, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_and_layouts(dtype: torch.dtype) -> None:
    given = converted(inputs((2, 3, 9, 5)), dtype)
    given["x"] = given["x"].to(memory_format=torch.channels_last)
    mine = guided_step(**given, step=STEP, threshold=DYNAMIC)
    exact = guided_step_reference(**converted(given, torch.float64), step=STEP, threshold=DYNAMIC)
    for a, b in zip(mine, exact, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b.to(dtype))


def test_inputs_are_left_alone() -> None:
    given = inputs((2, 3, 5, 7))
    before = {k: v.clone() for k, v in given.items() if isinstance(v, Tensor)}
    guided_step(**given, step=STEP, threshold=DYNAMIC)
    assert all(torch.equal(given[k], v) for k, v in before.items())


def test_empty_batch() -> None:
    x = torch.empty(0, 3, 4, 4)
    x_next, denoised = guided_step(x, torch.empty(1, 0, 3, 4, 4), [1.0], Step(1.0, 0.5, 1.0, 1.0))
    assert x_next.shape == denoised.shape == x.shape


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_gradients(prediction_type: str) -> None:
    given = converted(inputs((1, 2, 3, 2), variance=True), torch.float64)
    step = STEP._replace(log_variance=(-2.0, -1.0))
    options: dict[str, Any] = {"prediction_type": prediction_type, "threshold": DYNAMIC, "rescale": 0.3}

    def run(x: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor]:
        return guided_step(**given | {"x": x, "predictions": predictions}, step=step, **options)

    given["x"].requires_grad_()
    given["predictions"].requires_grad_()
    assert torch.autograd.gradcheck(run, (given["x"], given["predictions"]))


def test_thresholding_equals_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5)
    x = 2 * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    limit = Threshold("dynamic", 0.95, 1.5)
    _, denoised = guided_step(x, x[None], [1.0], Step(1, 0, 0, 1), prediction_type="sample", threshold=limit)
    torch.testing.assert_close(denoised, scheduler._threshold_sample(x), rtol=1e-6, atol=1e-6)


def test_rescale_equals_diffusers() -> None:
    pytest.importorskip("diffusers")
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    given = inputs((2, 4, 8, 8))
    text, null = given["predictions"]
    expected = rescale_noise_cfg(null + 7.5 * (text - null), text, 0.7)
    _, guided = guided_step(
        given["x"], given["predictions"], [7.5, -6.5], Step(1, 0, 0, 1), prediction_type="sample", rescale=0.7
    )
    torch.testing.assert_close(guided, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "eps"}, "prediction_type is 'eps'"),
        ({"threshold": Threshold("clip")}, "threshold.kind is 'clip'"),
        ({"threshold": Threshold("dynamic", 1.5, 2.0)}, "percentile 1.5"),
        ({"threshold": Threshold("dynamic", 0.9, 0.5)}, "max_value 0.5"),
        ({"threshold": Threshold("static", max_value=0.0)}, "max_value 0.0"),
        ({"rescale": 1.5}, "rescale is 1.5"),
        ({"weights": [1.0]}, r"predictions are .* for 1 weights"),
        ({"weights": []}, r"for 0 weights"),
        ({"x": torch.zeros(2, 3, 5)}, r"x is torch.float32 \(2, 3, 5\)"),
        ({"x": torch.zeros(2, 3, 5, 7, dtype=torch.int32)}, "x is torch.int32"),
        ({"predictions": torch.zeros(2, 2, 4, 5, 7)}, r"expected floats \(2, 2, 3, 5, 7\)"),
        ({"noise": None}, "noise is None though c_noise is 0.7"),
        ({"previous": torch.zeros(1, 3, 5, 7)}, r"previous is torch.float32 \(1, 3, 5, 7\)"),
        ({"step": STEP._replace(alpha=0.0)}, "alpha is 0"),
        ({"step": STEP._replace(log_variance=(-1.0, 0.0))}, "learns its variance"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    for run in (guided_step, guided_step_reference):
        with pytest.raises(ValueError, match=message):
            run(**inputs((2, 3, 5, 7)) | {"step": STEP} | change)
