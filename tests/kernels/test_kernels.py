"""The Triton kernels: their numbers, in the interpreter and on a GPU, and their machine code, which needs neither."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="triton is not installed")
ROOT = Path(__file__).parents[2]
SHARED_MEMORY = {80: 99 * 1024, 90: 227 * 1024}  # of a block: the least of the chips of a table
TEXT = 77
slow = pytest.mark.slow
PLAIN = [  # heads, queries, keys, head size
    (8, 4096, 4096, 40),
    *(pytest.param(shape, marks=slow) for shape in ((8, 1024, 1024, 80), (8, 256, 256, 160), (10, 4096, 4096, 64))),
]
CAPTURED = [
    (8, 4096, TEXT, 40),
    *(pytest.param((heads, n, TEXT, size), marks=slow) for heads, n, size in ((8, 1024, 80), (8, 256, 160))),
    *(pytest.param((22, n, n + TEXT, 64), marks=slow) for n in (64, 1024)),
]


@pytest.mark.parametrize("where", ["interpreter", "gpu"])
def test_numerics(where: str) -> None:
    """numerics.py in a process of its own, since triton reads TRITON_INTERPRET when it is imported."""
    if where == "gpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    environment = {**os.environ, "TRITON_INTERPRET": "1" if where == "interpreter" else "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/kernels/numerics.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Usage(NamedTuple):
    """Of one kernel: registers of a thread, bytes of a thread's stack, which hold what registers do not, and of shared
    memory of a block."""

    name: str
    registers: int
    stack: int
    shared: int


class Chip:
    """Stands for triton's driver, which asks a GPU what to compile for."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return importlib.import_module("triton.backends.compiler").GPUTarget("cuda", self.arch, 32)


@pytest.fixture(params=sorted(SHARED_MEMORY))
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Kernels are compiled for a chip, into this list, and not run."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("TRITON_INTERPRET=1")
    for tool in ("ptxas", "cuobjdump"):
        try:
            assert Path(getattr(triton.knobs.nvidia, tool).path).is_file()
        except (AttributeError, AssertionError, RuntimeError):
            pytest.skip(f"triton came without {tool}")
    compiled: list[Any] = []
    function, chip = triton.runtime.jit.JITFunction, Chip(request.param)
    launch = function.run

    def compile_only(self: Any, *given: Any, grid: Any, warmup: bool, **options: Any) -> None:
        compiled.append(launch(self, *given, grid=grid, warmup=True, **options))

    monkeypatch.setattr(triton.runtime.driver, "_active", chip)
    monkeypatch.setattr(function, "run", compile_only)
    monkeypatch.setattr(importlib.import_module("pydiff.kernels.blocks"), "arch", lambda _: chip.arch)
    yield compiled
    for kernel in compiled:
        used = usage(kernel)
        assert used.stack == 0, f"sm_{chip.arch}: {used}"
        assert used.shared <= SHARED_MEMORY[chip.arch], f"sm_{chip.arch}: {used}"


def usage(kernel: Any) -> Usage:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(word.split(":") for word in text.split() if word.count(":") == 1)
    return Usage(kernel.name, int(found["REG"]), int(found["STACK"]), kernel.metadata.shared)


def heads_of(heads: int, n: int, size: int) -> Tensor:
    """(2, H, N, d) as a network has it."""
    return torch.empty(2, n, heads, size, dtype=torch.bfloat16).transpose(1, 2)


@pytest.mark.parametrize("shape", PLAIN, ids=str)
def test_attention_does_not_spill(made: list[Any], shape: tuple[int, ...]) -> None:
    heads, queries, keys, size = shape
    q, k = heads_of(heads, queries, size), heads_of(heads, keys, size)
    attention = importlib.import_module("pydiff.kernels.attention").attention
    attention(q, k, k)
    same = torch.zeros(2, dtype=torch.int64)
    attention(q, k, k, rows=(same, same, None))
    assert [kernel.name for kernel in made] == ["_flash", "_flash"]


@pytest.mark.parametrize("shape", CAPTURED, ids=str)
def test_captures_and_edits_do_not_spill(made: list[Any], shape: tuple[int, ...]) -> None:
    heads, queries, keys, size = shape
    q, k = heads_of(heads, queries, size), heads_of(heads, keys, size)
    capture = {"probe": torch.empty(2, TEXT, 3), "heat": torch.empty(2, queries, 3)}
    tables = {"source": torch.zeros(2, dtype=torch.int64), "transfer": torch.empty(2, TEXT, TEXT)}
    kernels = importlib.import_module("pydiff.kernels.attention")
    kernels.attention(q, k, k, **capture)
    kernels.edited_attention(q, k, k, **tables, keep=torch.empty(2, TEXT), **capture)
    assert {"_text", "_fold"} <= {kernel.name for kernel in made}
