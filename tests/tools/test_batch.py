"""Long lists of work: shards, what is done already, and what fails."""

from __future__ import annotations

import pytest

from pydiff.tools.batch import Shard, work_off


@pytest.mark.parametrize(("text", "expected"), [("0/1", (0, 1)), ("2/8", (2, 8)), ("11/12", (11, 12))])
def test_shard(text: str, expected: tuple[int, int]) -> None:
    assert Shard.parse(text) == expected


@pytest.mark.parametrize("text", ["", "1", "1/1", "0/0", "-1/2", "a/b", "1/2/3", "0.5/2", " 0/2", "²/3"])
def test_bad_shards(text: str) -> None:
    with pytest.raises(ValueError, match="expected I/N with I from 0 to N - 1"):
        Shard.parse(text)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_shards_partition_the_list(count: int) -> None:
    worked = list[int]()
    for index in range(count):
        done = work_off(range(10), name=str, done=lambda _: False, work=worked.append, shard=Shard(index, count))
        assert done == 0
    assert sorted(worked) == list(range(10))


def test_what_is_done_is_left_alone() -> None:
    worked = list[int]()
    for _ in range(2):
        work_off(range(6), name=str, done=lambda item: item % 2 == 0 or item in worked, work=worked.append)
    assert worked == [1, 3, 5]


def test_failures_are_told_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    worked = list[int]()

    def work(item: int) -> None:
        if item == 1:
            raise ValueError("too long")
        if item == 3:
            raise OSError("disk full")
        worked.append(item)

    assert work_off(range(5), name=lambda item: f"item {item}", done=lambda _: False, work=work, quiet=True) == 2
    assert worked == [0, 2, 4]
    assert capsys.readouterr().err.splitlines() == ["item 1: too long", "item 3: disk full"]


def test_mistakes_of_the_program_are_not_passed_over() -> None:
    def work(_: int) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        work_off([0], name=str, done=lambda _: False, work=work)
