"""Reading JSON, staying inside a folder, and writing whole files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydiff.weights import read_json, write_json
from pydiff.weights.files import MOST_JSON, inside, parse_json, write_whole


def test_json_round_trip(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "config.json", {"b": [1, 2], "a": "é"})
    assert read_json(tmp_path / "new" / "config.json") == {"a": "é", "b": [1, 2]}
    assert os.listdir(tmp_path / "new") == ["config.json"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[1]", "holds a JSON list; expected an object"),
        (b"", "not readable as JSON"),
        (b'{"a": 1', "not readable as JSON"),
        (b'{"a": "\xff"}', "not readable as JSON"),
        (b'{"a": NaN}', "NaN is not a number of JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' is there twice"),
        (b'{"a": ' + b"[" * 100_000, "not readable as JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not readable as JSON"),
    ],
)
def test_json_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as raised:
        read_json(path)
    assert str(path) in str(raised.value)


def test_json_missing_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a file"):
        read_json(tmp_path / "config.json")
    with pytest.raises(ValueError, match="is not a file"):
        read_json(tmp_path)
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(MOST_JSON + 1)
    with pytest.raises(ValueError, match="at most"):
        read_json(tmp_path / "large.json")


@given(st.binary(max_size=64) | st.text(alphabet='{}[]":,0a\\ue1', max_size=24).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = parse_json(data, "data")
    except ValueError:
        return
    assert value == json.loads(data)


def test_inside_follows_links_within_the_folder_only(tmp_path: Path) -> None:
    folder, outside = tmp_path / "model", tmp_path / "secret"
    folder.mkdir()
    outside.write_text("x")
    (folder / "real").write_text("x")
    (folder / "near").symlink_to("real")
    (folder / "far").symlink_to(outside)
    (folder / "loop").symlink_to("loop")
    assert inside(folder, "near").read_text() == "x"
    for name in ("far", "../secret", str(outside), str(folder / "real")):
        with pytest.raises(ValueError, match="put the file itself into the folder"):
            inside(folder, name)
    with pytest.raises(ValueError, match="is not a file"):
        read_json(inside(folder, "loop"))
    (tmp_path / "link").symlink_to(folder)
    assert inside(tmp_path / "link", "real").read_text() == "x"


def test_inside_follows_the_cache_of_the_hub_to_its_own_blobs(tmp_path: Path) -> None:
    for repository in ("models--a--b", "models--c--d"):
        (tmp_path / repository / "blobs").mkdir(parents=True)
        (tmp_path / repository / "blobs" / "0f").write_text(repository)
    folder = tmp_path / "models--a--b" / "snapshots" / "1" / "unet"
    folder.mkdir(parents=True)
    (folder / "own").symlink_to("../../../blobs/0f")
    (folder / "other").symlink_to("../../../../models--c--d/blobs/0f")
    assert inside(folder, "own").read_text() == "models--a--b"
    with pytest.raises(ValueError, match="outside"):
        inside(folder, "other")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
