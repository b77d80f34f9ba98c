"""Instructions name what changes, and nothing that could be meant instead; caption pairs are always the same."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pydiff.embedded.instructions import KINDS, RECOLOUR, REPLACE, change_of, instruction, lines, main
from pydiff.embedded.judge import Change
from pydiff.embedded.world import OBJECT_COLOURS, SHAPES, Group, Scene, is_unseen

MADE = list(lines(150))
COLOUR, SHAPE = (f"(?:{'|'.join(words)})" for words in (OBJECT_COLOURS, SHAPES))
SLOTS = {
    "thing": rf"(?:(?P<old_colour>{COLOUR}) )?(?P<old_shape>{SHAPE})",
    "colour": rf"(?P<colour>{COLOUR})",
    "new": rf"(?P<article>an?) (?:(?P<colour>{COLOUR}) )?(?P<shape>{SHAPE})",
}
TEMPLATES = {template: re.compile(template.format(**SLOTS)) for template in (*RECOLOUR, *REPLACE)}
CASES = [
    (edit[name], change if name == "instruction" else Change(change.after, change.before, change.changed))
    for line in MADE
    for edit in line["edits"]
    for change in [change_of(edit["change"])]
    for name in ("instruction", "back")
]


def test_instructions_name_what_changes_and_nothing_else() -> None:
    used = Counter[str]()
    for text, change in CASES:
        assert change.changed is not None
        old, new = (scene.groups[change.changed] for scene in (change.before, change.after))
        ((template, said),) = [(t, match.groupdict()) for t, p in TEMPLATES.items() if (match := p.fullmatch(text))]
        used[template] += 1
        meant = [
            index
            for index, group in enumerate(change.before.groups)
            if said["old_colour"] in (None, group.colour) and said["old_shape"] == group.shape
        ]
        assert meant == [change.changed], text
        assert said["colour"] == new.colour or (said["colour"] is None and old.colour == new.colour), text
        assert said.get("shape", old.shape) == new.shape, text
        if "article" in said:
            assert re.search(r" (an [aeiou]|a [^aeiou])\w+( \w+)?$", text), text
    assert set(used) == {*RECOLOUR, *REPLACE}
    assert min(used.values()) > len(CASES) / 40


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_two_objects_of_one_shape_are_told_apart(shape: str) -> None:
    before = Scene((Group(1, "red", "circle"), Group(1, "blue", "circle")), "above", None, "white", True)
    new = Group(1, "green" if shape == "circle" else "red", shape)
    change = Change(before, before._replace(groups=(new, before.groups[1])), 0)
    texts = {instruction(change, np.random.default_rng(seed)) for seed in range(60)}
    assert len(texts) >= 5
    assert all("the red circle" in text for text in texts)


def test_the_background_has_no_instruction() -> None:
    scene = Scene((Group(1, "red", "circle"),), None, None, "white", True)
    with pytest.raises(ValueError, match="expected one of an object"):
        instruction(Change(scene, scene._replace(background="pink"), None), np.random.default_rng(0))


def test_lines() -> None:
    assert list(lines(20)) == MADE[:20]
    kinds = Counter[str]()
    for line in MADE:
        targets = [edit["target"] for edit in line["edits"]]
        assert len({line["source"], *targets}) == 1 + len(targets)
        for edit in line["edits"]:
            before, after, changed = change_of(edit["change"])
            kinds[edit["kind"]] += 1
            assert changed is not None
            old, new = before.groups[changed], after.groups[changed]
            assert (old.colour != new.colour, old.shape != new.shape) == {
                "colour": (True, False), "shape": (False, True), "object": (True, True),
            }[edit["kind"]]  # fmt: skip
            assert after == before._replace(groups=(*before.groups[:changed], new, *before.groups[changed + 1 :]))
            assert new.colour != after.background
            assert not is_unseen(before)
            assert not is_unseen(after)
            for scene, words in ((before, line["source"]), (after, edit["target"])):
                assert all(f"{group.colour} {group.shape}" in words for group in scene.groups)
    assert set(kinds) == set(KINDS)


def test_changes_survive_json() -> None:
    for line in MADE:
        for edit in line["edits"]:
            said = json.loads(json.dumps(edit["change"]))
            change = change_of(said)
            assert change == change_of(edit["change"]) == tuple(edit["change"].values())
            assert isinstance(change.before, Scene)
            assert isinstance(change.after.groups[0], Group)
            hash(change)


GROUPS: list[Any] = [[1, "red", "circle", None]]
SCENE: list[Any] = [GROUPS, None, None, "white", True]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "not of two scenes"),
        ({"before": SCENE, "after": SCENE}, "not of two scenes: 'changed'"),
        ({"before": SCENE[:3], "after": SCENE, "changed": 0}, "not of two scenes"),
        ({"before": [], "after": SCENE, "changed": 0}, "not of two scenes"),
        ({"before": [[[1, "red"]], *SCENE[1:]], "after": SCENE, "changed": 0}, "not of two scenes"),
        ({"before": [[[2, "red", "circle"]], *SCENE[1:]], "after": SCENE, "changed": 0}, "no single object"),
        ({"before": [[[1, ["red"], "circle"]], *SCENE[1:]], "after": SCENE, "changed": 0}, "not of two scenes"),
        ({"before": [[[1, "red", "cat"]], *SCENE[1:]], "after": SCENE, "changed": 0}, "'cat'.* no single object"),
        ({"before": [[], *SCENE[1:]], "after": SCENE, "changed": 0}, "there is no object"),
        ({"before": [*SCENE[:3], "teal", True], "after": SCENE, "changed": 0}, "no background such as 'teal'"),
        ({"before": SCENE, "after": SCENE, "changed": 1}, "group 1 of 1"),
        ({"before": SCENE, "after": SCENE, "changed": True}, "group True of 1"),
        ({"before": SCENE, "after": [GROUPS * 2, *SCENE[1:]], "changed": 0}, "which become 2"),
    ],
)
def test_changes_that_are_none(said: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change_of(said)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        monkeypatch.setattr(sys, "argv", ["instructions", "--number", "7", "-o", str(tmp_path / name)])
        main()
    text = (tmp_path / "one").read_text()
    assert text == (tmp_path / "two").read_text()
    assert text == "".join(json.dumps(line) + "\n" for line in MADE[:7])
    monkeypatch.setattr(sys, "argv", ["instructions", "--number", "0", "-o", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--number is 0; give 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
