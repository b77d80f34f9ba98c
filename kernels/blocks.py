"""Block sizes of the kernels: the largest that were compiled without spills."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """What block sizes depend on, for 16-bit values. An entry of a table serves row counts from its own upwards, and
    sizes and columns up to its own."""

    kind: str
    arch: int  # 80, or 90 where a block has 227 KiB of shared memory
    size: int  # of a head
    columns: int = 0  # of the one tile that holds all keys; 0 where keys come in many tiles
    rows: int = 0  # queries that are shared out to programs


class Blocks(NamedTuple):
    """One program's work: a tile of queries against tiles of keys, by `warps` warps, loading `stages` tiles ahead."""

    queries: int
    keys: int  # 0 where one tile holds them all
    warps: int
    stages: int


MANY = 2**14  # queries, enough for tiles of 128 on every processor of a chip

FLASH: dict[Shape, Blocks] = {
    Shape("plain", 90, 64, rows=MANY): Blocks(128, 128, 8, 3),
    Shape("plain", 90, 160, rows=MANY): Blocks(128, 64, 8, 3),
    Shape("plain", 90, 80): Blocks(64, 64, 4, 3),
    Shape("plain", 90, 160): Blocks(64, 64, 4, 2),
    Shape("shared", 90, 80): Blocks(128, 64, 8, 3),
    Shape("edit", 90, 160): Blocks(128, 64, 8, 3),
    Shape("plain", 80, 80): Blocks(128, 64, 8, 3),
    Shape("plain", 80, 160): Blocks(64, 32, 8, 2),
    Shape("shared", 80, 64): Blocks(128, 64, 8, 3),
    Shape("shared", 80, 80): Blocks(128, 32, 8, 3),
    Shape("edit", 80, 64): Blocks(128, 64, 8, 3),
    Shape("edit", 80, 160): Blocks(64, 32, 8, 2),
}

TEXT: dict[Shape, Blocks] = {
    Shape("plain", 90, 160, 128): Blocks(64, 0, 4, 2),
    Shape("edit", 90, 80, 128): Blocks(64, 0, 4, 2),
    Shape("edit", 90, 160, 80): Blocks(64, 0, 4, 2),
    Shape("edit", 90, 160, 128): Blocks(64, 0, 8, 1),
    Shape("joint edit", 90, 80, 80): Blocks(64, 0, 4, 2),
    Shape("edit capture", 90, 160, 80): Blocks(64, 0, 4, 2),
    Shape("edit capture", 90, 160, 128): Blocks(64, 0, 8, 1),
    Shape("plain", 80, 80, 128): Blocks(64, 0, 4, 2),
    Shape("plain", 80, 160, 80): Blocks(32, 0, 8, 1),
    Shape("edit", 80, 40, 80): Blocks(64, 0, 4, 2),
    Shape("edit", 80, 80, 80): Blocks(16, 0, 4, 1),
    Shape("edit", 80, 80, 128): Blocks(64, 0, 8, 1),
    Shape("joint edit", 80, 64, 80): Blocks(64, 0, 8, 1),
    Shape("edit capture", 80, 64, 80): Blocks(64, 0, 4, 2),
    Shape("edit capture", 80, 80, 128): Blocks(64, 0, 8, 1),
    Shape("edit capture", 80, 160, 80): Blocks(32, 0, 4, 2),
    Shape("joint edit", 90, 160, 128): Blocks(16, 0, 4, 1),
    Shape("plain", 80, 160, 128): Blocks(16, 0, 4, 1),
    Shape("edit", 80, 160, 128): Blocks(16, 0, 4, 1),
    Shape("joint edit", 80, 160, 128): Blocks(16, 0, 4, 1),
    Shape("edit capture", 80, 160, 128): Blocks(16, 0, 4, 1),
}


def arch(tensor: Tensor) -> int:
    """80 or 90, the entries for a tensor's device; 90 in the interpreter, which has none."""
    return 90 if not tensor.is_cuda or torch.cuda.get_device_capability(tensor.device)[0] in (9, 10) else 80


def choose(table: dict[Shape, Blocks], kind: str, q: Tensor, rows: int, columns: int = 0) -> Blocks:
    """The table's entry for queries q (..., d), `rows` of them, against a tile of `columns` keys."""
    key = (kind, arch(q))
    fitting = [
        shape
        for shape in table
        if shape[:2] == key and shape.size >= q.shape[-1] and shape.columns >= columns and shape.rows <= rows
    ]
    return table[min(fitting, key=lambda shape: (-shape.rows, shape.size, shape.columns))]
