"""Finding, reading and writing files of a checkpoint."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

MOST_JSON = 16 << 20  # bytes
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
Made = TypeVar("Made")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file of at most 16 MiB. Raises ValueError, naming the file, for anything else."""
    path = Path(path)
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file; expected a JSON file there")
    size = path.stat().st_size
    if size > MOST_JSON:
        raise ValueError(f"{path} has {size} bytes; expected a JSON file of at most {MOST_JSON}")
    return parse_json(path.read_bytes(), str(path))


def read_config(folder: Path, make: Callable[[dict[str, Any]], Made]) -> Made:
    """What `make` makes of the config.json in a component's folder. Its ValueErrors are raised with the file's name."""
    path = inside(folder, "config.json")
    values = read_json(path)
    try:
        return make(values)
    except ValueError as error:
        raise ValueError(f"{path} is of no network that pydiff runs: {error}") from error


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in data: UTF-8, no key twice, no NaN. Raises ValueError, naming it, for others."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not readable as JSON: {str(error) or 'nested too deeply'}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} holds a JSON {type(value).__name__}; expected an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return made


def _constant(name: str) -> float:
    """An infinity, which diffusers writes into scheduler_config.json; nothing that is no number."""
    if name == "NaN":
        raise ValueError("NaN is not a number of JSON")
    return float(name.replace("Infinity", "inf"))


def refuse_pickle(path: Path) -> None:
    """Raise ValueError when the name of path is that of a pickle, whose loading could run code."""
    if path.suffix.lower() in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which could run code when opened; save it as safetensors with the library that wrote "
            "it (diffusers: save_pretrained(folder, safe_serialization=True)) and open that"
        )


def is_single_file(path: str | os.PathLike[str]) -> bool:
    """Whether path names a file of weights, which `inspect_single_file` opens or refuses, and not a folder."""
    path = Path(path)
    return not path.is_dir() and (path.is_file() or path.suffix.lower() in (".safetensors", *PICKLES))


def inside(folder: Path, name: str) -> Path:
    """The path of a file by its name in folder, links followed. Raises ValueError when it lies outside.

    A link into the blobs of the Hugging Face cache is followed when the folder is a snapshot of the same repository.
    """
    path = folder / name
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    roots = [root]
    for parent in root.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            roots.append(parent.parent / "blobs")
    if Path(name).is_absolute() or not any(target.is_relative_to(allowed) for allowed in roots):
        raise ValueError(f"{path} leads to {target}, outside {root}; put the file itself into the folder")
    return path


def check_png_path(path: Path) -> None:
    """Raise ValueError where no PNG can be written."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"the output {path} is no .png; pydiff writes PNG files")
    check_folder(path)


def check_folder(path: Path) -> None:
    """Raise ValueError where no file can be written."""
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"the folder {path.parent} cannot be written to; choose another")
    if path.is_dir():
        raise ValueError(f"the output {path} is a folder; give a file name")


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write value as indented JSON; the file appears whole or not at all."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_whole(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside path, then move it there; on failure nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())  # some writers make their files private
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
