"""Reading and writing safetensors: the header is checked before anything else touches the file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from pydiff.weights.files import inside, parse_json, read_json, refuse_pickle, write_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MOST_HEADER = 16 << 20  # bytes
MOST_DIMS = 16
STEMS = ("diffusion_pytorch_model", "model")
_BY_BYTES = {1: "BOOL U8 I8 F8_E5M2 F8_E4M3", 2: "I16 U16 F16 BF16", 4: "I32 U32 F32", 8: "I64 U64 F64"}
_VARIANT = re.compile(r"[\w-]+")
ITEM_BYTES = {name: count for count, names in _BY_BYTES.items() for name in names.split()}


class TensorInfo(NamedTuple):
    """What a header says of one tensor."""

    dtype: str  # safetensors' name: F32, F16, BF16, ...
    shape: tuple[int, ...]
    file: Path


def read_header(path: str | os.PathLike[str], variant: str | None = None) -> dict[str, TensorInfo]:
    """Names, types and shapes of the tensors in a safetensors file, or in a folder that holds one or its shards.

    variant: "fp16" and the like, the part of the name before ".safetensors". Raises ValueError for a missing file, a
    pickle, a truncated or corrupt header (longer than 16 MiB, not JSON, offsets that do not fit the file), an index
    that does not agree with its shards, and files outside the folder.
    """
    path = Path(path)
    if not path.is_dir():
        refuse_pickle(path)
        return _file_header(path)
    found = _find(path, variant)
    if found.name.endswith(".json"):
        return _sharded_header(path, found)
    return _file_header(found)


def read_safetensors(
    path: str | os.PathLike[str], variant: str | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """All tensors of a safetensors file or folder (see `read_header`), on the CPU, floats cast to dtype when given.

    Raises ValueError also for a tensor that holds NaN or infinities, by name.
    """
    tensors: dict[str, Tensor] = {}
    header = read_header(path, variant)
    for file in dict.fromkeys(info.file for info in header.values()):
        names = [name for name, info in header.items() if info.file == file]
        try:
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: finite(file, name, opened.get_tensor(name), dtype) for name in names}
        except SafetensorError as error:
            raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    return tensors


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file; it appears whole or not at all."""
    from safetensors.torch import save_file

    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(Path(path), lambda temporary: save_file(held, temporary, metadata={"format": "pt"}))


def finite(file: Path, name: str, stored: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy of a file's tensor in memory of its own, cast to dtype when given; refused when it is not finite."""
    import torch

    cast = dtype if dtype is not None and stored.is_floating_point() else stored.dtype
    tensor = stored.to(cast, copy=True)
    if tensor.is_floating_point() and tensor.numel() > 0:
        wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # 8-bit floats have no minimum operator
        if not all(map(math.isfinite, (bound.item() for bound in torch.aminmax(wide)))):
            raise ValueError(
                f"tensor {name!r} holds NaN or infinity (stored as {stored.dtype}, read as {cast}) in {file}; "
                "download it again, or read it in a wider dtype"
            )
    return tensor


def _names(variant: str | None) -> list[str]:
    part = "" if variant is None else f".{variant}"
    return [name for s in STEMS for name in (f"{s}.safetensors.index{part}.json", f"{s}{part}.safetensors")]


def _find(folder: Path, variant: str | None) -> Path:
    """The weights of a folder, or the index of its shards."""
    if variant is not None and not (isinstance(variant, str) and _VARIANT.fullmatch(variant)):
        raise ValueError(f"variant is {variant!r}; expected a word such as 'fp16'")
    names = _names(variant)
    for name in names:
        if os.path.lexists(folder / name):
            return inside(folder, name)
    there = sorted(file.name for file in folder.iterdir())
    others = [name for name in there if name.endswith(".safetensors")]
    for name in () if others else there:
        refuse_pickle(folder / name)
    hint = f"; it holds {', '.join(others[:8])}: give the variant or the file" if others else ""
    raise ValueError(f"{folder} holds no weights; looked for {', '.join(names)}{hint}")


def _sharded_header(folder: Path, index: Path) -> dict[str, TensorInfo]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise ValueError(f"{index} has no weight_map from tensor names to file names")
    header: dict[str, TensorInfo] = {}
    for name in sorted(set(places.values())):
        refuse_pickle(Path(name))
        file = inside(folder, name)
        shard = _file_header(file)
        expected = {tensor for tensor, place in places.items() if place == name}
        if shard.keys() != expected:
            differ = ", ".join(sorted(shard.keys() ^ expected)[:8])
            raise ValueError(f"{file} and {index.name} do not agree about {differ}; download both again")
        header |= shard
    return header


def _file_header(path: Path) -> dict[str, TensorInfo]:
    if not os.path.isfile(path):
        raise ValueError(f"{path} is missing or not a file; expected safetensors there")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little") if size >= 8 else 0
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            raise ValueError(
                f"{path} is not a whole safetensors file: {size} bytes, a header said to be {length} long "
                f"(at most {MOST_HEADER}); download it again"
            )
        entries = parse_json(file.read(length), f"the header of {path}")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"the header of {path} has a __metadata__ that does not map words to words")
    spans = [_span(path, name, entry) for name, entry in entries.items()]
    end = 0
    for begin, after, name in sorted(spans):
        if begin != end:
            raise ValueError(f"tensor {name!r} in {path} begins at byte {begin}; expected {end}: the file is corrupt")
        end = after
    if end != size - 8 - length:
        raise ValueError(f"{path} holds {size - 8 - length} bytes of tensors, its header says {end}; download it again")
    return {name: TensorInfo(entry["dtype"], tuple(entry["shape"]), path) for name, entry in entries.items()}


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """Where a tensor lies, once its entry is known to be sound."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} in {path} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"tensor {name!r} in {path} has dtype {dtype!r}; expected one of {', '.join(ITEM_BYTES)}")
    if not _naturals(shape) or len(shape) > MOST_DIMS or not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} in {path} has shape {shape!r} and data_offsets {offsets!r}")
    begin, after = offsets
    if after - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"tensor {name!r} in {path} has {after - begin} bytes; expected {dtype} of shape {shape}")
    return begin, after, name


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)
