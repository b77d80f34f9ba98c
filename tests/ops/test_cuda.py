"""The CUDA kernels: compiled for their targets, emulated on a CPU, and run where there is a GPU."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pydiff import gpu
from pydiff.ops import Paste, Step, Threshold, guided_step, guided_step_reference, native
from pydiff.ops.guided_step import PREDICTION_TYPES, THRESHOLDS
from tests import device_arrays

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "csrc" / "cuda" / "guided_step.cu"
EMULATOR = Path(__file__).parent / "emulator"
STEP = Step(alpha=0.6, sigma=0.8, c_x=0.3, c_denoised=0.5, c_raw=-0.2, c_previous=0.4, c_noise=0.7)
LIMITS = [
    Threshold(),
    Threshold("static", max_value=0.7),
    Threshold("dynamic", 0.95, 1.0),
    Threshold("dynamic", 0.9, 1.5),
    Threshold("dynamic", 0.995, 100.0),
    Threshold("dynamic", 0.5, torch.inf),
]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_compiles_without_spills(tmp_path: Path) -> None:
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (80, 90)]
    flags = ["-c", "-O3", "-std=c++17", "-fmad=false", "-Xptxas", "-v"]
    command = ["nvcc", *flags, *targets, str(SOURCE), "-o", str(tmp_path / "guided_step.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spills = [line for line in done.stderr.splitlines() if "spill" in line]
    assert spills
    assert all("0 bytes spill stores, 0 bytes spill loads" in line for line in spills)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The extension module, with the CUDA source compiled by the C++ compiler against the emulator."""
    pybind11 = pytest.importorskip("pybind11")
    if shutil.which("g++") is None:
        pytest.skip("g++ is not on PATH")
    folder = tmp_path_factory.mktemp("emulated")
    includes = [f"-I{path}" for path in (EMULATOR, pybind11.get_include(), sysconfig.get_paths()["include"])]
    flags = ["-O1", "-g0", "-w", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-DPYDIFF_CUDA"]
    sources = [path for part in ("", "cpu") for path in sorted((ROOT / "csrc" / part).glob("*.cpp"))]
    files = [*map(str, sources), "-x", "c++", str(SOURCE)]
    library = folder / "_C.so"
    subprocess.run(["g++", "-shared", *flags, *includes, *files, "-o", str(library)], check=True)
    spec = importlib.util.spec_from_file_location("_C", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, given: dict[str, Any], step: Step, **options: Any) -> tuple[Tensor, Tensor]:
    x, predictions = given["x"], given["predictions"]
    batch, n = len(x), x[0].numel()
    threshold, paste = options.get("threshold", Threshold()), options.get("paste")
    workspace = torch.full((module.guided_step_workspace(batch, n),), 0xFF, dtype=torch.uint8)
    x_next, denoised = torch.full((2, *x.shape), torch.nan)
    tensors = (x, predictions, given["previous"], given["noise"], x_next, denoised)
    module.guided_step(
        *(tensor.data_ptr() for tensor in tensors),
        *(batch, n, predictions[0, 0].numel(), given["weights"], step[:7], step.log_variance),
        None if paste is None else described(paste),
        PREDICTION_TYPES.index(options.get("prediction_type", "epsilon")),
        *(THRESHOLDS.index(threshold.kind), threshold.percentile, threshold.max_value),
        *(options.get("rescale", 0.0), workspace.data_ptr(), 0),
    )
    return x_next, denoised


def described(paste: Paste) -> tuple[float, ...]:
    addresses = (tensor.data_ptr() for tensor in (paste.x0, paste.mask, paste.noise))
    steps = (0 if len(tensor) == 1 else tensor[0].numel() for tensor in (paste.x0, paste.mask))
    return *addresses, *steps, paste.mask[0].numel(), paste.c_x0, paste.c_noise


def inputs(shape: tuple[int, ...], branches: int, seed: int = 0, device: str = "cpu") -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    batch, channels, *size = shape
    return {
        "x": torch.randn(shape, generator=generator).to(device),
        "predictions": torch.randn(branches, batch, 2 * channels, *size, generator=generator).to(device),
        "weights": [2.0, -0.5, -0.25, -0.25][:branches],
        "previous": torch.randn(shape, generator=generator).to(device),
        "noise": torch.randn(shape, generator=generator).to(device),
    }


@pytest.mark.parametrize("threshold", LIMITS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_emulated(
    emulated: ModuleType, threshold: Threshold, prediction_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"threshold": threshold, "prediction_type": prediction_type}
    for shape, branches in (((2, 1, 1, 1), 1), ((2, 3, 9, 11), 2), ((3, 3, 41, 37), 3)):
        given = inputs(shape, branches)
        for rescale, learned in ((0.0, None), (0.7, (-5.0, -1.0))):
            if rescale and shape[-1] == 1:
                continue  # one value has no standard deviation
            step, options["rescale"] = STEP._replace(log_variance=learned), rescale
            plain = guided_step_reference(**given, step=step, **options)
            mine = run(emulated, given, step, **options)
            for a, b in zip(mine, plain, strict=True):
                torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)
            if len(given["x"]) == 3 and learned:
                monkeypatch.setenv("PYDIFF_REVERSED", "1")
                again = run(emulated, given, step, **options)
                monkeypatch.delenv("PYDIFF_REVERSED")
                assert all(torch.equal(a, b) for a, b in zip(mine, again, strict=True))


def put_back(given: dict[str, Any], shared: bool = False) -> Paste:
    """x0 and masks with values at, and between, 0 and 1, of every picture or of the first for all."""
    x0, noise = given["x"].flip(-1).clone(), given["noise"]
    mask = (x0[:, :1] + 0.5).clamp(0, 1)
    return Paste(x0[:1], mask[:1], 0.8, 0.6, noise) if shared else Paste(x0, mask, 0.8, 0.6, noise)


@pytest.mark.parametrize("threshold", LIMITS[1:4])
@pytest.mark.parametrize("shared", [False, True])
def test_emulated_paste(emulated: ModuleType, threshold: Threshold, shared: bool) -> None:
    for shape in ((1, 1, 1, 1), (2, 8, 1, 3), (3, 3, 41, 37)):
        given = inputs(shape, 2)
        paste = put_back(given, shared)
        made, alone = run(emulated, given, STEP, threshold=threshold)
        mine, denoised = run(emulated, given, STEP, threshold=threshold, paste=paste)
        plain, _ = guided_step_reference(**given, step=STEP, threshold=threshold, paste=paste)
        torch.testing.assert_close(mine, plain, rtol=2e-6, atol=2e-6)
        assert torch.equal(denoised, alone)
        ours, known = ((paste.mask == side).expand(shape) for side in (1, 0))
        assert torch.equal(mine[ours], made[ours])
        assert torch.equal(mine[known], plain[known])
        if not shared:
            given["previous"][known] = torch.nan
            paste.x0[ours] = torch.inf
            again, _ = run(emulated, given, STEP, threshold=threshold, paste=paste)
            assert torch.equal(again[ours], made[ours])
            assert torch.equal(again[known], plain[known])


@pytest.mark.parametrize("kind", ["ties", "constant", "huge", "edge", "inf", "nan"])
def test_emulated_selection(emulated: ModuleType, kind: str) -> None:
    given = inputs((2, 3, 39, 38), 1)
    values = given["predictions"][0, :, :3]
    if kind == "ties":
        values.mul_(2).round_()
    elif kind == "constant":
        values.fill_(2.5)
    elif kind == "huge":
        values.mul_(20).exp_()
    elif kind == "edge":
        values.uniform_(0, 1)[0].view(-1)[:7] = 5
    else:
        values.view(2, -1)[0, :5] = float(kind)
    for percentile in (0.0, 0.9, 1 - 7 / 4445, 1.0):
        for max_value in (1.0, 1.5, torch.inf):
            options: dict[str, Any] = {"threshold": Threshold("dynamic", percentile, max_value)}
            options["prediction_type"] = "sample"
            mine, plain = run(emulated, given, STEP, **options), guided_step(**given, step=STEP, **options)
            for a, b in zip(mine, plain, strict=True):
                torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("threshold", LIMITS)
def test_emulated_on_arrays_of_cupy(
    emulated: ModuleType, threshold: Threshold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their addresses, from whatever layout, and back as CuPy's."""
    monkeypatch.setattr(native, "core", lambda: emulated)
    with device_arrays.installed():
        for paste in (False, True):
            tensors = inputs((2, 3, 9, 11), 2)
            given = {name: moved(part) for name, part in tensors.items()}
            options: dict[str, Any] = {"step": STEP._replace(log_variance=(-5.0, -1.0)), "threshold": threshold}
            kept = Paste(*map(gpu.from_host, map(np.asarray, put_back(tensors)[:2])), 0.8, 0.6, given["noise"])
            mine = guided_step(**given, **options, paste=kept if paste else None)
            plain = guided_step_reference(**tensors, **options, paste=put_back(tensors) if paste else None)
            assert not device_arrays.crossings["number"] + device_arrays.crossings["to host"]
            for a, b in zip(mine, plain, strict=True):
                np.testing.assert_allclose(gpu.to_host(a), b.numpy(), rtol=2e-6, atol=2e-6, strict=True)
            device_arrays.crossings.clear()


def moved(part: Any) -> Any:
    """An argument in the GPU's memory, its last axis not that of neighbours there."""
    if not isinstance(part, Tensor):
        return part
    axes = (*range(part.ndim - 2), part.ndim - 1, part.ndim - 2)
    return gpu.from_host(np.ascontiguousarray(part.numpy().transpose(axes))).transpose(*axes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("threshold", LIMITS)
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 51, 61), (2, 3, 257, 255)])
def test_on_a_gpu(threshold: Threshold, shape: tuple[int, ...]) -> None:
    core = native.core()
    if core is None or not core.cuda:
        pytest.skip("pydiff._C has no CUDA kernels")
    given = inputs(shape, 3, device="cuda")
    step = STEP._replace(log_variance=(-5.0, -1.0))
    options: dict[str, Any] = {"step": step, "threshold": threshold, "rescale": 0.5}
    mine = guided_step(**given, **options, paste=put_back(given))
    plain = guided_step_reference(**given, **options, paste=put_back(given))
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
    alone = {k: v[:1] if k in ("x", "previous", "noise") else v for k, v in given.items()}
    alone["predictions"] = given["predictions"][:, :1]
    one = guided_step(**alone, **options, paste=put_back(alone))
    assert all(torch.equal(a[:1], b) for a, b in zip(mine, one, strict=True))
