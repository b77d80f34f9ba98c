"""What Ctrl-C leaves behind: nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pydiff import cli

FAST = ["--size", "64", "--steps", "2"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("where", ["pydiff.tasks.run.states", "PIL.Image.Image.save", "pydiff.pipeline.load"])
def test_an_interrupt_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    assert cli.main(["generate", "a", *FAST, "-o", "a.png"]) == 130
    assert capsys.readouterr() == ("", "pydiff: interrupted; no half-made picture was written\n")
    assert names(place) == []


WORKING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
from pydiff import cli
from pydiff.cli.progress import Progress
Progress.__call__ = lambda self, state: print("step", flush=True)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_real_interrupt(place: Path) -> None:
    call = [sys.executable, "-c", WORKING, "generate", "a red ring", "--size", "64", "--steps", "1000", "-o", "a.png"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "pydiff: interrupted; no half-made picture was written\n"
    assert names(place) == []
