"""The edit table alone, from numbers."""

from __future__ import annotations

import numpy as np
import pytest

from pydiff.diffusion.edits import TokenEdit, edit_table, edited_levels, of_targets


def token_edit(length: int = 3, start: int = 1, stop: int = 3, weight: float = 2.0) -> TokenEdit:
    """Token 0 takes from 0, 1 from 2, 2 keeps its own."""
    transfer = np.zeros((length, length))
    transfer[0, 0] = transfer[2, 1] = 1
    has_source = np.array([True, True, False])
    return TokenEdit(transfer, has_source, np.array([1.0, 1.0, weight]), np.full(3, start), np.array([stop, stop, 4]))


def test_rows():
    table = edit_table([token_edit(), token_edit(start=2)], 5, self_levels=(0, 2), self_max_size=4)
    assert [row.keep.tolist() for row in table.rows] == [
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
        [[1, 1, 1], [0, 0, 2], [1, 1, 1]],
        [[1, 1, 1], [0, 0, 2], [0, 0, 2]],
        [[1, 1, 1], [1, 1, 2], [1, 1, 2]],
        [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
    ]
    assert [row.transfer.sum((1, 2)).tolist() for row in table.rows] == [
        [0, 0, 0], [0, 2, 0], [0, 2, 2], [0, 0, 0], [0, 0, 0],
    ]  # fmt: skip
    assert [row.source.tolist() for row in table.rows] == [[0, 1, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 2]]
    assert [row.borrows for row in table.rows] == [False, True, True, True, False]
    assert [None if row.self_source is None else row.self_source.tolist() for row in table.rows] == [
        [0, 0, 0], [0, 0, 0], None, None, None,
    ]  # fmt: skip
    assert table.self_max_pixels == 16
    assert table.at(4) is table.rows[4] is not table.rows[0]


@pytest.mark.parametrize("level", [-1, 5])
def test_a_level_that_is_not_there(level):
    with pytest.raises(ValueError, match=rf"level is {level}; the edit table has levels 0 to 4"):
        edit_table([token_edit()], 5).at(level)


def test_an_edit_without_target():
    with pytest.raises(ValueError, match="an edit has no target"):
        edit_table([], 5)


@pytest.mark.parametrize(
    ("share", "levels", "exact", "text", "pixels"),
    [
        (0.8, 50, 40, 40, 40),
        (0.4, 10, 4, 4, 4),
        (1.0, 50, 50, 51, 50),
        (0.99, 50, 50, 50, 49),
        (0.55, 9, 5, 5, 4),
        (0.29, 100, 29, 29, 28),  # 0.29 * 100 is below 29
        (0.55, 100, 55, 55, 55),  # 0.55 * 100 is above 55
        (0.0, 10, 0, 0, 0),
        (0.05, 10, 1, 0, 0),
        (1, 1, 1, 2, 1),
    ],
)
def test_levels_of_a_share(share, levels, exact, text, pixels):
    assert edited_levels("share", share, levels) == (0, exact)
    assert edited_levels("share", [0, share], levels, compat="google", extra=1) == (0, text)
    assert edited_levels("share", (0.0, share), levels, compat="google") == (0, pixels)
    assert edited_levels("share", (share, 1.0), levels) == (exact, levels)


def test_every_target_has_its_own_table():
    targets = [token_edit(), token_edit(start=2)]
    pixels, words = (edit_table(targets, 4, self_levels=levels) for levels in ((0, 3), (0, 0)))
    made = of_targets([words, pixels])
    assert of_targets([words, words]) is words
    for level in range(4):
        row = made.at(level)
        assert np.array_equal(row.transfer, words.at(level).transfer)
        assert np.array_equal(row.keep, words.at(level).keep)
        assert row.borrows == words.at(level).borrows
    assert [None if row.self_source is None else row.self_source.tolist() for row in made.rows] == [
        [0, 1, 0], [0, 1, 0], [0, 1, 0], None,
    ]  # fmt: skip
    assert [row.source.tolist() for row in made.rows[:2]] == [[0, 1, 2], [0, 0, 0]]  # pixels alone, then beside words
