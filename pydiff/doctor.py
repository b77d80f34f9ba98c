"""What pydiff finds on this machine, what is missing and why, and whether each operator computes what it should."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from pydiff import gpu
from pydiff.findings import FOLDER, THRESHOLDS, TOLERANCE, Finding, build, checked
from pydiff.ops import Step, guided_step, guided_step_reference, native
from pydiff.runtime.sessions import ON_GPU, PROVIDERS

PACKAGES = ("pydiff-engine", "numpy", "array-api-compat", "pillow", "safetensors", "tokenizers", "tqdm")
ENGINES = {"torch": "pydiff-engine[torch]", "onnxruntime": "pydiff-engine[onnx]"}  # package: what brings it
OPTIONAL = {  # package: what is missing without it
    "onnxscript": "pydiff export",
    "transformers": "text encoders of real checkpoints",
    "sentencepiece": "tokenizers of DeepFloyd IF",
    "huggingface-hub": "checkpoints by their hub id",
    "ftfy": "clean_caption",
    "beautifulsoup4": "clean_caption",
}


def report() -> str:
    """Every finding, one line each."""
    found = findings()
    width = max(len(finding.name) for finding in found)
    return "\n".join(f"{finding.state:7}  {finding.name:{width}}  {finding.detail}" for finding in found)


def healthy() -> bool:
    """Whether nothing is broken. What is only missing (the native core, a GPU) makes pydiff slower, not wrong."""
    return all(finding.state != "broken" for finding in findings())


def findings() -> list[Finding]:
    """Versions, engines, the native core, the embedded weights, and a check of every operator on every device."""
    found = [*_versions(), *_engines(), *_core(), _weights()]
    if _imports("torch") is None:
        from pydiff import torch_doctor

        return [*found, *torch_doctor.cuda(), *torch_doctor.operators()]
    return [*found, checked("guided_step on numpy", _guided_step, TOLERANCE)]


def _versions() -> Iterator[Finding]:
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        try:
            yield Finding("ok", package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            state = "missing" if package == "pydiff-engine" else "broken"
            yield Finding(state, package, f"not installed: pip install {package}")
    for package, purpose in OPTIONAL.items():
        try:
            yield Finding("ok", package, f"{importlib.metadata.version(package)}, for {purpose}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding("missing", package, f"only {purpose} need it: pip install {package}")


def _engines() -> Iterator[Finding]:
    """What runs networks: one of them must be there."""
    missing = {package: reason for package in ENGINES if (reason := _imports(package)) is not None}
    for package, extra in ENGINES.items():
        if package not in missing:
            version = importlib.import_module(package).__version__  # that of onnxruntime-gpu too
            yield Finding("ok", package, version + _providers(package))
            yield from _gpu_arrays(package)
            continue
        state = "broken" if len(missing) == len(ENGINES) else "missing"
        yield Finding(state, package, f"{missing[package]}: pip install {extra!r}")
    if len(missing) < len(ENGINES):
        yield Finding("ok", "the command", f"one picture of a model that pydiff carries is made by {_first(missing)}")


def _first(missing: Collection[str]) -> str:
    """What `pydiff.cli.engine` starts with."""
    if "onnxruntime" in missing:
        return "torch; onnxruntime would be ready sooner"
    return "onnxruntime" if "torch" in missing else "onnxruntime, much and what it refuses by torch"


def _imports(package: str) -> str | None:
    """Why a package does not import, None where it does."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        return str(error)
    return None


def _providers(package: str) -> str:
    if package != "onnxruntime":
        return ""
    there = importlib.import_module(package).get_available_providers()
    return f", runs exported models on {', '.join(short for short, name in PROVIDERS.items() if name in there)}"


def _gpu_arrays(package: str) -> Iterator[Finding]:
    """Whether an ONNX Runtime that runs on GPUs has arrays in their memory."""
    if package == "onnxruntime" and {*ON_GPU} & {*importlib.import_module(package).get_available_providers()}:
        try:
            gpu.opened(0)
        except ValueError as error:
            yield Finding("missing", "cupy", str(error))
        else:
            yield Finding("ok", "cupy", "holds the arrays of exported models in the GPU's memory")


def _core() -> Iterator[Finding]:
    reason = native.why_missing()
    if reason is not None:
        state = "broken" if native.choice() == "native" else "missing"
        built = build().get("core", "the build left no record; reinstall pydiff with a C++ compiler")
        yield Finding(state, "native core", reason if built == "built" else f"{reason} (build: {built})")
    else:
        core = native.core()
        assert core is not None
        openmp = "OpenMP" if core.openmp else "no OpenMP, one thread"
        yield Finding("ok", "native core", f"{core.simd()}, {openmp}, PYDIFF_KERNELS={native.choice()}")
        yield _plans(core)
    yield Finding("ok", "threads", str(native.threads()))


def _plans(core: ModuleType) -> Finding:
    """In which types torch's networks are run by plans on the CPU."""
    if not hasattr(core, "Program"):
        return Finding("missing", "plans", "the processor has no AVX-512; on the CPU torch's layers run")
    types = "float32 and bfloat16" if core.bfloat16_products else "float32"
    return Finding("ok", "plans", f"the core runs whole networks on the CPU in {types}")


def _weights() -> Finding:
    folder = FOLDER / "embedded" / "weights"
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        return Finding("broken", "embedded model", f"no weights in {folder}; reinstall pydiff or load a folder")
    size = sum(file.stat().st_size for file in files) / 2**20
    return Finding("ok", "embedded model", f"{len(files)} files, {size:.1f} MiB")


def _guided_step() -> float:
    rng: Any = np.random.default_rng(0)  # arrays of either kind are typed as torch's
    x, noise, p = (rng.standard_normal(shape) for shape in ((2, 3, 65, 67), (2, 3, 65, 67), (2, 2, 6, 65, 67)))
    step = Step(0.6, 0.8, 0.3, 0.5, c_raw=-0.2, c_noise=1.0, log_variance=(-5.0, -1.0))
    worst = 0.0
    for threshold in THRESHOLDS:
        mine, exact = (
            run(x.astype(dtype), p.astype(dtype), (3.0, -2.0), step, threshold=threshold, noise=noise.astype(dtype))[0]
            for run, dtype in ((guided_step, np.float32), (guided_step_reference, np.float64))
        )
        worst = max(worst, float(np.abs(mine - exact).max() / np.abs(exact).max()))
    return worst
