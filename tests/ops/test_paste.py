"""What a guided step puts back: against its reference in float64, against diffusers' RePaint, and bit for bit."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from pydiff.ops import Paste, Step, Threshold, guided_step, guided_step_reference, native
from pydiff.ops.guided_step import PREDICTION_TYPES
from tests.ops.guided_step_inputs import DYNAMIC, STEP, check, converted, inputs, needs_core

CLEAN = (1.0, 0.0)
LEVEL = (0.8, 0.6)
THRESHOLDS = [Threshold(), Threshold("static", max_value=0.7), DYNAMIC, Threshold("dynamic", 0.95, 1.0)]


def masks(shape: tuple[int, ...], kind: str = "mixed", seed: int = 1) -> Tensor:
    """Masks of 0 and 1 ("hard"), of values between them ("soft"), or of all of these ("mixed")."""
    soft = torch.rand(shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(seed))
    return {"soft": soft, "hard": soft.round(), "mixed": (2 * soft - 0.5).clamp(0, 1)}[kind]


def pastes(shape: tuple[int, ...], level: tuple[float, float] = LEVEL, kind: str = "mixed") -> Paste:
    x0, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    return Paste(x0, masks(shape, kind), *level, noise if level[1] else None)


def known(paste: Paste) -> Tensor:
    clean = paste.c_x0 * paste.x0
    return clean if paste.noise is None else clean + paste.c_noise * paste.noise


def check_bits(found: Tensor, made: Tensor, paste: Paste) -> None:
    """Where the mask is 1 or 0, found has the bits of made or of what is known; signed zeros and NaN too."""
    for side, expected in ((1, made), (0, known(paste))):
        where = (paste.mask == side).expand_as(found)
        assert torch.equal(found[where].view(torch.int32), expected.expand_as(found)[where].view(torch.int32))


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 8)), draw(st.integers(1, 37)), draw(st.integers(1, 37)))
    learned, branches = draw(st.booleans()), draw(st.integers(1, 3))
    given = inputs(shape, branches, variance=learned or draw(st.booleans()), seed=draw(st.integers(0, 2**31)))
    paste = pastes(shape, draw(st.sampled_from([CLEAN, LEVEL, (0.0, 1.0)])), draw(st.sampled_from(["soft", "mixed"])))
    if draw(st.booleans()):
        paste = paste._replace(x0=paste.x0[:1])
    if draw(st.booleans()):
        paste = paste._replace(mask=paste.mask[:1])
    if paste.noise is not None and draw(st.booleans()):
        paste = paste._replace(noise=given["noise"])
    step = STEP._replace(log_variance=(-5.0, -1.0) if learned else None)
    for name in ("c_raw", "c_previous", "c_noise"):
        if draw(st.booleans()):
            step = step._replace(**{name: 0.0})
    options = {
        "step": step,
        "prediction_type": draw(st.sampled_from(PREDICTION_TYPES)),
        "threshold": draw(st.sampled_from(THRESHOLDS)),
        "rescale": draw(st.sampled_from([0.0, 0.7])) if given["x"][0].numel() > 16 else 0.0,
    }
    return given, options | {"paste": paste}


@needs_core
@settings(deadline=None, max_examples=150, derandomize=True)
@given(cases())
def test_equals_reference(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    given, options = case
    check(given, **options)
    x_next, denoised = guided_step(**given, **options)
    made, alone = guided_step(**given, **options | {"paste": None})
    assert torch.equal(denoised, alone)
    check_bits(x_next, made, options["paste"])


@pytest.mark.parametrize("run", [guided_step, guided_step_reference])
@pytest.mark.parametrize("level", [CLEAN, LEVEL])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_what_is_not_finite_stays_on_its_side(run: Any, level: Any, bad: float, threshold: Threshold) -> None:
    shape = (2, 3, 33, 35)
    given, paste = inputs(shape), pastes(shape, level, "hard")
    aside = paste.mask.expand(shape) == 1
    for tensor in (given["x"], given["predictions"][1], given["previous"], given["noise"]):
        tensor[~aside] = bad
    for tensor in (paste.x0, paste.noise):
        if tensor is not None:
            tensor[aside] = bad
    made, _ = run(**given, step=STEP, threshold=threshold)
    x_next, _ = run(**given, step=STEP, threshold=threshold, paste=paste)
    check_bits(x_next, made, paste)
    assert x_next[~aside].isfinite().all()
    if threshold.kind != "dynamic":  # its range is that of the whole picture
        assert x_next[aside].isfinite().all()


@pytest.mark.parametrize("run", [guided_step, guided_step_reference])
def test_a_clean_picture_comes_back_bit_for_bit(run: Any) -> None:
    x0 = torch.tensor([-0.0, 0.0, 1e-45, -3e-39, torch.inf, -torch.inf, 3.4e38, 0.1]).view(1, 1, 2, 4)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        given, paste = converted(inputs((3, 1, 2, 4)), dtype), Paste(x0.to(dtype), torch.zeros(1, 1, 2, 4, dtype=dtype))
        x_next, _ = run(**given, step=STEP, paste=paste)
        integers = torch.int32 if dtype == torch.float32 else torch.int16
        assert torch.equal(x_next.view(integers), paste.x0.expand_as(x_next).contiguous().view(integers))


@needs_core
@pytest.mark.parametrize(("channels", "plane"), [(1, 1), (8, 1), (7, 3), (3, 341), (1, 1025), (4, 1024), (3, 13331)])
@pytest.mark.parametrize("limit", [0, 1, 2])
def test_every_output_is_written_and_nothing_else(channels: int, plane: int, limit: int) -> None:
    n, core = channels * plane, native.core()
    assert core is not None
    x, prediction, noise, x0 = torch.randn(4, 2 * n)
    mask = masks((2, 1, 1, plane))
    x_next, denoised = torch.full((2, 2 * n + 2), torch.nan)
    places = [tensor.data_ptr() for tensor in (x, prediction, prediction, noise, x_next[1:], denoised[1:])]
    put_back = (x0.data_ptr(), mask.data_ptr(), noise.data_ptr(), n, plane, plane, *LEVEL)
    core.guided_step(*places, 2, n, n, [1.0], STEP[:7], None, put_back, 0, limit, 0.9, 1.5, 0.0, 0, 2)
    for out in (x_next, denoised):
        assert not out[1:-1].isnan().any()
        assert out[0].isnan()
        assert out[-1].isnan()
    paste = Paste(x0.view(2, channels, 1, plane), mask, *LEVEL, noise.view(2, channels, 1, plane))
    found = x_next[1:-1].view(2, channels, 1, plane)
    check_bits(found, found, paste)


@needs_core
@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (3, 3, 193, 191)])
@pytest.mark.parametrize("threshold", [Threshold(), DYNAMIC])
@pytest.mark.parametrize("shared", [False, True])
def test_a_batch_is_its_pictures_alone(shape: tuple[int, ...], threshold: Threshold, shared: bool) -> None:
    given, paste = inputs(shape), pastes(shape)
    if shared:
        paste = paste._replace(x0=paste.x0[:1], mask=paste.mask[:1])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        whole = guided_step(**given, step=STEP, threshold=threshold, paste=paste)
        torch.set_num_threads(1)
        for i in range(shape[0]):
            alone = {k: v[i : i + 1] for k, v in given.items() if k in ("x", "previous", "noise")}
            alone |= {"predictions": given["predictions"][:, i : i + 1], "weights": given["weights"]}
            own = Paste(*(t[min(i, len(t) - 1)][None] if isinstance(t, Tensor) else t for t in paste))
            one = guided_step(**alone, step=STEP, threshold=threshold, paste=own)
            assert all(torch.equal(a[i : i + 1], b) for a, b in zip(whole, one, strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("part", ["x", "x0", "mask"])
def test_other_types_and_layouts(dtype: torch.dtype, part: str) -> None:
    """All in one type, or only a part of the paste in it: strided, expanded, channels last."""
    given, paste = inputs((2, 3, 9, 5)), pastes((2, 3, 9, 5))
    paste = paste._replace(x0=paste.x0.to(memory_format=torch.channels_last), mask=paste.mask[:1].expand(2, -1, -1, -1))
    if part == "x":
        given, paste = converted(given, dtype), converted(paste, dtype)
    else:
        paste = paste._replace(**{part: getattr(paste, part).to(dtype)})
    mine = guided_step(**given, step=STEP, threshold=DYNAMIC, paste=paste)
    exact = guided_step_reference(**converted(given | {"paste": paste}, torch.float64), step=STEP, threshold=DYNAMIC)
    for a, b in zip(mine, exact, strict=True):
        assert a.dtype == given["x"].dtype
        torch.testing.assert_close(a, b.to(a.dtype))
        if dtype == torch.float64 and part != "x":  # one wide input makes all of the arithmetic wide
            assert torch.equal(a, b.to(a.dtype))


def test_inputs_are_left_alone() -> None:
    given, paste = inputs((2, 3, 5, 7)), pastes((2, 3, 5, 7))
    before = [t.clone() for t in paste if isinstance(t, Tensor)]
    guided_step(**given, step=STEP, paste=paste)
    assert all(torch.equal(a, b) for a, b in zip((t for t in paste if isinstance(t, Tensor)), before, strict=True))


def test_empty_batch() -> None:
    x, paste = torch.empty(0, 3, 4, 4), Paste(torch.zeros(1, 3, 4, 4), torch.zeros(0, 1, 4, 4))
    x_next, _ = guided_step(x, torch.empty(1, 0, 3, 4, 4), [1.0], Step(1.0, 0.5, 1.0, 1.0), paste=paste)
    assert x_next.shape == x.shape


def test_gradients() -> None:
    shape = (1, 2, 3, 2)
    given, paste = converted(inputs(shape), torch.float64), converted(pastes(shape, kind="soft"), torch.float64)

    def run(x: Tensor, x0: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return guided_step(**given | {"x": x}, step=STEP, paste=paste._replace(x0=x0, mask=mask))

    variables = [tensor.requires_grad_() for tensor in (given["x"], paste.x0, paste.mask)]
    assert torch.autograd.gradcheck(run, variables)


@pytest.mark.parametrize("t", [400, 900])
def test_equals_repaint_of_diffusers(t: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.RePaintScheduler(eta=0.8)
    scheduler.set_timesteps(100)
    shape = (2, 3, 9, 11)
    given, mask = inputs(shape, 1), masks(shape)
    x0 = pastes(shape).x0
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    (alpha, sigma), (to_alpha, to_sigma) = (
        (float(level.sqrt()), float((1 - level).sqrt())) for level in scheduler.alphas_cumprod[[t, t - 10]]
    )
    std = 0.8 * float(scheduler._get_variance(t).sqrt())
    ratio = (to_sigma**2 - std**2) ** 0.5 / sigma
    step = Step(alpha, sigma, c_x=ratio, c_denoised=to_alpha, c_raw=-ratio * alpha, c_noise=std)
    expected = scheduler.step(
        given["predictions"][0], t, given["x"], x0, 1 - mask, generator=torch.Generator().manual_seed(5)
    ).prev_sample
    found, _ = guided_step(
        given["x"],
        given["predictions"],
        [1.0],
        step,
        threshold=Threshold("static"),
        noise=noise,
        paste=Paste(x0, mask, to_alpha, to_sigma, noise),
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": torch.zeros(3, 5, 7)}, r"paste.x0 is torch.float32 \(3, 5, 7\) on cpu; expected floats \(2, 3, 5, 7\)"),
        ({"x0": torch.zeros(3, 3, 5, 7)}, r"paste.x0 is .* \(2, 3, 5, 7\) or \(1, 3, 5, 7\) on cpu"),
        ({"x0": torch.zeros(2, 3, 5, 7, dtype=torch.uint8)}, "paste.x0 is torch.uint8"),
        ({"x0": torch.zeros(2, 3, 5, 7, device="meta")}, r"paste.x0 is .* on meta; expected .* on cpu"),
        ({"mask": torch.zeros(2, 3, 5, 7)}, r"paste.mask is .* \(2, 3, 5, 7\) on cpu; .* \(2, 1, 5, 7\) or \(1, 1, 5"),
        ({"mask": torch.zeros(1, 1, 7, 5)}, r"paste.mask is torch.float32 \(1, 1, 7, 5\)"),
        ({"mask": torch.zeros(1, 1, 5, 7, dtype=torch.bool)}, "paste.mask is torch.bool"),
        ({"mask": torch.zeros(1, 1, 5, 7, device="meta")}, "paste.mask is .* on meta"),
        ({"noise": None}, "paste.noise is None though paste.c_noise is 0.6"),
        ({"noise": torch.zeros(1, 3, 5, 7)}, r"paste.noise is torch.float32 \(1, 3, 5, 7\) on cpu though .* 0.6"),
        ({"noise": torch.zeros(2, 3, 5, 7, device="meta")}, "paste.noise is .* on meta"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    paste = pastes((2, 3, 5, 7))._replace(**change)
    for run in (guided_step, guided_step_reference):
        with pytest.raises(ValueError, match=message):
            run(**inputs((2, 3, 5, 7)), step=STEP, paste=paste)


def test_noise_that_is_not_used_is_not_read() -> None:
    given, paste = inputs((2, 3, 5, 7)), pastes((2, 3, 5, 7), CLEAN)
    expected = guided_step(**given, step=STEP, paste=paste)
    found = guided_step(**given, step=STEP, paste=paste._replace(noise=torch.full((1, 2), torch.nan)))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
