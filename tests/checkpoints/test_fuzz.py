"""Whatever stands in a folder's JSON files or in the headers of its weights, it opens or a ValueError is raised, and
nothing else; no code is imported, nothing is written."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import pydiff
from pydiff.diffusion.config import sampler_from_scheduler_config
from pydiff.diffusion.levels import NoiseSchedule
from pydiff.models.autoencoder_config import AutoencoderConfig
from pydiff.models.clip_config import text_fields, vision_fields
from pydiff.models.prior import PriorConfig
from pydiff.models.t5_config import T5Config
from pydiff.models.unclip import TextProjectionConfig
from pydiff.models.unet2d_config import UNet2DConfig
from pydiff.models.unet_config import UNetConfig
from pydiff.text import clip, prompts
from pydiff.weights import load_network, network, read_json
from tests.checkpoints import broken

PLANTED = "planted_module"
TOKENIZERS: dict[str, Callable[..., Any]] = {}
FILES = {  # what is read, and what reads it alone
    ("sd", "model_index.json"): None,
    ("xl", "model_index.json"): None,
    ("unclip", "model_index.json"): None,
    ("sd", "unet/config.json"): UNetConfig.from_dict,
    ("if", "unet/config.json"): UNetConfig.from_dict,
    ("ddpm", "unet/config.json"): UNet2DConfig.from_dict,
    ("sd", "vae/config.json"): AutoencoderConfig.from_dict,
    ("sd", "text_encoder/config.json"): text_fields,
    ("if", "text_encoder/config.json"): T5Config.from_dict,
    ("unclip", "prior/config.json"): PriorConfig.from_dict,
    ("unclip", "text_proj/config.json"): TextProjectionConfig.from_dict,
    ("sd", "scheduler/scheduler_config.json"): sampler_from_scheduler_config,
    ("ddpm", "scheduler/scheduler_config.json"): sampler_from_scheduler_config,
    ("example", "image_encoder/config.json"): vision_fields,
    ("x4", "low_res_scheduler/scheduler_config.json"): NoiseSchedule.from_config,
    ("unclip", "decoder_scheduler/scheduler_config.json"): sampler_from_scheduler_config,
    ("ddpm", "pydiff.json"): None,
}
READERS = [(*file, reader) for file, reader in FILES.items() if reader is not None]
JUNK: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 1 << 20, 1 << 31, 1 << 63, 10**30, 10**400, -0.5, 0.5, 1.0, 1e300, math.inf),
    *(-math.inf, math.nan, "", "odd", "\ud800", [], [1], [10**400], ["a"], [None], [[1]], [0.5, 0.2], [1, 2], [1] * 40),
    *({}, {"a": 1}),
]
SETTINGS = {"num_inference_steps": 3, "guidance_scale": 1.5, "size": 64, "words": ["red"], "variance_type": "learned"}
LIMITS = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

words = st.sampled_from(["", PLANTED, "diffusers", "../unet", "fp16", "learned_range", "\ud800", "a\0b"]) | st.text(
    "az.", max_size=3
)
junk = st.recursive(
    st.sampled_from(JUNK) | st.integers(1, 20) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=2),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, valid: dict[str, Any]) -> Any:
    """Any JSON, or a valid object with fields dropped, replaced and added."""
    if draw(st.integers(0, 9)) == 0:
        return draw(junk)
    names = st.sampled_from(sorted(valid))
    dropped = draw(st.sets(names, max_size=1))
    added = draw(st.dictionaries(names, junk, max_size=2) | st.dictionaries(names | words, junk, max_size=2))
    return {name: value for name, value in {**valid, **added}.items() if name not in dropped}


@pytest.fixture(scope="module")
def prey(whole: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders to be changed, in which modules lie that a config may name."""
    root = tmp_path_factory.mktemp("prey")

    @cache
    def folder(family: str) -> Path:
        made = Path(shutil.copytree(whole(family), root / family))
        for place in (made, made / "unet"):
            place.mkdir(exist_ok=True)
            (place / f"{PLANTED}.py").write_text("raise SystemExit('code was run')\n")
        return made

    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizers are read once, weights never."""

    def refuse(*_: Any) -> None:
        raise ValueError("all but the weights was read")

    monkeypatch.setattr(network, "read_safetensors", refuse)
    for module, name in ((clip, "read_with_transformers"), (prompts, "read_whole")):
        monkeypatch.setattr(module, name, TOKENIZERS.setdefault(name, cache(getattr(module, name))))


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize(("family", "name", "reader"), READERS)
def test_checkpoints_of_any_value_in_any_field(
    whole: Callable[[str], Path], family: str, name: str, reader: Callable[[dict[str, Any]], object]
) -> None:
    valid = read_json(whole(family) / name)
    assert reader(valid)
    for field in [*valid, "odd"]:
        for value in JUNK:
            with contextlib.suppress(ValueError):
                reader({**valid, field: value})


@pytest.mark.usefixtures("quick")
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("family", "name"), [*FILES])
@LIMITS
@given(data=st.data())
def test_checkpoints_of_any_json(
    prey: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, family: str, name: str, data: st.DataObject
) -> None:
    folder = prey(family)
    monkeypatch.syspath_prepend(folder)
    path = folder / name
    kept = path.read_bytes() if path.exists() else None
    valid = SETTINGS if kept is None else json.loads(kept)
    path.write_text(json.dumps(data.draw(changed(valid))))
    before = seen(folder)
    with contextlib.suppress(ValueError):
        pydiff.load(folder)
    assert seen(folder) == before
    path.unlink() if kept is None else path.write_bytes(kept)
    assert PLANTED not in sys.modules


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder of two layers, and their weights."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    tensors = layers({}).state_dict()
    broken.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder, tensors


def layers(_: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3))


@settings(LIMITS, max_examples=100)
@given(data=st.data())
def test_checkpoints_of_any_header(small: tuple[Path, dict[str, torch.Tensor]], data: st.DataObject) -> None:
    folder, tensors = small
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    places = st.integers(0, end - 1) | st.integers(0, 8)
    bytes_ = st.sampled_from(b'0123456789{}[]",: \\\xff\x00') | st.integers(0, 255)
    changed = bytearray(whole)
    for place, byte in data.draw(st.lists(st.tuples(places, bytes_), min_size=1, max_size=4)):
        changed[place] = byte
    path.write_bytes(bytes(changed) + bytes(data.draw(st.sampled_from([0, 0, 0, 1, 8]))))
    with contextlib.suppress(ValueError):
        opened = load_network(folder, layers).state_dict()
        assert opened.keys() == tensors.keys()
        assert all(torch.equal(opened[name], tensors[name]) for name in tensors)
    path.write_bytes(whole)
