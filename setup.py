"""Builds the native core `pydiff._C`: C++ where there is a compiler, CUDA where there is also nvcc.

PYDIFF_BUILD=auto|none|cpu|cuda chooses. A build that fails or cannot start never fails the install: pydiff then runs on
its torch references, and `pydiff doctor` reads why from pydiff/_build.json, which is written here.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

CHOICES = ("auto", "none", "cpu", "cuda")
SOURCES = [
    "csrc/bindings.cpp",
    "csrc/program_bindings.cpp",
    "csrc/cpu/attention.cpp",
    "csrc/cpu/attention_pairs.cpp",
    "csrc/cpu/attention_plan.cpp",
    "csrc/cpu/attention_tile.cpp",
    "csrc/cpu/bytes.cpp",
    "csrc/cpu/generator.cpp",
    "csrc/cpu/group_norm_silu.cpp",
    "csrc/cpu/guided_step.cpp",
    "csrc/cpu/merge.cpp",
    "csrc/cpu/normalise.cpp",
    "csrc/cpu/product.cpp",
    "csrc/cpu/product_tile.cpp",
    "csrc/cpu/threshold.cpp",
    "csrc/cpu/winograd.cpp",
]
HEADERS = [
    "csrc/program_bindings.h",
    "csrc/pydiff.h",
    "csrc/cpu/attention_plan.h",
    "csrc/cpu/attention_tile.h",
    "csrc/cpu/bytes.h",
    "csrc/cpu/merge.h",
    "csrc/cpu/normalise.h",
    "csrc/cpu/product.h",
    "csrc/cpu/program.h",
    "csrc/cpu/simd.h",
    "csrc/cpu/threshold.h",
    "csrc/cpu/wide.h",
    "csrc/cpu/winograd.h",
    "csrc/cuda/guided_step.cu",
]
CUDA_SOURCE = "csrc/cuda/guided_step.cu"
CUDA_TARGETS = ["arch=compute_80,code=sm_80", "arch=compute_90,code=[sm_90,compute_90]"]
CHOICE = os.environ.get("PYDIFF_BUILD", "auto")
if CHOICE not in CHOICES:
    raise SystemExit(f"PYDIFF_BUILD is {CHOICE!r}; expected one of {', '.join(CHOICES)}")


def compile_flags(compiler: str) -> tuple[list[str], list[str]]:
    """Flags for compiling and for linking."""
    if compiler == "msvc":
        return ["/O2", "/std:c++17", "/openmp"], []
    flags = ["-O3", "-std=c++17", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
    flags.append("-ffp-contract=off")
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-mprefer-vector-width=512")
    openmp = ["-fopenmp"] if sys.platform == "linux" else []
    return flags + openmp, openmp


def find_nvcc() -> str | None:
    """The CUDA compiler of CUDA_HOME, of PATH, or of the usual place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [Path(home) / "bin" / "nvcc"] if home else []
    places.append(Path("/usr/local/cuda/bin/nvcc"))
    found = next((str(place) for place in places if place.is_file()), None)
    return found if home and found else shutil.which("nvcc") or found


def run(*command: str) -> str:
    """The output of a command; RuntimeError with its last lines when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout + done.stderr


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[-1000:]


class BuildCore(build_ext):
    """Builds the one extension and records what became of it, whatever that is."""

    def run(self) -> None:
        self.report = {"choice": CHOICE, "core": "not built", "cuda": "not built"}
        in_place = self.inplace or self.editable_mode
        source = Path(self.get_finalized_command("build_py").get_package_dir("pydiff"))
        for stale in source.glob("_C.*") if in_place else ():
            stale.unlink()
        try:
            if CHOICE == "none":
                self.report["core"] = "PYDIFF_BUILD=none"
            else:
                super().run()
        except Exception as error:  # a failed build never fails the install
            self.report["core"] = describe(error)
        for folder in (Path(self.build_lib) / "pydiff", *([source] if in_place else [])):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "_build.json").write_text(json.dumps(self.report, indent=2) + "\n")
        self.announce(f"pydiff._C: {self.report}", level=3)

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        ext.include_dirs.append(pybind11.get_include())
        ext.extra_compile_args, ext.extra_link_args = compile_flags(self.compiler.compiler_type)
        if CHOICE != "cpu":
            try:
                self.add_cuda(ext)
            except (OSError, RuntimeError) as error:
                self.report["cuda"] = str(error)
        try:
            super().build_extension(ext)
        except Exception as error:
            self.report["core"] = describe(error)
            raise
        self.report["core"] = "built"

    def add_cuda(self, ext: Extension) -> None:
        nvcc = find_nvcc()
        if nvcc is None:
            raise RuntimeError("nvcc is not on PATH, nor in CUDA_HOME, nor in /usr/local/cuda")
        if sys.platform != "linux":
            raise RuntimeError(f"CUDA kernels are built on Linux only, not on {sys.platform}")
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        target = str(folder / "guided_step.cu.o")
        targets = [flag for arch in CUDA_TARGETS for flag in ("-gencode", arch)]
        options = ["-O3", "-std=c++17", "-fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
        run(nvcc, "-c", *options, *targets, CUDA_SOURCE, "-o", target)
        found = re.findall(r'-L([^"\s]+)', run(nvcc, "-dryrun", "-x", "cu", os.devnull, "-o", os.devnull))
        folders = [place for place in found if (Path(place) / "libcudart_static.a").is_file()]
        if not folders:
            raise RuntimeError(f"nvcc names no folder with libcudart_static.a among {found}")
        ext.extra_objects = [target]
        ext.define_macros = [("PYDIFF_CUDA", "1")]
        ext.library_dirs = folders[:1]
        ext.libraries = ["cudart_static", "rt", "pthread", "dl"]
        self.report["cuda"] = "built"


setup(
    packages=[*find_packages(include=["pydiff", "pydiff.*"]), "pydiff.kernels"],
    package_dir={"pydiff.kernels": "kernels"},
    ext_modules=[Extension("pydiff._C", SOURCES, depends=HEADERS, optional=True, language="c++")],
    cmdclass={"build_ext": BuildCore},
)
