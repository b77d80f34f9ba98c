"""PNG files carry their settings, are written whole or not at all, and give back nothing but objects or ValueErrors."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as options
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pydiff import images

# How AUTOMATIC1111's web interface reads the last line of `parameters`.
A1111_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
SETTINGS = {
    "task": "generate",
    "prompt": "a red circle",
    "negative_prompt": "a blue ring",
    "seed": 7,
    "size": 256,
    "height": 256,
    "width": 320,
    "num_inference_steps": [25, 8],
    "guidance_scale": [3.0, 1.0],
    "sampler": ["dpmpp_2m", "dpmpp_2m"],
    "model": "pydiff-embedded",
    "version": "0.1.0",
}


def test_settings_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    images.write_png(
        path, Image.new("RGB", (8, 8), "red"), {**SETTINGS, "prompt": 'a "red" ring,\nläßt 星 \x00 grüßen'}
    )
    assert images.read_settings(path) == {**SETTINGS, "prompt": 'a "red" ring,\nläßt 星 \x00 grüßen'}
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    images.write_png(path, Image.new("RGB", (8, 8), "red"), None)
    assert not Image.open(path).info
    with pytest.raises(ValueError, match="carries no pydiff settings"):
        images.read_settings(path)


@given(st.text(max_size=60), st.text(max_size=60))
@options(max_examples=60, deadline=None)
def test_any_prompt_survives_a_file(tmp_path_factory: pytest.TempPathFactory, prompt: str, negative: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    images.write_png(path, Image.new("RGB", (1, 1)), {**SETTINGS, "prompt": prompt, "negative_prompt": negative})
    assert images.read_settings(path) == {**SETTINGS, "prompt": prompt, "negative_prompt": negative}


def test_parameters_read_as_automatic1111_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    settings = {**SETTINGS, "model": "a/b, c: d", "guidance_scale": [[3.0, 2.0], 1.0]}
    images.write_png(path, Image.new("RGB", (8, 8)), settings)
    with Image.open(path) as picture:
        *words, last = picture.info["parameters"].split("\n")
    assert words == ["a red circle", "Negative prompt: a blue ring"]
    pairs = A1111_PAIR.findall(last)
    assert len(pairs) >= 3
    read = {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}
    assert read == {
        "Steps": "25",
        "Sampler": "dpmpp_2m",
        "CFG scale": "3.0",
        "Seed": "7",
        "Size": "320x256",
        "Model": "a/b, c: d",
        "Version": "pydiff 0.1.0",
    }


def test_parameters_of_a_run_without_words_or_a_number_of_steps() -> None:
    settings = {**SETTINGS, "prompt": None, "negative_prompt": None, "num_inference_steps": [None], "seed": None}
    first, last = images.parameters_line(settings).split("\n")
    assert first == ""
    assert [key for key, _ in A1111_PAIR.findall(last)] == ["Sampler", "CFG scale", "Size", "Model", "Version"]


def test_ascii_settings_are_plain_text_chunks(tmp_path: Path) -> None:
    images.write_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), SETTINGS)
    data = (tmp_path / "a.png").read_bytes()
    assert data.count(b"tEXt") == 2
    assert b"tEXtparameters\0a red circle" in data


def _with_chunk(path: Path, text: str, compressed: bool = False) -> Path:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(images.CHUNK, text, zip=compressed)
    Image.new("RGB", (1, 1)).save(path, pnginfo=chunks)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as JSON"),
        ("{", "not readable as JSON"),
        ("[1]", "holds a JSON list; expected an object"),
        ("null", "holds a JSON NoneType"),
        ('{"seed": NaN}', "NaN is not a number of JSON"),
        ('{"seed": [1, NaN]}', "NaN is not a number of JSON"),
        ('{"seed": 1, "seed": 2}', "'seed' is there twice"),
        ("[" * 100_000, "not readable as JSON"),
        ('{"a": "' + "x" * images.MAX_CHUNK + '"}', "characters long; expected at most"),
        ('{"seed": ' + "9" * 5000 + "}", "not readable as JSON"),
    ],
    ids=range(10),
)
def test_settings_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images.read_settings(_with_chunk(tmp_path / "a.png", text))


def test_an_infinity_is_a_number(tmp_path: Path) -> None:
    read = images.read_settings(_with_chunk(tmp_path / "a.png", '{"a": [Infinity, -Infinity]}'))
    assert read == {"a": [math.inf, -math.inf]}
    with pytest.raises(ValueError, match="not JSON compliant"):  # but none is ever written
        images.write_png(tmp_path / "b.png", Image.new("RGB", (1, 1)), read)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_compressed_chunk_that_explodes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png"):
        images.read_settings(_with_chunk(tmp_path / "a.png", "x" * (1 << 24), compressed=True))


@given(st.text(max_size=200))
@example("{" * 50_000)
@options(max_examples=100, deadline=None)
def test_any_chunk_raises_nothing_but_value_errors(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = _with_chunk(tmp_path_factory.getbasetemp() / "chunk.png", text)
    try:
        assert isinstance(images.read_settings(path), dict)
    except ValueError as error:
        assert "chunk.png" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.jpg", "is no .png"), ("a", "is no .png"), ("none/a.png", "does not exist"), ("folder.png", "is a folder")],
)
def test_places_where_no_png_goes(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=message):
        images.write_png(tmp_path / name, Image.new("RGB", (8, 8)), SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["folder.png"]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may write everywhere
    with pytest.raises(ValueError, match="cannot be written to"):
        images.write_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), SETTINGS)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError, MemoryError])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException]
) -> None:
    path = tmp_path / "a.png"
    images.write_png(path, Image.new("RGB", (8, 8), "red"), SETTINGS)
    before = path.read_bytes()

    def save(self: Image.Image, file: Path, *rest: Any, **more: Any) -> None:
        file.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(failure):
        images.write_png(path, Image.new("RGB", (8, 8), "blue"), SETTINGS)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
