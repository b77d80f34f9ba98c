"""Where importing torch raises, all that an exported model needs is imported; the rest says what it lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pydiff

BARRED = "import sys; sys.modules['torch'] = None\n"
MODULES = ("pipeline", "picture_tasks", "images", "heat", "heat_pictures", "cli", "cli.options", "cli.pictures")
TASKS = Path(pydiff.__file__).parent / "tasks"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BARRED + code], capture_output=True, text=True, timeout=120)


def test_tasks_and_doors_are_imported() -> None:
    names = [*MODULES, *(f"tasks.{path.stem}" for path in sorted(TASKS.glob("*.py")))]
    made = run(f"import importlib\nfor name in {names!r}: importlib.import_module('pydiff.' + name)")
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import pydiff; pydiff.load('some/where/folder')",
            "some/where/folder, which is no folder that `pydiff export`",
        ),
        ("import pydiff; pydiff.load('some/where/folder')", "pip install 'pydiff-engine[torch]'"),
        (
            "from pydiff.images import check_output_type as check; check('np'); check('pt')",
            "output_type 'pt' needs the package pydiff-engine[torch]",
        ),
        ("import pydiff; pydiff.Inverted.load('a.safetensors')", "the file of an inversion needs the package"),
    ],
)
def test_what_needs_torch_says_so(code: str, message: str) -> None:
    made = run(code)
    assert made.returncode == 1
    assert message in made.stderr
    assert made.stderr.splitlines()[-1].startswith("ValueError: ")


def test_the_command_says_so_in_one_line(tmp_path: Path) -> None:
    made = run(f"from pydiff.cli import main; sys.exit(main(['generate', 'a cat', '--model', {str(tmp_path)!r}]))")
    assert made.returncode == 2
    assert made.stderr.startswith(f"pydiff: {tmp_path}, which is no folder")
    assert made.stderr.count("\n") == 1
