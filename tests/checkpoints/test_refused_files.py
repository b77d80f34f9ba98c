"""Files of a folder that are damaged, unsafe, or not those asked for: refused by name before weights are read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pydiff
from tests.checkpoints import broken
from tests.checkpoints.test_refusals import refused

Fresh = Callable[[str], Path]


def each(options: list[Any]) -> list[tuple[str, str, Any]]:
    """Every component, and all options among them."""
    return [(*part, options[number % len(options)]) for number, part in enumerate(broken.EVERY)]


def smaller(state: dict[str, torch.Tensor]) -> None:
    name = max(state, key=lambda name: state[name].ndim)
    state[name] = state[name][1:].clone()


def whole_numbers(state: dict[str, torch.Tensor]) -> None:
    state[min(state)] = state[min(state)].int()


TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "missing": (lambda state: state.pop(min(state)), "lack 1 tensors: "),
    "extra": (lambda state: state.update(more=torch.zeros(1)), "also hold 1 tensors: .*more"),
    "shape": (smaller, "expected floats"),
    "ints": (whole_numbers, "is I32 .*expected floats"),
}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("family", "component", "damage"),
    [*each([*TENSORS])[3:], *((*part, damage) for part in broken.EVERY[:3] for damage in TENSORS)],
)
def test_checkpoints_with_other_tensors(fresh: Fresh, family: str, component: str, damage: str) -> None:
    folder = fresh(family)
    change, message = TENSORS[damage]
    broken.restore(folder / component, change)
    with pytest.raises(ValueError, match=message) as refusal:
        pydiff.load(folder)
    assert f"/{component}" in str(refusal.value)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("family", "component", "kept"), each([0, 5, 40, -1]))
def test_checkpoints_that_are_cut_off(fresh: Fresh, family: str, component: str, kept: int) -> None:
    folder = fresh(family)
    path = broken.weights_of(folder / component)
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, rf"{component}/{path.name} .*(not a whole safetensors|its header says .*download it again)")


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "dtype": (lambda entry: entry.update(dtype="F31"), "has dtype 'F31'; expected one of"),
    "shape": (lambda entry: entry.update(shape=[1 << 62, 4]), "bytes; expected F32 of shape"),
    "offsets": (lambda entry: entry.update(data_offsets=[1 << 40, (1 << 40) + 4]), "bytes; expected|begins at byte"),
    "fields": (lambda entry: entry.update(code="import os"), "not described by dtype, shape and data_offsets"),
}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("family", "component", "damage"), each([*HEADERS]))
def test_checkpoints_with_a_header_that_lies(fresh: Fresh, family: str, component: str, damage: str) -> None:
    folder = fresh(family)
    path, (change, message) = broken.weights_of(folder / component), HEADERS[damage]
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header[max(header)])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    with pytest.raises(ValueError, match=message) as refusal:
        pydiff.load(folder)
    assert str(path) in str(refusal.value)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("family", "component", "suffix"), each([".bin", ".ckpt", ".pt"]))
def test_checkpoints_of_pickles(fresh: Fresh, family: str, component: str, suffix: str) -> None:
    folder = fresh(family)
    path = broken.weights_of(folder / component)
    path.rename(path.with_suffix(suffix))
    refused(folder, rf"{component}/\w+\{suffix} is a pickle.*save it as safetensors")


@pytest.mark.parametrize(("family", "component", "value"), each([torch.nan, torch.inf]))
def test_checkpoints_that_are_not_finite(fresh: Fresh, family: str, component: str, value: float) -> None:
    folder = fresh(family)
    broken.restore(folder / component, lambda state: state[max(state)].view(-1)[-1:].fill_(value))
    refused(folder, rf"tensor '.*' holds NaN or infinity .* in .*/{component}/")


LINKED = {
    "sd": [
        "model_index.json", "scheduler", "scheduler/scheduler_config.json", "unet/config.json", "unet",
        "unet/diffusion_pytorch_model.safetensors", "vae", "vae/config.json", "text_encoder",
        "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer", "tokenizer/vocab.json",
        "tokenizer/merges.txt", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
    ],
    "if": ["pydiff.json", "tokenizer", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "text_encoder"],
    "x4": ["low_res_scheduler"],
    "sharded": ["unet/*.index.json", "unet/*-00002-*", "text_encoder/*.index.json", "text_encoder/*-00003-*"],
    "unclip": ["prior", "prior/config.json", "decoder_scheduler", "text_proj/diffusion_pytorch_model.safetensors"],
}  # fmt: skip


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in LINKED.items() for name in names])
def test_checkpoints_with_links_that_leave_them(fresh: Fresh, tmp_path: Path, family: str, name: str) -> None:
    folder = fresh(family)
    if name == "pydiff.json":
        (folder / name).write_text("{}")
    path = next(folder.glob(name))
    broken.leads_out(path, tmp_path / "outside")
    refused(folder, rf"{path} leads to .*/outside/.*, outside .*; put the file itself into the folder")


def test_checkpoints_with_links_to_nothing(fresh: Fresh) -> None:
    folder = fresh("sd")
    (folder / "pydiff.json").symlink_to("../nothing.json")
    refused(folder, r"pydiff\.json leads to .*nothing\.json, outside")


def in_cache(folder: Path, root: Path) -> Path:
    """A folder as the Hugging Face cache keeps it: links in a snapshot, files in blobs."""
    blobs, snapshot = root / "models--owner--name" / "blobs", root / "models--owner--name" / "snapshots" / "0f"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    return snapshot


@pytest.mark.parametrize("family", ["sd", "if", "unclip"])
def test_checkpoints_in_the_cache_of_the_hub_open(whole: Fresh, tmp_path: Path, family: str) -> None:
    assert pydiff.load(in_cache(whole(family), tmp_path)).sizes


@pytest.mark.usefixtures("unread")
def test_checkpoints_in_the_cache_do_not_reach_other_repositories(whole: Fresh, tmp_path: Path) -> None:
    snapshot = in_cache(whole("sd"), tmp_path)
    other = tmp_path / "models--else--where" / "blobs"
    broken.leads_out(snapshot / "unet" / "config.json", other.parent)
    refused(snapshot, r"unet/config\.json leads to .*models--")


PLACES: dict[str, tuple[str, str]] = {
    "outside": ("../vae/diffusion_pytorch_model.safetensors", "leads to .*, outside"),
    "absolute": ("/etc/hostname", "outside|is missing"),
    "missing": ("gone.safetensors", r"gone\.safetensors is missing"),
    "pickle": ("pytorch_model.bin", "is a pickle"),
    "nothing": ("", "is missing or not a file"),
}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
@pytest.mark.parametrize("place", PLACES)
def test_checkpoints_with_shards_elsewhere(fresh: Fresh, component: str, place: str) -> None:
    folder = fresh("sharded")
    path = next((folder / component).glob("*.index.json"))
    index = json.loads(path.read_text())
    name, message = PLACES[place]
    index["weight_map"]["more"] = name
    path.write_text(json.dumps(index))
    refused(folder, message)


@pytest.mark.parametrize("shards", [False, True])
def test_checkpoints_of_a_variant(fresh: Fresh, shards: bool) -> None:
    folder = fresh("sd")
    expected = pydiff.load(folder, dtype=torch.float16).cascade.stages[0].unet.state_dict()
    for name in ("unet", "vae", "text_encoder"):
        path = broken.weights_of(folder / name)
        save_file({key: value.half() for key, value in load_file(path).items()}, path, {"format": "pt"})
        if not shards or name == "vae":
            path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    if shards:
        broken.shard(folder, "fp16")
    opened = pydiff.load(folder, variant="fp16", dtype=torch.float16).cascade.stages[0].unet.state_dict()
    assert all(torch.equal(opened[name], tensor) for name, tensor in expected.items())
    for variant in (None, "bf16"):
        refused(folder, r"unet holds no weights; .*; it holds .*fp16.*: give the variant or the file", variant=variant)


CALLS: list[tuple[dict[str, Any], str]] = [
    ({"dtype": torch.int8}, "dtype is torch.int8; expected one of torch.float32"),
    ({"dtype": "float8"}, "dtype is 'float8'; expected one of"),
    ({"device": "nonsense"}, "device is 'nonsense', which does not work here"),
    ({"device": ()}, r"device is \(\), which does not work here"),
    ({"device": "meta"}, "device is 'meta', which holds no weights"),
    ({"variant": "fp16"}, r"unet holds no weights; looked for .*fp16.*; it holds diffusion_pytorch_model\.safetensors"),
    ({"variant": "../fp16"}, r"variant is '\.\./fp16'; expected a word"),
    ({"variant": 16}, "variant is 16; expected a word"),
    ({"tokenizer": "somewhere"}, "tokenizer is for single files"),
]


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("how", "message"), CALLS, ids=str)
def test_checkpoints_opened_in_ways_that_are_none(whole: Fresh, how: dict[str, Any], message: str) -> None:
    refused(whole("sd"), message, **how)


@pytest.mark.usefixtures("unread")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_checkpoints_on_a_device_that_is_not_there(whole: Fresh) -> None:
    refused(whole("sd"), "device is 'cuda', which does not work here: .*CUDA", device="cuda")


@pytest.mark.parametrize("model", ["not a model", "owner/name/more", "https://somewhere/owner/name", "a\0b", ".."])
def test_checkpoints_that_are_neither_folder_nor_id(model: str) -> None:
    refused(model, "is not a folder; expected one in the diffusers layout|has no model_index.json")
