"""Whoever makes another answer gets no time, and memory decides who is measured together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import networks, peaks, peers
from benchmarks.measure import Figure, Times, write_json
from benchmarks.networks import COLUMNS, Contest
from benchmarks.workloads import IF_TOY, SD15, Workload, flops, unet_workload
from tests.checkpoints import makers


@pytest.fixture(scope="module")
def workload() -> Workload:
    return unet_workload("tiny", makers.unet(), (4, 16, 16), "cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PRODUCTS": ((8, 8, 8),), "CONVOLUTIONS": ((1, 8, 4),), "COPIED": 1 << 10, "ROUNDS": 1}.items():
        monkeypatch.setattr(peaks, name, value)
    monkeypatch.setattr(networks, "LEAST", 0.0)
    monkeypatch.setattr(networks, "PAUSE", 0.0)


def wrong(workload: Workload, home: Path) -> Any:
    return lambda: 1.01 * workload.module(*workload.inputs)


def absent(workload: Workload, home: Path) -> Any:
    raise RuntimeError("no such engine\nand more")


@pytest.mark.usefixtures("small")
@torch.no_grad()
def test_times_of_right_answers_alone(workload: Workload, tmp_path: Path) -> None:
    wanted = {name: peers.PEERS[name] for name in ("eager-bf16-last", "ort")}
    wanted |= {
        "wrong": peers.Peer("wrong", torch.float32, wrong, 1),
        "absent": peers.Peer("absent", torch.float32, absent, 1),
    }
    contest = Contest(workload, wanted, "cpu", tmp_path)
    contest.fight(list(wanted), rounds=2)
    write_json(tmp_path / "made.json", contest.tables())
    made = json.loads((tmp_path / "made.json").read_text())
    rows = {(row["engine"], row["type"]): row for row in made["tiny"]}
    assert set(rows["pydiff", "bfloat16"]) == set(COLUMNS)
    for key in (("pydiff", "float32"), ("pydiff", "bfloat16"), ("ONNX Runtime", "float32")):
        assert len(rows[key]["s"]["seconds"]) == 2
        assert not rows[key]["remark"]
    beside = rows["ONNX Runtime", "float32"]["s"]["median"] / rows["pydiff", "float32"]["s"]["median"]
    assert rows["ONNX Runtime", "float32"]["of pydiff float32"] == pytest.approx(beside)
    assert rows["wrong", "float32"]["s"] == rows["absent", "float32"]["s"] == ""
    assert rows["wrong", "float32"]["remark"] == "refused: no time is taken on a red check"
    assert rows["wrong", "float32"]["largest error"] == pytest.approx(0.01, rel=1e-3)
    assert rows["absent", "float32"]["remark"] == "RuntimeError: no such engine"
    assert {row["type"] for row in made["tiny: the machine meanwhile"]} == {"", "float32", "bfloat16"}


@pytest.mark.usefixtures("small")
@torch.no_grad()
def test_pydiff_is_refused_too(workload: Workload, tmp_path: Path) -> None:
    ours = workload.ours() | {"pydiff, wrong, float32": wrong(workload, tmp_path)}
    contest = Contest(workload._replace(ours=lambda: ours), {}, "cpu", tmp_path)
    assert set(contest.ours) == {"pydiff, float32", "pydiff, bfloat16"}
    assert contest.entries["pydiff, wrong, float32"].remark.startswith("refused")


@pytest.mark.usefixtures("small")
@torch.no_grad()
def test_bouts_fit_into_memory(workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {
        name: peers.Peer(name, torch.float32, wrong, weights) for name, weights in zip("abc", (1, 2, 2), strict=True)
    }
    contest = Contest(workload, wanted, "cpu", tmp_path)
    monkeypatch.setattr(networks, "free_memory", lambda: 3 * 4 * workload.parameters / networks.ROOM)
    assert list(contest.bouts()) == [["a", "b"], ["c"]]
    monkeypatch.setattr(networks, "free_memory", lambda: 0)
    assert list(contest.bouts()) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("config", "shape", "gflop", "text"), [(SD15, (4, 64, 64), 803 * 2, 11.8), (IF_TOY, (3, 64, 64), 160, 2.2)]
)
def test_flops_of_published_sizes(config: dict[str, Any], shape: tuple[int, ...], gflop: float, text: float) -> None:
    """Stable Diffusion 1.5 at 512x512: 401.6 G multiplications a picture, those of attention included."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        theirs = UNet2DConditionModel(**config)
    counted = flops(unet_workload("counted", theirs, shape, "meta"))
    assert counted.whole == pytest.approx(1e9 * gflop, rel=5e-3)
    assert counted.text == pytest.approx(1e9 * text, rel=0.5)


def test_figures_are_numbers_in_results() -> None:
    assert str(Figure(1.2345, ".2f")) == "1.23"
    assert str(Times((1.0, 3.0, 2.0))) == "2 (1 to 3)"
