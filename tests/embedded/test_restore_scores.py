"""The restoration benchmark: its measures against scipy, its cases, its table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks import restore
from benchmarks.similarity import psnr, ssim
from pydiff.embedded.palette import DAMAGES, Damage

WHOLE = {(case.task, case.seed): case for task in DAMAGES for case in restore.cases(task, 6)}


def perfect(task: str, damage: Damage, seed: int) -> np.ndarray:
    return WHOLE[task, seed].whole


def lazy(task: str, damage: Damage, seed: int) -> np.ndarray:
    return restore.covered(damage)


def pictures(height: int = 20, width: int = 27) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = gaussian_filter(rng.uniform(0, 255, (height, width, 3)), (3, 3, 0))
    a = (a - a.min()) / np.ptp(a) * 255
    return tuple(np.clip(p, 0, 255).round().astype(np.uint8) for p in (a, 0.7 * a + rng.normal(30, 12, a.shape)))


def scipys(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 13 of the paper: per channel, weighted by a Gaussian cut off at 5 pixels, where that fits."""
    x, y = a.astype(float), b.astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, (1.5, 1.5, 0), truncate=3.5)[5:-5, 5:-5]

    ux, uy = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - ux**2, mean(y * y) - uy**2, mean(x * y) - ux * uy
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(((2 * ux * uy + c1) * (2 * vxy + c2) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))).mean())


def test_ssim_is_that_of_the_paper() -> None:
    a, b = pictures()
    assert ssim(a, b) == pytest.approx(scipys(a, b), abs=1e-12)
    assert 0.2 < ssim(a, b) < 0.9
    assert ssim(a, b) == pytest.approx(ssim(b, a))
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, 255 - a) < 0
    dark, light = (np.full((11, 11, 3), value, np.uint8) for value in (50, 100))
    c1 = (0.01 * 255) ** 2
    assert ssim(dark, light) == pytest.approx((2 * 50 * 100 + c1) / (50**2 + 100**2 + c1))


def test_psnr() -> None:
    a, b = pictures()
    error = np.square(a.astype(float) - b).mean()
    assert psnr(a, b) == pytest.approx(20 * math.log10(255) - 10 * math.log10(error))
    assert psnr(a, a) == pytest.approx(58.92, abs=0.01)
    assert psnr(np.zeros_like(a), np.full_like(a, 255)) == pytest.approx(0)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_measures_refuse_what_they_cannot_compare(measure: object) -> None:
    a, _ = pictures()
    for other in (a[1:], a[..., 0], a.astype(float)):
        for pair in ((a, other), (other, a)):
            with pytest.raises(ValueError, match="expected equal uint8"):
                measure(*pair)  # type: ignore[operator]
    with pytest.raises(ValueError, match="the pictures are 27x10; expected sides of at least 11"):
        ssim(a[:10], a[:10])


def test_cases_are_repeatable_and_unlike_each_other() -> None:
    for task in DAMAGES:
        again = list(restore.cases(task, 3))
        assert all(np.array_equal(case.whole, WHOLE[task, case.seed].whole) for case in again)
        assert all(np.array_equal(case.damage.picture, WHOLE[task, case.seed].damage.picture) for case in again)
    assert len({case.whole.tobytes() for case in WHOLE.values()}) == len(WHOLE)


def test_a_perfect_restorer_and_one_that_does_nothing() -> None:
    measured = restore.scores(restore.evaluate(perfect, list(DAMAGES), 6))
    assert list(measured) == list(DAMAGES)
    for kinds in measured.values():
        assert kinds["restored"] == {"psnr": pytest.approx(58.92, abs=0.01), "ssim": pytest.approx(1), "right": 1}
        assert kinds["damaged"]["psnr"] < 40
    assert measured["colorize"]["damaged"]["right"] < 0.5  # the reader sees no colour
    for kinds in restore.scores(restore.evaluate(lazy, list(DAMAGES), 6)).values():
        assert kinds["restored"] == kinds["damaged"]


def test_baselines() -> None:
    chroma = restore.mean_chroma(20)
    for (task, _), case in WHOLE.items():
        made = restore.baseline(case, chroma)
        mask = case.damage.mask
        if mask is not None:
            assert np.array_equal(made[~mask], case.whole[~mask])
            assert np.ptp(made[mask], axis=0).max() == 0
            assert np.abs(made[mask][0] - case.whole[~mask].mean(axis=0)).max() <= 0.5
        elif task == "colorize":
            grey = np.asarray(Image.fromarray(made).convert("L"), int)
            inside = (made > 0).all(-1) & (made < 255).all(-1)  # where no channel was cut off
            assert np.abs(grey - case.damage.picture[..., 0])[inside].max() <= 2


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_path, sheet_path = tmp_path / "out" / "scores.json", tmp_path / "sheet.png"
    arguments = ["--number", "2", "--tasks", "jpeg", "uncrop", "--json", str(json_path), "--sheet", str(sheet_path)]
    assert restore.main(arguments, perfect) == 0
    assert "| jpeg | restored | 58.9 | 1.000 | 100% |" in capsys.readouterr().out
    assert set(json.loads(json_path.read_text())["scores"]) == {"jpeg", "uncrop"}
    assert Image.open(sheet_path).size == (2 * 2 * 64, 2 * 4 * 64 * 2)  # pictures x tasks, twice as large
    with pytest.raises(ValueError, match=r"restore returned uint8 \(3, 3, 3\); expected uint8 \(64, 64, 3\)"):
        restore.main(["--number", "1"], lambda *_: np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(SystemExit):
        restore.main(["--number", "0"], perfect)
