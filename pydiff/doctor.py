"""What pydiff finds on this machine, what is missing and why, and whether each operator computes what it should."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pydiff.ops import Paste, Step, Threshold, attention_triton, guided_step, guided_step_reference, native
from pydiff.ops.attention import edited_attention, edited_attention_reference
from pydiff.ops.group_norm_silu import group_norm_silu, group_norm_silu_reference

PACKAGES = ("pydiff-engine", "torch", "numpy", "pillow", "safetensors", "tokenizers", "tqdm")
OPTIONAL = {  # package: what is missing without it
    "transformers": "text encoders of real checkpoints",
    "sentencepiece": "tokenizers of DeepFloyd IF",
    "huggingface-hub": "checkpoints by their hub id",
    "ftfy": "clean_caption",
    "beautifulsoup4": "clean_caption",
}
FOLDER = Path(__file__).parent
THRESHOLDS = (Threshold(), Threshold("static"), Threshold("dynamic", 0.9, 1.5), Threshold("dynamic", 0.5, 50.0))
TOLERANCE = 1e-5  # relative to the largest value, of float32 against float64
BFLOAT16_TOLERANCE = 3e-2


class Finding(NamedTuple):
    """state: "ok"; "missing", which makes pydiff slower or narrower; or "broken", which makes it unfit for use."""

    state: str
    name: str
    detail: str


def report() -> str:
    """Every finding, one line each."""
    found = findings()
    width = max(len(finding.name) for finding in found)
    return "\n".join(f"{finding.state:7}  {finding.name:{width}}  {finding.detail}" for finding in found)


def healthy() -> bool:
    """Whether nothing is broken. What is only missing (the native core, a GPU) makes pydiff slower, not wrong."""
    return all(finding.state != "broken" for finding in findings())


def findings() -> list[Finding]:
    """Versions, the native core, CUDA, the embedded weights, and a check of every operator on every device."""
    return [*_versions(), *_core(), *_cuda(), _weights(), *_operators()]


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


def _build() -> dict[str, str]:
    """What the build recorded; empty when pydiff was not built from source here."""
    try:
        return dict(json.loads((FOLDER / "_build.json").read_text()))
    except (OSError, ValueError):
        return {}


def _core() -> Iterator[Finding]:
    reason = native.why_missing()
    if reason is not None:
        state = "broken" if native.choice() == "native" else "missing"
        built = _build().get("core", "the build left no record; reinstall pydiff with a C++ compiler")
        yield Finding(state, "native core", reason if built == "built" else f"{reason} (build: {built})")
    else:
        core = native.core()
        assert core is not None
        openmp = "OpenMP" if core.openmp else "no OpenMP, one thread"
        yield Finding("ok", "native core", f"{core.simd()}, {openmp}, PYDIFF_KERNELS={native.choice()}")
    yield Finding("ok", "threads", str(torch.get_num_threads()))


def _cuda() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield Finding("missing", "cuda", "torch sees no CUDA device; pydiff runs on the CPU")
        return
    core, device = native.core(), torch.cuda.get_device_name()
    if core is not None and core.cuda:
        yield Finding("ok", "cuda", f"{device}, native kernels serve guided_step")
    else:
        why = _build().get("cuda", "no native core")
        yield Finding("missing", "cuda", f"{device}, torch serves guided_step, for there are no native kernels: {why}")
    reason = attention_triton.why_missing()
    if reason is None:
        version = importlib.metadata.version("triton")
        yield Finding("ok", "triton", f"{version} serves attention in 16 bits on CUDA devices")
    else:
        yield Finding("missing", "triton", f"torch serves attention on CUDA devices: {reason}")


def _weights() -> Finding:
    folder = FOLDER / "embedded" / "weights"
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        return Finding("broken", "embedded model", f"no weights in {folder}; reinstall pydiff or load a folder")
    size = sum(file.stat().st_size for file in files) / 2**20
    return Finding("ok", "embedded model", f"{len(files)} files, {size:.1f} MiB")


def _operators() -> Iterator[Finding]:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        for name, (check, tolerance) in CHECKS.items():
            try:
                error = check(device)
            except Exception as failure:  # whatever fails here is the finding
                yield Finding("broken", f"{name} on {device}", f"{type(failure).__name__}: {failure}")
                continue
            advice = "" if error <= tolerance else "; set PYDIFF_KERNELS=reference"
            state = "ok" if error <= tolerance else "broken"
            yield Finding(state, f"{name} on {device}", f"relative error {error:.1e}{advice}")


def _guided_step(device: str) -> float:
    x, previous, noise, x0 = _random(4, 2, 3, 65, 67, device=device)
    mask = (x0[:, :1] + 0.5).clamp(0, 1)
    predictions = _random(2, 2, 6, 65, 67, device=device)
    step = Step(0.6, 0.8, 0.3, 0.5, c_raw=-0.2, c_previous=0.4, c_noise=1.0, log_variance=(-5.0, -1.0))
    worst = 0.0
    for threshold in THRESHOLDS:
        results = [
            run(
                x.to(dtype),
                predictions.to(dtype),
                (3.0, -2.0),
                step,
                threshold=threshold,
                previous=previous.to(dtype),
                noise=noise.to(dtype),
                paste=Paste(x0.to(dtype), mask.to(dtype), 0.8, 0.6, noise.to(dtype)),
                rescale=0.5,
            )
            for run, dtype in ((guided_step, torch.float32), (guided_step_reference, torch.float64))
        ]
        worst = max(worst, *(_error(mine, exact) for mine, exact in zip(*results, strict=True)))
    return worst


def _group_norm_silu(device: str) -> float:
    x, weight, bias = _random(2, 12, 17, 19, device=device), *_random(2, 12, device=device)
    scale, shift = _random(2, 2, 12, device=device)
    given = (weight, bias, scale, shift)
    wide = [tensor.double() for tensor in given]
    worst = 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        own = x.to(memory_format=layout)
        mine = group_norm_silu(own, 4, weight, bias, scale=scale, shift=shift)
        exact = group_norm_silu_reference(own.double(), 4, wide[0], wide[1], scale=wide[2], shift=wide[3])
        worst = max(worst, _error(mine, exact))
    return worst


def _attention(device: str, own: torch.dtype = torch.float32) -> float:
    """One row plain, one edited, text before pixels: the output and what is captured."""
    q, k, v = (_random(2, 3, n, 40, device=device).to(own) for n in (70, 200, 200))
    transfer, keep, probe = _random(2, 77, 77, device=device).softmax(-1), *_random(2, 2, 77, 3, device=device).abs()
    found = []
    for run, dtype in ((edited_attention, own), (edited_attention_reference, torch.float64)):
        wide = torch.promote_types(dtype, torch.float32)
        heat = torch.zeros(2, 70, 3, dtype=wide, device=device)
        out = run(
            *(x.to(dtype) for x in (q, k, v)),
            source=torch.zeros(2, dtype=torch.int64, device=device),
            transfer=transfer.to(wide),
            keep=keep[..., 0].to(wide),
            probe=probe.to(wide),
            heat=heat,
        )
        found.append((out, heat))
    return max(_error(mine, exact) for mine, exact in zip(*found, strict=True))


CHECKS: dict[str, tuple[Callable[[str], float], float]] = {  # and how far each may be from float64
    "guided_step": (_guided_step, TOLERANCE),
    "group_norm_silu": (_group_norm_silu, TOLERANCE),
    "attention": (_attention, TOLERANCE),
    "attention in bfloat16": (partial(_attention, own=torch.bfloat16), BFLOAT16_TOLERANCE),
}


def _random(*shape: int, device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def _error(mine: Tensor, exact: Tensor) -> float:
    """The largest error over the largest value; infinite for NaN."""
    error = float((mine - exact).abs().max() / exact.abs().max())
    return error if error == error else float("inf")
