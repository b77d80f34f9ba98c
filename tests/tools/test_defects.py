"""Pictures with defects: what is written, that it can be repeated and gone on with, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pydiff
from pydiff.embedded.world import draw, place_things, sample_scene
from pydiff.images import from_user, read_settings, to_pil
from pydiff.tools import defects
from tests.tools.test_coco import decoded

QUICK = ("--steps", "20")


@pytest.fixture(autouse=True)
def opened_once(pipe: pydiff.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defects, "open_model", lambda given: pipe)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Three pictures of the embedded world at 64x64."""
    folder = tmp_path / "clean"
    folder.mkdir()
    for index in range(3):
        scene(index).save(folder / f"scene-{index}.png")
    return folder


def scene(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    said = sample_scene(rng)
    return Image.fromarray(draw(said, place_things(said, rng), 64))


def run(clean: Path, output: Path, *more: str) -> int:
    return defects.main([str(clean), "-o", str(output), *QUICK, *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def annotations(folder: Path) -> Any:
    return json.loads((folder / "annotations.json").read_text())


def bits(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("1"))


def test_pictures_masks_and_boxes_agree(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clean, tmp_path / "out", "--per-picture", "3") == 0
    said = annotations(tmp_path / "out")
    summary = json.loads(capsys.readouterr().out)
    assert summary["pictures"] == len(said["images"]) == len(said["annotations"]) >= 7
    assert summary["pictures"] + summary["left_out"] == 9
    assert {one["category_id"] for one in said["annotations"]} == {1, 2, 3}
    for image, annotation in zip(said["images"], said["annotations"], strict=True):
        file, (x, y, width, height) = image["file_name"], annotation["bbox"]
        made = np.asarray(Image.open(tmp_path / "out/images" / file))
        whole = np.asarray(Image.open(clean / f"{file[:7]}.png"))
        hole, seen = (bits(tmp_path / "out" / folder / file) for folder in ("holes", "masks"))
        assert (made[~hole] == whole[~hole]).all()
        assert (np.abs(made[seen].astype(int) - whole[seen]).max(axis=1) > 24).all()
        assert not seen[~hole].any()
        assert (decoded(annotation["segmentation"]) == seen).all()
        assert seen.sum() == annotation["area"] == seen[y : y + height, x : x + width].sum()
        assert annotation["image_id"] == image["id"]
        assert read_settings(tmp_path / "out/images" / file)["category"] in ("scratch", "dent", "missing")


def test_the_same_command_makes_the_same_bytes(clean: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run(clean, tmp_path / name, "--seed", "5") == 0
    assert run(clean, tmp_path / "c", "--seed", "6") == 0
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[name] != c[name] for name in a)


def test_shards_make_the_same_as_one_run(clean: Path, tmp_path: Path) -> None:
    assert run(clean, tmp_path / "one") == 0
    for shard in ("1/2", "0/2"):
        assert run(clean, tmp_path / "two", "--shard", shard) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_interrupted_run_goes_on(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--per-picture", "2")
    assert run(clean, tmp_path / "whole", *more) == 0
    write, count = defects.write_png, 0

    def interrupted(*given: Any) -> None:
        nonlocal count
        count += 1
        if count == 8:  # the mask of the third picture
            raise KeyboardInterrupt
        write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(defects, "write_png", interrupted)
        assert run(clean, tmp_path / "out", *more) == 130
    assert "interrupted" in capsys.readouterr().err
    left = contents(tmp_path / "out")
    assert not any("annotations" in name or name.endswith(".tmp") for name in left)
    assert 0 < sum(name.startswith("records") for name in left) < 6
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/records").iterdir()}
    assert run(clean, tmp_path / "out", *more) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_nothing_is_made_twice(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(clean, tmp_path / "out") == 0
    before = contents(tmp_path / "out")
    monkeypatch.setattr(defects, "finish", None)
    (tmp_path / "out/annotations.json").unlink()
    assert run(clean, tmp_path / "out") == 0
    assert contents(tmp_path / "out") == before


def test_what_cannot_be_seen_is_left_out(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, seeds = defects.finish, []
    monkeypatch.setattr(defects, "finish", lambda wanted: seeds.append(wanted.seeds[0]) or finish(wanted))
    assert run(clean, tmp_path / "out", "--threshold", "255", "--tries", "2") == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"pictures": 0, "left_out": 3, "failed": 0}
    assert "scene-1.png: no " in said.err
    assert len(set(seeds)) == 6
    assert annotations(tmp_path / "out")["images"] == []
    assert not any((tmp_path / "out/images").iterdir())


def save_forms(folder: Path) -> dict[str, bool]:
    """Pictures of many forms by name, and whether they can be read."""
    whole = scene(1)
    whole.save(folder / "plain.png")
    (folder / "truncated.png").write_bytes((folder / "plain.png").read_bytes()[:150])
    (folder / "folder.png").mkdir()
    (folder / "empty.jpg").touch()
    alpha = whole.convert("RGBA")
    alpha.putalpha(Image.new("L", alpha.size, 200))
    alpha.save(folder / "alpha.png")
    whole.convert("L").save(folder / "grey.png")
    Image.fromarray(np.asarray(whole.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    whole.convert("CMYK").save(folder / "cmyk.JPG", "JPEG")
    whole.crop((0, 0, 63, 50)).save(folder / "odd.webp", lossless=True)
    Image.new("RGB", (64, 64), "navy").save(folder / "bare.png")
    (folder / "notes.txt").touch()
    bad = ("truncated.png", "folder.png", "empty.jpg", "bare.png")
    return {path.name: path.name not in bad for path in folder.iterdir() if path.suffix != ".txt"}


def test_bad_files_are_named_and_the_others_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "clean"
    folder.mkdir()
    forms = save_forms(folder)
    assert run(folder, tmp_path / "out", "--kinds", "missing") == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["failed"] == 4
    for name, good in forms.items():
        assert (f"{folder / name}: " in said.err) != good
        made = tmp_path / "out/images" / f"{Path(name).stem}-1.png"
        assert made.is_file() == good
        if good:
            hole = bits(tmp_path / "out/holes" / made.name)
            whole = np.asarray(to_pil(from_user(folder / name))[0])
            assert (np.asarray(Image.open(made))[~hole] == whole[~hole]).all()
    assert {image["file_name"] for image in annotations(tmp_path / "out")["images"]} == {
        f"{Path(name).stem}-1.png" for name, good in forms.items() if good
    }


@pytest.mark.filterwarnings("ignore:the model never saw")
def test_masks_that_are_given_are_the_holes(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    hole = np.zeros((64, 64), bool)
    hole[20:44, 20:40] = True
    Image.fromarray(hole).save(masks / "scene-0.png")
    Image.fromarray(hole[:60]).save(masks / "scene-1.png")
    Image.new("L", (64, 64)).save(masks / "scene-2.webp", lossless=True)
    Image.fromarray(hole).save(masks / "other.png")
    scene(3).save(clean / "scene-3.png")
    assert run(clean, tmp_path / "out", "--masks", str(masks), "--prompt", "a red {kind}", "--threshold", "0") == 1
    said = capsys.readouterr().err
    assert (bits(tmp_path / "out/holes/scene-0-1.png") == hole).all()
    for name, problem in (("1.png", "(60, 64)"), ("2.png", "black everywhere"), ("3.png", "it has no mask")):
        assert any(f"scene-{name}: " in line and problem in line for line in said.splitlines())
    settings = read_settings(tmp_path / "out/images/scene-0-1.png")
    assert settings["prompt"] == "a red defect"
    assert annotations(tmp_path / "out")["categories"][0]["name"] == "defect"


def test_defects_are_within_what_is_given(clean: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    where = np.zeros((64, 64), bool)
    where[4:30, 34:60] = True
    for path in clean.iterdir():
        Image.fromarray(where).save(masks / path.name)
    more = ("--within", str(masks), "--kinds", "dent", "scratch", "--feather", "0")
    assert run(clean, tmp_path / "out", *more) == 0
    for path in (tmp_path / "out/masks").iterdir():
        assert not bits(path)[:, :30].any()
        assert not bits(path)[34:].any()


def test_kinds_of_the_user_s_own(clean: Path, tmp_path: Path) -> None:
    kinds = tmp_path / "kinds.json"
    kinds.write_text(json.dumps({"spot": {"place": "ellipse", "start": "tone", "strength": 0.05}}))
    assert run(clean, tmp_path / "out", "--kinds-file", str(kinds), "--kinds", "spot") == 0
    said = annotations(tmp_path / "out")
    assert [one["name"] for one in said["categories"]] == ["spot"]
    assert "--kinds spot" in said["info"]["description"]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (("--kinds", "moon"), "the kind 'moon' is unknown; expected of scratch"),
        (("--method", "moon"), "--method"),
        (("--method", "model"), "knows of no holes"),
        (("--strength", "0"), "--strength is 0.0"),
        (("--strength", "1.5"), "--strength is 1.5"),
        (("--method", "repaint", "--strength", "0.5"), "repaint always begins from noise"),
        (("--keep", "2"), "--keep is 2.0"),
        (("--class-label", "3"), "knows no classes"),
        (("--size", "65"), "size is 65"),
        (("--per-picture", "0"), "--per-picture is 0; expected at least 1"),
        (("--tries", "-1"), "--tries is -1"),
        (("--feather", "-2"), "feather"),
        (("--crop", "-2"), "padding_mask_crop is -2"),
        (("--shard", "2/2"), "shard is '2/2'"),
        (("--place", "moon"), "--place"),
        (("--place", "bite", "--masks", "."), "leave out --place"),
        (("--masks", "nowhere"), "nowhere is no folder"),
        (("--kinds-file", "nowhere"), "nowhere is not a file"),
        (("--moon",), "--moon"),
    ],
)
def test_wrong_options_are_one_line(
    more: tuple[str, ...], problem: str, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], idle: None
) -> None:
    try:
        status = run(clean, tmp_path / "out", *more)
    except SystemExit as exit:
        status = int(exit.code or 0)
    said = capsys.readouterr().err
    assert status == 2
    assert problem in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_wrong_folders(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    assert run(tmp_path / "none", tmp_path / "out") == 2
    assert "holds no pictures" in capsys.readouterr().err
    assert run(clean, clean / "scene-0.png") == 2
    assert "scene-0.png" in capsys.readouterr().err
    scene(1).save(clean / "scene-1.jpg")
    assert run(clean, tmp_path / "out") == 2
    assert "alike but for the ending" in capsys.readouterr().err


def test_a_folder_is_gone_on_with_as_it_was_begun(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(clean, tmp_path / "out") == 0
    assert run(clean, tmp_path / "out", "--seed", "9") == 2
    assert "was begun with seed 0, not 9" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        defects.main(["--help"])
    assert exit.value.code == 0
    assert "--per-picture" in capsys.readouterr().out
