"""What the instruction network is taught: InstructPix2Pix (Brooks et al. 2023, section 3.2) in pixels.

From pairs of pictures that `python -m pydiff.tools.pairs` made: the picture to change stands beside x, the instruction
is read by a text encoder that learns on. Two pictures that differ from a third in the same object are a pair too, if
the reader finds it so. What an edit leaves alone it leaves only nearly as it was, so it is pasted from the first
picture; and a share of the pairs is drawn instead of made, where all else stays to the last pixel and no scene comes
twice. A share of instructions, of pictures, and of both is dropped, so that two guidance scales can weigh them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pydiff.embedded.data import to_tensor
from pydiff.embedded.instructions import KINDS, change_of, instruction, sample_change, sample_source
from pydiff.embedded.judge import Change, judge
from pydiff.embedded.objective import diffusion_loss, draw_times, noise_levels
from pydiff.embedded.reader import SIDE, Mask, grow, see
from pydiff.embedded.world import Scene, draw, place_things
from pydiff.images import open_image
from pydiff.nn.cond import Cond
from pydiff.tools.pairs import read_pairs

DROPPED = 0.05  # of the instructions, of the pictures, and of both
VISIBLE, EMPHASIS = 0.25, 9.0  # pixels further than that from the background, of [-1, 1], weigh that much more
SEVERAL = 3.0  # how much more often a picture of several objects is shown: only there must the network choose
DRAWN = 0.5  # share of the pairs that are drawn
EDGE = 6  # pixels of the reader's masks by which an object's edge reaches beyond it
SHIFT, INSIDE = 8, 2  # pixels by which a pair is moved at most, as far as its objects stay so far inside


class Lessons(NamedTuple):
    """instructions, and the pictures before and after them (B, 3, H, W) in [-1, 1]; zeros stand for a dropped one.
    weight (B, 1, H, W) of pixels in the loss: objects, before or after, are a small part of a picture, and which of
    them changes into what is all that is to learn."""

    instructions: list[str]
    before: Tensor
    after: Tensor
    weight: Tensor


class Pairs:
    """Pairs in memory: pictures (N, H, W, 3) uint8; of every pair the two that it is of, and the change; how often each
    is shown, so that changes of colour, of shape and of both come equally often."""

    def __init__(self, home: Path) -> None:
        found = read_pairs(home)
        if not found:
            raise ValueError(f"{home} holds no pairs; make some with `python -m pydiff.tools.pairs`")
        self.pictures: list[NDArray[np.uint8]] = []
        self.pairs: list[tuple[int, int, Change]] = []
        for _, family in groupby(found, key=lambda pair: (pair["captions"][0], pair["seed"])):
            self._add(home, list(family))
        kinds = [(_kind(change), len(change.before.groups) > 1) for _, _, change in self.pairs]
        number = Counter(kind for kind, _ in kinds)
        often = np.array([(SEVERAL if several else 1.0) / number[kind] for kind, several in kinds])
        self.shares = often / often.sum()

    def _add(self, home: Path, family: Sequence[Mapping[str, Any]]) -> None:
        """The pairs of one source picture, and those of its targets."""
        source = len(self.pictures)
        names = [family[0]["source"], *(pair["target"] for pair in family)]
        before, *others = (np.asarray(open_image(home / name).convert("RGB")) for name in names)
        changes = {source + 1 + i: change_of(pair["change"]) for i, pair in enumerate(family)}
        self.pictures += [before, *map(partial(_pasted, before), others, changes.values())]
        self.pairs += [(source, target, change) for target, change in changes.items()]
        for (first, there), (second, other) in combinations(changes.items(), 2):
            change = Change(there.after, other.after, there.changed)
            if there.changed != other.changed or change.before == change.after:
                continue
            verdict = judge(change, self.pictures[first], self.pictures[second])
            if verdict is not None and verdict.done and verdict.kept:
                self.pairs.append((first, second, change))

    def lessons(self, rng: np.random.Generator, batch: int) -> Lessons:
        """Random pairs, made ones and drawn ones, half of them the other way round, half of them mirrored, all moved a
        little: the world knows left from right and places, but instructions about colour and shape do not."""
        pictures, instructions = [], []
        for drawn, way, mirror in zip(rng.random(batch) < DRAWN, *rng.integers(2, size=(2, batch)), strict=True):
            pair, change = drawn_pair(rng, self.pictures[0].shape[0]) if drawn else self._made(rng)
            if way:
                pair, change = pair[::-1], Change(change.after, change.before, change.changed)
            pictures.append(_moved(pair[:, :, ::-1] if mirror else pair, rng))
            instructions.append(instruction(change, rng))
        drop = rng.random(batch)
        instructions = ["" if share < 2 * DROPPED else words for share, words in zip(drop, instructions, strict=True)]
        before, after = (to_tensor([np.ascontiguousarray(pair[i]) for pair in pictures]) for i in (0, 1))
        weight = 1 + EMPHASIS * torch.maximum(_objects(before), _objects(after))
        before[torch.from_numpy((drop >= DROPPED) & (drop < 3 * DROPPED))] = 0
        return Lessons(instructions, before, after, weight)

    def _made(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Change]:
        first, second, change = self.pairs[rng.choice(len(self.pairs), p=self.shares)]
        return np.stack([self.pictures[first], self.pictures[second]]), change


def drawn_pair(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], Change]:
    """A scene and one of its changes, drawn: pictures (2, size, size, 3); several objects SEVERAL times as often."""
    several = rng.random() < SEVERAL / (1 + SEVERAL)
    while True:
        scene = sample_source(rng)
        if (len(scene.groups) > 1) == several:
            break
    change = sample_change(scene, str(rng.choice(KINDS)), rng)
    things = place_things(scene, rng)
    now = zip(things, change.after.groups, strict=True)
    changed = tuple(thing._replace(colour=group.colour, shape=group.shape) for thing, group in now)
    return np.stack([draw(scene, things, size), draw(change.after, changed, size)]), change


def _pasted(before: NDArray[np.uint8], after: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    """The picture after a change, (S, S, 3), with the pixels before it wherever neither shows what changes."""
    changing, rest = zip(_parts(before, change.before, change), _parts(after, change.after, change), strict=True)
    mask = grow(np.logical_or(*changing), EDGE) & ~grow(rest[0], EDGE // 2)
    shown = Image.fromarray(mask).resize(before.shape[1::-1], Image.Resampling.BOX)
    return np.where(np.asarray(shown)[..., None], after, before)


def _parts(picture: NDArray[np.uint8], scene: Scene, change: Change) -> tuple[Mask, Mask]:
    """The reader's mask of what changes, and of the other objects."""
    assert change.changed is not None
    group = scene.groups[change.changed]
    changing = rest = np.zeros((SIDE, SIDE), np.bool_)
    for found, mask in see(picture)[1]:
        if (found.colour, found.shape) == (group.colour, group.shape):
            changing = changing | mask
        else:
            rest = rest | mask
    return changing, rest


