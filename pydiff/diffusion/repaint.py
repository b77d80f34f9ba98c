"""RePaint's resampling: a table whose levels zig-zag (Lugmayr et al. 2022, section 4.2)."""

from __future__ import annotations

from itertools import pairwise

from pydiff.diffusion.levels import CLEAN, Level
from pydiff.diffusion.rows import Row, StepTable, rising_row

COMPATS = (None, "diffusers")


def zigzag(steps: int, jump_length: int = 10, jump_n_sample: int = 10) -> list[int]:
    """The levels a resampled run visits, steps - 1 being the noisiest, 0 the cleanest of the table and -1 the picture.

    Every jump_length levels the run goes back up by jump_length, jump_n_sample - 1 times.
    """
    for name, value in (("steps", steps), ("jump_length", jump_length), ("jump_n_sample", jump_n_sample)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected an integer of at least 1")
    jumps = dict.fromkeys(range(0, steps - jump_length, jump_length), jump_n_sample - 1)
    level, visited = steps, []
    while level >= 1:
        level -= 1
        visited.append(level)
        if jumps.get(level, 0) > 0:
            jumps[level] -= 1
            visited += range(level + 1, level + jump_length + 1)
            level += jump_length
    return [*visited, -1]


def resampled(
    table: StepTable,
    jump_length: int = 10,
    jump_n_sample: int = 10,
    *,
    faithful: bool = False,
    compat: str | None = None,
) -> StepTable:
    """`table` with RePaint's resampling; all its rows draw, for what is known is noised anew in each.

    A jump is one row with one draw; faithful: jump_length rows, as in the original code, whose law is the same. compat:
    "diffusers" jumps where its RePaintScheduler does, one level lower than the original code.
    Raises ValueError for samplers with several rows per step or with memory: their rows cannot be visited again.
    """
    if len(table.starts) != len(table.rows) or any(row.step.c_previous for row in table.rows):
        raise ValueError("only samplers of one row per step without memory can be resampled; use ddpm, ddim or euler")
    if compat not in COMPATS:
        raise ValueError(f"compat is {compat!r}; expected None or 'diffusers'")
    path = zigzag(len(table.rows), jump_length, jump_n_sample)
    if compat is not None:
        path = [path[0], *(level - 1 for level in path[:-1])]
    rows: list[Row] = []
    for here, there in list(pairwise(path)) if faithful else _merged(path):
        row = table.rows[-1 - max(here, 0)]
        level = CLEAN if here < 0 else _level(row)
        if there < here:
            rows.append(row._replace(draws=True))
        else:
            rows.append(rising_row(level, _level(table.rows[-1 - there]), row.level))
    starts = tuple(i for i, row in enumerate(rows) if row.evaluate)
    return table._replace(rows=tuple(rows), starts=starts)


def _merged(path: list[int]) -> list[tuple[int, int]]:
    """The moves of a path, consecutive rises made one."""
    moves: list[tuple[int, int]] = []
    for here, there in pairwise(path):
        if moves and there > here and moves[-1][1] > moves[-1][0]:
            moves[-1] = (moves[-1][0], there)
        else:
            moves.append((here, there))
    return moves


def _level(row: Row) -> Level:
    return Level(row.step.alpha, row.step.sigma, row.t, row.input_scale)
