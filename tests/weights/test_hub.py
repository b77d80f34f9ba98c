"""Repositories of the hub, from a cache that the test makes: nothing here uses the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

import pydiff
from pydiff.weights.files import inside
from pydiff.weights.hub import hub_folder, is_hub_id
from tests.checkpoints import makers

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def put(cache: Path, name: str, files: Path) -> Path:
    """A repository as huggingface_hub keeps it: links in a snapshot that lead to blobs."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    (home / "blobs").mkdir()
    for number, file in enumerate(sorted(path for path in files.rglob("*") if path.is_file())):
        blob = home / "blobs" / str(number)
        blob.write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(files)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot


def test_a_cached_repository_opens(cache: Path, tmp_path: Path) -> None:
    theirs = makers.stable_diffusion(tmp_path / "made")
    snapshot = put(cache, "somebody/tiny", tmp_path / "made")
    assert hub_folder("somebody/tiny") == snapshot
    call: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np"}
    made = pydiff.load("somebody/tiny").generate("a cat", seed=1, **call)
    expected = theirs("a cat", generator=makers.generators([1]), **call).images
    assert abs(made.images - expected).max() < 5e-4
    assert made.settings[0]["model"] == "somebody/tiny"


def test_links_of_another_repository_are_not_followed(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model_index.json").write_text("{}")
    mine, other = (put(cache, name, tmp_path / "made") for name in ("a/mine", "a/other"))
    (mine / "stolen.json").symlink_to(other / "model_index.json")
    with pytest.raises(ValueError, match=r"stolen.json leads to .*, outside"):
        inside(mine, "stolen.json")


def test_offline_it_says_what_is_missing_and_where_it_looked(cache: Path) -> None:
    with pytest.raises(ValueError, match="somebody/else is neither a folder here nor whole in the cache") as raised:
        pydiff.load("somebody/else")
    assert str(cache) in str(raised.value)


def test_only_what_a_pipeline_runs_is_asked_for(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makers.stable_diffusion(tmp_path / "made")
    snapshot = put(cache, "somebody/tiny", tmp_path / "made")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **said: asked.update(said) or str(snapshot))
    hub_folder("somebody/tiny", "fp16")
    assert "unet/*.fp16.safetensors" in asked["allow_patterns"]
    assert not [pattern for pattern in asked["allow_patterns"] if "safety_checker" in pattern or ".bin" in pattern]
    hub_folder("somebody/tiny")
    assert "unet/*.safetensors" in asked["allow_patterns"]
    assert "*.fp16.*" in asked["ignore_patterns"]


@pytest.mark.parametrize("name", ["somebody/tiny", "a.b-c/d_e.f"])
def test_hub_ids(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name", ["tiny", "a/b/c", "./a", "/a/b", "a/..", "../b", "a /b", Path("a/b"), "", "tests/weights"]
)
def test_no_hub_ids(name: Any) -> None:
    assert not is_hub_id(name)