def _moved(pair: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Both pictures (2, H, W, 3), moved alike; the background that leaves at one side comes back at the other."""
    ground = np.median(pair, axis=(1, 2), keepdims=True)
    seen = (np.abs(pair - ground).max(axis=(0, 3)) > VISIBLE * 127.5).nonzero()
    for axis, places in enumerate(seen, start=1):
        if len(places):
            before, after = places.min() - INSIDE, pair.shape[axis] - 1 - INSIDE - places.max()
            by = rng.integers(-np.clip(before, 0, SHIFT), np.clip(after, 0, SHIFT) + 1)
            pair = np.roll(pair, by, axis)
    return pair


def _kind(change: Change) -> tuple[bool, bool]:
    """Whether colour, and whether shape, of an object change. Raises ValueError for a change of the background."""
    if change.changed is None:
        raise ValueError("the change is of the background; expected one of an object")
    old, new = (scene.groups[change.changed] for scene in (change.before, change.after))
    return old.colour != new.colour, old.shape != new.shape


def _objects(pictures: Tensor) -> Tensor:
    """1 where a picture (B, 3, H, W) shows something else than its background, its median colour; (B, 1, H, W)."""
    ground = pictures.flatten(2).median(dim=2).values[..., None, None]
    return ((pictures - ground).abs().amax(1, keepdim=True) > VISIBLE).float()


def instruct_losses(
    unet: Callable[..., Tensor],
    batches: Iterator[Lessons],
    encode: Callable[[list[str]], Tensor],
    levels: Tensor,
    generator: torch.Generator,
    fine: float,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Loss and variational term of each batch. encode: instructions to states (B, T, D). levels: cumulative products of
    alpha."""
    for batch in batches:
        t = draw_times(len(batch.after), generator, fine)
        noise = torch.randn(batch.after.shape, generator=generator)
        alpha, sigma = noise_levels(t, levels)
        x = torch.cat([alpha * batch.after + sigma * noise, batch.before], dim=1)
        output = unet(x, t, Cond(text=encode(batch.instructions)))
        yield diffusion_loss(output, batch.after, noise, t, levels, batch.weight)
