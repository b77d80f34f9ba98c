"""An interpreter with what an exported model needs, and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PATIENCE = 240  # seconds for the package index


def bare_python(folder: Path) -> Path:
    """Make a virtual environment of pydiff's own requirements and those of its extra "onnx", from the package index or,
    where that does not answer, from the packages that run this. pydiff is this checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    if not _installed(python, requirements()):
        _linked(_site(python), requirements())
    (_site(python) / "checkout.pth").write_text(f"{ROOT}\n")
    return python


def run(python: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The interpreter with these arguments, and nothing of this process's own paths."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**kept, "PYTHONNOUSERSITE": "1", **environment}
    )


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(one) for one in (*project["dependencies"], *project["optional-dependencies"]["onnx"])]


def _installed(python: Path, wanted: Sequence[Requirement]) -> bool:
    """By pip, in the versions that are here."""
    pinned = [f"{one.name}=={metadata.version(one.name)}" for one in wanted]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--retries", "1", *pinned]
    try:
        return subprocess.run(pip, capture_output=True, timeout=PATIENCE).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _linked(site: Path, wanted: Sequence[Requirement]) -> None:
    """By links to the packages that are here, and to all that they require."""
    for distribution in _closure(wanted):
        for name in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(distribution.locate_file(name))).resolve())


def _closure(wanted: Sequence[Requirement]) -> Iterator[metadata.Distribution]:
    waiting, seen = list(wanted), set()
    while waiting:
        one = waiting.pop()
        if one.name in seen or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        seen.add(one.name)
        distribution = metadata.distribution(one.name)
        waiting += [Requirement(text) for text in distribution.requires or ()]
        yield distribution


def _site(python: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(run(python, "-c", code).stdout.strip())
