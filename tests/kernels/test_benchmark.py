"""The GPU benchmark: what it compares is the same on a CPU, and without a GPU it says so."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import kernels as benchmark


def test_without_a_gpu_it_stops(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["kernels"])
    with pytest.raises(SystemExit) as stopped:
        benchmark.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "benchmarks.kernels needs a GPU that Triton serves: torch sees no CUDA device\n"


def test_every_contender_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ((2, 2, 9, 16),)
    for name, value in {"SELF": small, "TEXT": small, "JOINT": small, "TOKENS": 5, "CHECKED": 4}.items():
        monkeypatch.setattr(benchmark, name, value)
    torch.manual_seed(0)
    kinds = []
    for case in benchmark.cases("cpu"):
        kinds.append(case.kind)
        runs = benchmark.check(case)
        assert {"pydiff", "math"} <= set(runs)
        assert ("maps" in runs) == ("capture" in case.kind or "edit" in case.kind)
        wrong = case._replace(exact=(case.exact[0] + 1, case.exact[1]))
        with pytest.raises(ArithmeticError, match="no time is printed"):
            benchmark.check(wrong)
    joint = [kind.replace("text", "joint") for kind in kinds if kind.startswith("text")]
    assert kinds[2:] == ["text", "text, capture 3", "text, capture 5", "text, edit", *joint]
