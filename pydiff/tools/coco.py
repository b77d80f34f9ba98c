"""Annotations as COCO's json has them: boxes, areas, and masks as uncompressed run lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydiff.embedded.reader import blobs
from pydiff.weights.files import write_whole

Picture = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
LEAST_PART = 10  # parts of less than one in so many of all changed pixels are specks, not the defect


def visible(before: Picture, after: Picture, threshold: int) -> Mask:
    """The pixels (H, W) at which some channel changed by more than `threshold` levels of 255, without specks: only
    parts, joined by sides, of at least a tenth of them all."""
    changed = (np.abs(after.astype(np.int16) - before) > threshold).any(axis=2)
    parts = blobs(changed, max(1, -(-int(changed.sum()) // LEAST_PART)))
    return np.logical_or.reduce(parts) if parts else np.zeros_like(changed)


def run_lengths(mask: Mask) -> dict[str, list[int]]:
    """{"size": [H, W], "counts": ...}: down the columns, one after the other, lengths of runs of 0, 1, 0, ..., the
    first of which may be 0. `pycocotools.mask.frPyObjects` reads it."""
    flat = mask.ravel(order="F")
    changes = (np.flatnonzero(np.diff(flat)) + 1).tolist()
    edges = [0, *([0] if flat[0] else []), *changes, flat.size]
    return {"size": [int(side) for side in mask.shape], "counts": np.diff(edges).tolist()}


def box_of(mask: Mask) -> list[int]:
    """[x, y, width, height] in pixels of what is True; ValueError where nothing is."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError("the mask is empty; expected something to annotate")
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def shape_of(mask: Mask) -> dict[str, Any]:
    """What an annotation says of a mask: bbox, area in pixels, segmentation, iscrowd."""
    return {"bbox": box_of(mask), "area": int(mask.sum()), "segmentation": run_lengths(mask), "iscrowd": 0}


def document(records: Sequence[Mapping[str, Any]], kinds: Sequence[str], info: Mapping[str, Any]) -> dict[str, Any]:
    """The whole file. records: each file_name, width, height, category (one of kinds), and what `shape_of` says. Ids
    count from 1 in the order given."""
    numbers = {kind: index for index, kind in enumerate(kinds, 1)}
    images, annotations = [], []
    for index, record in enumerate(records, 1):
        images.append({"id": index, **{name: record[name] for name in ("file_name", "width", "height")}})
        shape = {name: record[name] for name in ("bbox", "area", "segmentation", "iscrowd")}
        annotations.append({"id": index, "image_id": index, "category_id": numbers[record["category"]], **shape})
    categories = [{"id": number, "name": kind, "supercategory": "defect"} for kind, number in numbers.items()]
    return {
        "info": dict(info),
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def write_compact(path: Path, value: Mapping[str, Any]) -> None:
    """Write value as JSON without indentation; the file appears whole or not at all."""
    text = json.dumps(value, sort_keys=True, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
