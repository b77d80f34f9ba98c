"""The doctor finds what is there, says why something is missing, and calls a wrong operator broken."""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

from pydiff import doctor, findings, torch_doctor
from pydiff.ops import native
from tests import device_arrays


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation folder that lacks nothing."""
    weights = tmp_path / "embedded" / "weights" / "base"
    weights.mkdir(parents=True)
    (weights / "model.safetensors").write_bytes(b"0" * 1024)
    for module in (doctor, findings):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    return tmp_path


def test_a_whole_installation_is_healthy(whole: Path) -> None:
    text = doctor.report()
    assert doctor.healthy(), text
    for name in ("python", "torch", "native core", "threads", "cuda", "embedded model", "guided_step on cpu"):
        assert name in text


def test_missing_weights_are_named(whole: Path) -> None:
    (whole / "embedded" / "weights" / "base" / "model.safetensors").unlink()
    assert "no weights in" in doctor.report()
    assert not doctor.healthy()


def test_a_missing_core_says_why(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole / "_build.json").write_text('{"core": "CompileError: no compiler", "cuda": "not built"}')
    monkeypatch.setattr(native, "_load", lambda: (None, "pydiff._C cannot be imported"))
    assert "CompileError: no compiler" in doctor.report()
    assert doctor.healthy()


@pytest.mark.parametrize(("capability", "text"), [((9, 0), "serves attention"), ((7, 5), "torch serves attention")])
def test_a_gpu_is_told_what_serves_it(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], text: str
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    known = {"is_available": True, "get_device_name": "a GPU", "get_device_capability": capability}
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch_doctor, "CHECKS", {})
    found = {finding.name: finding for finding in doctor.findings()}
    assert "guided_step" in found["cuda"].detail
    assert text in found["triton"].detail
    assert found["triton"].state == ("ok" if capability == (9, 0) else "missing")


def test_a_wrong_operator_is_broken(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: torch.Tensor, *given: object, **options: object) -> torch.Tensor:
        return torch.full_like(x, torch.nan)

    monkeypatch.setattr(torch_doctor, "group_norm_silu", wrong)
    assert "PYDIFF_KERNELS=reference" in doctor.report()
    assert not doctor.healthy()


def test_an_onnx_runtime_for_gpus_needs_their_arrays(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with device_arrays.installed():
        found = {finding.name: finding for finding in doctor.findings()}
    assert (found["cupy"].state, found["onnxruntime"].detail.split(", ")[1]) == ("ok", "runs exported models on cuda")
    monkeypatch.setitem(sys.modules, "cupy", None)
    found = {finding.name: finding for finding in doctor.findings()}
    assert found["cupy"].state == "missing"
    assert "pip install 'pydiff-engine[onnx-gpu]'" in found["cupy"].detail


def test_without_torch_onnx_runtime_does(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = {finding.name: finding for finding in doctor.findings()}
    assert found["torch"].state == "missing"
    assert "pip install 'pydiff-engine[torch]'" in found["torch"].detail
    assert "exported models on cpu" in found["onnxruntime"].detail
    assert found["guided_step on numpy"].state == "ok"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = {finding.name: finding for finding in doctor.findings()}
    assert found["torch"].state == found["onnxruntime"].state == "broken"
