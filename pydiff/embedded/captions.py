"""Captions of scenes in varied plain English, and the tokenizer's corpus."""

from __future__ import annotations

import numpy as np

from pydiff.embedded.world import Group, Scene

NUMBERS = {1: ("a", "one"), 2: ("two",), 3: ("three",), 4: ("four",)}
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
PLACE_WORDS = {
    "in the middle": ("in the middle", "in the center", "in the centre"),
    "on the left": ("on the left", "on the left side"),
    "on the right": ("on the right", "on the right side"),
    "at the top": ("at the top",),
    "at the bottom": ("at the bottom",),
    "in the top left corner": ("in the top left corner", "at the top left"),
    "in the top right corner": ("in the top right corner", "at the top right"),
    "in the bottom left corner": ("in the bottom left corner", "at the bottom left"),
    "in the bottom right corner": ("in the bottom right corner", "at the bottom right"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
OPENINGS = ("", "", "", "", "a picture of ", "a drawing of ", "an image of ", "there is ")
SPELLINGS = {"gray": ("gray", "grey")}


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def noun_phrase(group: Group, rng: np.random.Generator) -> str:
    """ "two large red circles" and the like."""
    size = f"{_pick(rng, SIZE_WORDS[group.size])} " if group.size else ""
    plural = "" if group.count == 1 else "es" if group.shape == "cross" else "s"
    phrase = f"{size}{group.colour} {group.shape}{plural}"
    number = _pick(rng, NUMBERS[group.count]) if rng.random() < 0.2 else NUMBERS[group.count][0]
    return f"{'an' if number == 'a' and phrase[0] in 'aeiou' else number} {phrase}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of many ways to say what the scene shows; it names the background when the scene says so."""
    phrases = [noun_phrase(group, rng) for group in scene.groups]
    if scene.relation is None:
        body = phrases[0]
        if scene.place is not None:
            body += f" {_pick(rng, PLACE_WORDS[scene.place])}"
    elif scene.relation == "row":
        body = " and ".join(phrases) if len(phrases) == 2 else f"{phrases[0]}, {phrases[1]} and {phrases[2]}"
    else:
        body = f"{phrases[0]} {_pick(rng, RELATION_WORDS[scene.relation])} {phrases[1]}"
    if not scene.named_background:
        return _pick(rng, OPENINGS) + body
    colour = _pick(rng, SPELLINGS.get(scene.background, (scene.background,)))
    draw = rng.random()
    if draw < 0.6:
        return f"{_pick(rng, OPENINGS)}{body} on a {colour} background"
    if draw < 0.75:
        return f"{_pick(rng, OPENINGS)}{body} on {colour}"
    if draw < 0.9:
        return f"{_pick(rng, OPENINGS)}{body} against a {colour} background"
    return f"a {colour} background with {body}"
