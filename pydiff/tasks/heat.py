"""Capture where words look, in any task whose first stage reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff.arrays import Array, like
from pydiff.cascade import StagePlan, Start
from pydiff.diffusion.edits import Share, edited_levels
from pydiff.heat import Captured, HeatMaps
from pydiff.models.layer_sizes import layer_size
from pydiff.models.unet_config import UNetConfig
from pydiff.networks import Denoiser
from pydiff.nn.edit import AttentionEdit, Heat, Layers, among
from pydiff.tasks.changes import Change, with_edit
from pydiff.tasks.checks import integer, is_list
from pydiff.tasks.columns import prompt_columns
from pydiff.tasks.layers import attending, check_open, check_unmerged, fitting
from pydiff.tasks.words import Words
from pydiff.text.prompt_edit import word_probe
from pydiff.text.spans import Phrase, PromptColumns, phrases


@dataclass(frozen=True)
class HeatOptions:
    """What is captured of attention, for `Result.heat`. A word is a string that stands in a prompt, of one word or of
    several in a row, or (string, number of its occurrence from 0).

    capture: a word, a list of words, or True for every word of the prompts. heat_size: the larger side of the maps to
    take, or a list of such, by default all. heat_layers: the names of the layers to take, with * for any part, by
    default all. heat_steps: the share of the run to take, or (start, end), by default all of it. heat_heads: whether
    heads are kept apart. heat_every_step: whether the maps of every step are kept too, for an animation.
    """

    capture: Literal[True] | Phrase | Sequence[Phrase] | None = None
    heat_size: int | Sequence[int] | None = None
    heat_layers: str | Sequence[str] | None = None
    heat_steps: Share | None = None
    heat_heads: bool = False
    heat_every_step: bool = False


HEAT = tuple(HeatOptions.__dataclass_fields__)


class CapturePlan(NamedTuple):
    """A checked capture. probe (B, T, K): the columns of each word in each prompt; layers by name, with their heights
    and widths; levels: the noise levels; heads: how many are kept apart, None where they are averaged."""

    words: tuple[Phrase, ...]
    probe: NDArray[np.float64]
    layers: Mapping[str, tuple[int, int]]
    levels: tuple[int, ...]
    heads: int | None
    every_step: bool


def capturing(given: Mapping[str, Any], plan: StagePlan, words: Words | None, guided: bool) -> tuple[Change, ...]:
    """The change to a run's first stage that captures what these options say; none where they say nothing. Raises
    ValueError, by name, for what cannot be captured."""
    options = HeatOptions(**given)
    for name in ("heat_heads", "heat_every_step"):
        if not isinstance(given.get(name, False), bool):
            raise ValueError(f"{name} is {given[name]!r}; expected True or False")
    if options.capture is None:
        for name in given:
            if given[name] is not False:
                raise ValueError(f"{name} is given, but no words are captured; name them: capture=['circle']")
        return ()
    unet, encoder = plan.stage.unet, plan.stage.text
    if words is None or encoder is None or not attending(unet, "text"):
        raise ValueError("capture is given, but the first stage of this run attends to no words; leave it out")
    check_unmerged(plan.merge_tokens, "capture is given")
    if "unclip" in plan.stage.traits:
        raise ValueError("capture is given, but unCLIP reads more than words; leave it out")
    columns = prompt_columns(encoder, words, guided)
    captured = _words(options.capture, columns)
    probe = np.stack([word_probe(columns, word, name="capture") for word in captured], axis=-1)
    layers = _layers(options, unet, plan.stage.shape(plan.size)[1:])
    heads = _heads(unet, list(layers)) if options.heat_heads else None
    wanted = CapturePlan(captured, probe, layers, _levels(options, plan), heads, options.heat_every_step)
    return (partial(_start, wanted=wanted),)


def _words(capture: Any, columns: Sequence[PromptColumns]) -> tuple[Phrase, ...]:
    """The words to capture, each once."""
    if capture is not True:
        try:
            return tuple(dict.fromkeys(phrases(capture)))
        except ValueError as error:
            raise ValueError(f"capture is not understood: {error}, or True for all words") from None
    found: dict[str, str] = {}
    for prompt in columns:
        for part in prompt.text.split():
            word = re.sub(r"^\W+|\W+$", "", part)
            if word and prompt.find(word):
                found.setdefault(word.casefold(), word)
    if not found:
        raise ValueError("capture is True, but the prompts hold no words; give a prompt, or leave it out")
    return tuple(found.values())


def _layers(options: HeatOptions, unet: Denoiser, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """The layers to capture, with their heights and widths where x has `size`."""
    patterns = "*" if options.heat_layers is None else options.heat_layers
    names = fitting("heat_layers", patterns, attending(unet, "text"))
    assert isinstance(unet.config, UNetConfig)
    layers = {name: layer_size(name, unet.config, size) for name in names}
    if options.heat_size is None:
        return layers
    wanted = options.heat_size if is_list(options.heat_size) else [options.heat_size]
    known = sorted({max(sides) for sides in layers.values()})
    for side in wanted:
        if integer("heat_size", side, 1) not in known:
            raise ValueError(f"heat_size is {side}, which no layer has; expected some of {', '.join(map(str, known))}")
    if not wanted:
        raise ValueError(f"heat_size is empty; expected some of {', '.join(map(str, known))}")
    return {name: sides for name, sides in layers.items() if max(sides) in wanted}


def _heads(unet: Denoiser, names: Sequence[str]) -> int:
    """How many heads these layers have, all alike."""
    check_open(unet, "heat_heads")
    network: Any = unet
    counts = sorted({network.layers[name].heads for name in names})
    if len(counts) > 1:
        came = " and ".join(map(str, counts))
        raise ValueError(f"heat_heads is True, but layers have {came} heads; choose some by heat_size or heat_layers")
    return counts[0]


def _levels(options: HeatOptions, plan: StagePlan) -> tuple[int, ...]:
    """The noise levels to capture, of those at which the network is evaluated."""
    walked = sorted({row.level for row in plan.table.rows if row.evaluate})
    share: Any = 1.0 if options.heat_steps is None else options.heat_steps
    first, last = edited_levels("heat_steps", share, len(walked))
    if first == last:
        raise ValueError(f"heat_steps is {share!r}, which holds none of the run's {len(walked)} steps; give more of it")
    return tuple(walked[first:last])


def _start(start: Start, wanted: CapturePlan) -> Start:
    """The start with its attention captured, in the rows of branch 0, which reads the prompts."""
    layers = Layers(frozenset(wanted.layers))
    heats = [Heat(layers, heads=wanted.heads is not None) for _ in (wanted.levels if wanted.every_step else [0])]
    of_level = dict(zip(wanted.levels, heats if wanted.every_step else heats * len(wanted.levels), strict=True))
    sizes = {height * width: (height, width) for height, width in wanted.layers.values()}
    captured = Captured(wanted.words, tuple(heats), sizes, len(start.x), wanted.heads, wanted.every_step)
    probes: dict[int, Array] = {}

    def capture(edit: AttentionEdit, level: int, branches: tuple[int, ...]) -> AttentionEdit:
        if level not in of_level or branches[0] != 0:
            return edit
        rows = len(start.x) * len(branches)
        if rows not in probes:
            padded = among(like(wanted.probe, start.x), rows)
            assert padded is not None
            probes[rows] = padded
        return edit.capturing(probes[rows], of_level[level])

    return with_edit(start._replace(heat=HeatMaps(captured)), capture)
