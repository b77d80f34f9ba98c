"""Models that pydiff carries, exported once for all tests here, and what torch makes of every task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pydiff
from pydiff.export import export
from tests.runtime.every_task import made_by

WEIGHTS = Path(pydiff.__file__).parent / "embedded" / "weights"
CASCADE = [WEIGHTS / "base", WEIGHTS / "super_256"]
INSTRUCTED = WEIGHTS / "instruct"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded cascade to 256x256."""
    return export(CASCADE, tmp_path_factory.mktemp("exported") / "shapes")


@pytest.fixture(scope="session")
def instructed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model that follows instructions, to 64x64."""
    return export(INSTRUCTED, tmp_path_factory.mktemp("exported") / "instructed")


@pytest.fixture(scope="session")
def ours() -> pydiff.Pipeline:
    """The same cascade, by torch."""
    return pydiff.load(CASCADE)


@pytest.fixture(scope="session")
def by_torch(ours: pydiff.Pipeline) -> dict[str, np.ndarray]:
    return made_by(ours, pydiff.load(INSTRUCTED))
