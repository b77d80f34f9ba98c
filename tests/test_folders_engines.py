"""Folders are opened with whatever engine's networks are given, where torch does not import too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pydiff
from pydiff.folders import Networks

WEIGHTS = Path(pydiff.__file__).parent / "embedded" / "weights"

CODE = """
import sys
sys.modules["torch"] = None  # importing it raises
from pathlib import Path
from types import SimpleNamespace
from pydiff.folders import Networks, open_indexes, read_index
from pydiff.models.unet_config import UNetConfig
from pydiff.weights.files import read_config
from tests.text.lookup import LookUp

class Hollow(Networks):
    "Configurations in the place of networks."
    def unet(self, folder):
        config = read_config(folder, UNetConfig.from_dict)
        return SimpleNamespace(config=config, reads_text=config.sample_size == 64)
    def t5(self, folder):
        return LookUp(width=read_config(folder, dict)["d_model"])
    unet2d = autoencoder = clip = None

cascade = open_indexes([read_index(Path(sys.argv[1], name)) for name in sys.argv[2:]], Hollow(), "hollow")
stages = cascade.stages
print(cascade.sizes, cascade.default_size, [stage.kind for stage in stages], stages[0].text.width)
"""


def hollow(*folders: str) -> subprocess.CompletedProcess[str]:
    command, root = [sys.executable, "-c", CODE, WEIGHTS, *folders], Path(__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)


def test_without_torch(pipe: pydiff.Pipeline) -> None:
    done, cascade = hollow("base", "super_256", "super_1024"), pipe.cascade
    assert done.stderr == ""
    kinds, text = [stage.kind for stage in cascade.stages], cascade.stages[0].text
    assert text is not None
    assert done.stdout.strip() == f"{cascade.sizes} {cascade.default_size} {kinds} {text.width}"


def test_stages_that_do_not_fit_are_refused_alike() -> None:
    assert "give small stages first" in hollow("base", "super_1024", "super_256").stderr
    assert "only the first of a cascade's folders can be one" in hollow("super_256", "base").stderr


def test_what_an_engine_does_not_run_is_refused_by_name(tmp_path: Path) -> None:
    class Bare(Networks):
        unet = unet2d = autoencoder = t5 = clip = None  # type: ignore[assignment]

    for name in ("prior", "text_projection"):
        with pytest.raises(ValueError, match=f"{name} is a network that only torch runs"):
            getattr(Bare(), name)(tmp_path / name)
    for name in ("vision", "example"):
        with pytest.raises(ValueError, match=f"{name} is a network that only torch runs"):
            getattr(Bare(), name)(tmp_path / name, tmp_path)
