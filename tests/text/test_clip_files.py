"""Folders of CLIP encoders that are damaged, unsafe or do not fit are refused by name; nothing is fetched or run."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pydiff import _optional
from pydiff.text.torch_networks import load_text_encoder
from tests.text import clip_folders as clip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    clip.make_folder(tmp_path / "pipeline", "sd")

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path / "pipeline"


def rewrite(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def restore(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})


def leads_out(path: Path) -> None:
    outside = path.parent.parent.parent / path.name
    path.rename(outside)
    path.symlink_to(outside)


def test_whole_folders_open_without_the_network(folder: Path) -> None:
    assert load_text_encoder(folder).encode(["a"]).states.isfinite().all()


def test_pickles(folder: Path) -> None:
    weights = folder / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle"):
        load_text_encoder(folder)


@pytest.mark.parametrize("kept", [0, 5, 100, 4000])
def test_truncated_weights(folder: Path, kept: int) -> None:
    weights = folder / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"text_encoder/model\.safetensors"):
        load_text_encoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["final_layer_norm.weight"].fill_(torch.nan), "'final_layer_norm.weight' holds NaN"),
        (lambda state: state.pop("final_layer_norm.bias"), "lack 1 tensors: final_layer_norm.bias"),
        (lambda state: state.update(more=torch.zeros(1)), "also hold 1 tensors: more"),
        (lambda state: state.update({"final_layer_norm.bias": torch.zeros(3)}), r"F32 \(3,\); expected floats \(32,\)"),
    ],
    ids=["nan", "lacking", "more", "shape"],
)
def test_tensors_that_do_not_fit(folder: Path, change: Callable[[Any], object], message: str) -> None:
    restore(folder / "text_encoder" / "model.safetensors", change)
    with pytest.raises(ValueError, match=message):
        load_text_encoder(folder)


@pytest.mark.parametrize(
    "name",
    ["text_encoder/model.safetensors", "text_encoder/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"],
)
def test_links_that_leave_the_folder(folder: Path, name: str) -> None:
    leads_out(folder / name)
    with pytest.raises(ValueError, match=f"{name} leads to .*, outside .*; put the file itself into the folder"):
        load_text_encoder(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tokenizer/vocab.json",
            r"tokenizer holds no tokenizer; expected tokenizer\.json, or vocab\.json and merges\.txt",
        ),
        ("tokenizer/merges.txt", "holds no tokenizer"),
        ("tokenizer", "tokenizer is not a folder"),
        ("text_encoder/config.json", r"text_encoder/config\.json is not a file"),
        ("text_encoder/model.safetensors", "text_encoder holds no weights"),
    ],
)
def test_missing_files(folder: Path, name: str, message: str) -> None:
    (folder / name).rename(folder / "away")
    with pytest.raises(ValueError, match=message):
        load_text_encoder(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vocab.json", "{", r"vocab\.json is not readable as JSON"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json holds a JSON list"),
        ("tokenizer_config.json", '{"model_max_length": "77"}', "model_max_length '77'; expected an int"),
        ("tokenizer_config.json", '{"model_max_length": 2}', "makes no token of 'a' that fits into 2"),
        ("special_tokens_map.json", '{"pad_token": "<nothing>"}', "has 522 tokens; its text encoder knows 521"),
        ("vocab.json", '{"a": "b"}', "no CLIPTokenizer that transformers reads"),
        ("merges.txt", "#version: 0.2\nzz qq\n", "no CLIPTokenizer that transformers reads"),
        ("tokenizer.json", '{"version": "1.0"}', "no CLIPTokenizer that transformers reads"),
    ],
)
def test_tokenizers_that_cannot_be_read(folder: Path, name: str, text: str, message: str) -> None:
    rewrite(folder / "text_encoder" / "config.json", vocab_size=521)
    (folder / "tokenizer" / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_text_encoder(folder)


def test_too_large_a_file(folder: Path) -> None:
    with (folder / "tokenizer" / "merges.txt").open("ab") as file:
        file.truncate(17 << 20)
    with pytest.raises(ValueError, match=r"merges\.txt has 17825792 bytes; expected at most 16777216"):
        load_text_encoder(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "bert"}, "model_type 'bert'; expected 'clip_text_model'"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000; expected an int from 1 to 128"),
        ({"num_attention_heads": 5}, "num_attention_heads is 5, which does not divide 32"),
        ({"hidden_act": "torch.load"}, "hidden_act = 'torch.load'; expected one of quick_gelu, gelu"),
        ({"hidden_size": "32"}, "hidden_size = '32'"),
        ({"vocab_size": 100}, "tokenizer has 521 tokens; its text encoder knows 100"),
        ({"num_hidden_layers": 3}, "also hold 16 tensors"),
        ({"intermediate_size": 44}, r"expected floats \(44"),
    ],
)
def test_configs_that_do_not_fit(folder: Path, fields: dict[str, Any], message: str) -> None:
    rewrite(folder / "text_encoder" / "config.json", **fields)
    with pytest.raises(ValueError, match=message):
        load_text_encoder(folder)


def test_a_config_can_choose_no_code(folder: Path) -> None:
    code = {
        "auto_map": {"AutoModel": "evil.Model"},
        "_attn_implementation": "someone/kernel",
        "trust_remote_code": True,
    }
    (folder / "text_encoder" / "evil.py").write_text("raise SystemExit")
    expected = load_text_encoder(folder).encode(["a cat"]).states
    rewrite(folder / "text_encoder" / "config.json", **code, attn_implementation="someone/kernel")
    rewrite(folder / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Words", None]})
    assert torch.equal(load_text_encoder(folder).encode(["a cat"]).states, expected)


def test_packages_that_are_not_there_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_optional.importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"needs the package transformers>=.*: pip install 'transformers>="):
        load_text_encoder(folder)


def test_importing_the_encoders_imports_no_transformers() -> None:
    code = "import sys, pydiff.text.loading, pydiff.vision; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
