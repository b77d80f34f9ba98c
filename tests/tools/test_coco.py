"""COCO's json: what is written decodes to the masks that went in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from pydiff.tools.coco import box_of, document, run_lengths, shape_of, visible, write_compact


def decoded(segmentation: dict[str, Any]) -> np.ndarray:
    """As the COCO API reads run lengths: 0 first, down the columns."""
    height, width = segmentation["size"]
    flat, value = [], 0
    for count in segmentation["counts"]:
        flat += [value] * count
        value = 1 - value
    return np.array(flat, bool).reshape(width, height).T


masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))


@given(masks)
def test_run_lengths_decode_to_the_mask(mask: np.ndarray) -> None:
    said = run_lengths(mask)
    assert (decoded(said) == mask).all()
    assert all(count > 0 for count in said["counts"][1:])
    assert json.loads(json.dumps(said)) == said


@given(masks.filter(lambda mask: bool(mask.any())))
def test_boxes_hold_the_mask_and_touch_it(mask: np.ndarray) -> None:
    x, y, width, height = box_of(mask)
    inside = np.zeros_like(mask)
    inside[y : y + height, x : x + width] = True
    assert not mask[~inside].any()
    cut = mask[y : y + height, x : x + width]
    assert cut.shape == (height, width)
    assert cut[0].any()
    assert cut[-1].any()
    assert cut[:, 0].any()
    assert cut[:, -1].any()
    assert shape_of(mask)["area"] == mask.sum()


def test_what_the_paper_of_the_format_says() -> None:
    assert run_lengths(np.array([[0, 0, 1], [1, 0, 1]], bool)) == {"size": [2, 3], "counts": [1, 1, 2, 2]}
    assert run_lengths(np.array([[1, 0], [1, 0]], bool))["counts"] == [0, 2, 2]
    assert run_lengths(np.zeros((2, 2), bool))["counts"] == [4]


def test_no_box_of_nothing() -> None:
    with pytest.raises(ValueError, match="empty"):
        box_of(np.zeros((3, 4), bool))


def test_specks_are_not_seen() -> None:
    before = np.full((20, 30, 3), 100, np.uint8)
    after = before.copy()
    after[5:10, 5:12, 1] += 40
    after[15, 20] += 100
    after[0, 0] += 20
    seen = visible(before, after, 24)
    assert seen.sum() == 35
    assert seen[5:10, 5:12].all()
    assert not visible(before, before, 0).any()
    assert visible(before, after, 19)[0, 0] == 0  # still a speck


def test_a_document_has_what_readers_look_up(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    picture = {"file_name": "a-1.png", "width": 6, "height": 4}
    records = [{**picture, "category": "dent", **shape_of(mask)}, {**picture, "category": "scratch", **shape_of(mask)}]
    write_compact(tmp_path / "annotations.json", document(records, ["scratch", "dent"], {"version": "1"}))
    said = json.loads((tmp_path / "annotations.json").read_text())
    assert [image["id"] for image in said["images"]] == [1, 2]
    assert said["categories"] == [
        {"id": 1, "name": "scratch", "supercategory": "defect"},
        {"id": 2, "name": "dent", "supercategory": "defect"},
    ]
    first = said["annotations"][0]
    assert (first["image_id"], first["category_id"], first["bbox"], first["area"]) == (1, 2, [2, 1, 3, 2], 6)
    assert first["iscrowd"] == 0
    assert (decoded(first["segmentation"]) == mask).all()
