"""The options of Prompt-to-Prompt, as a caller says them and as settings keep them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pydiff.diffusion.edits import Share
from pydiff.diffusion.local_blend import BLENDS, LocalBlend
from pydiff.nn.edit import MapFunction
from pydiff.tasks.checks import is_list, unusual
from pydiff.text.alignment import MODES, align
from pydiff.text.spans import Phrase, PromptColumns, phrases

PIXELS = ("rescale", "keep")
SHARES = ("cross_replace", "self_replace", "pooled_replace", "spatial_replace")
PER_WORD = ("cross_replace", "reweight")  # options that map words to numbers


@dataclasses.dataclass(frozen=True)
class EditOptions:
    """How targets borrow. A word is a string that stands in a prompt, or (string, number of its occurrence from 0).

    cross_replace: the share of the run, or (start, end), in which targets' words look where the source's do; or one per
    word, "default_" being the others. self_replace: the same for pixels, in layers of at most self_replace_max_size a
    side. pooled_replace: the share in which targets are told the source's pooled text, where a network is told any;
    spatial_replace: in which steps begin from the source's x (Google's SpatialReplace). For targets that only swap
    words, shares that are not given are those of the model's folder, if it says any. reweight: per word what the
    attention to it is multiplied by, meant for [-2, 2], or a list of such, one per target. local_blend: the words
    outside whose places the source stays as it is, except excluded ones; blend: how, a LocalBlend or its fields, or as
    Google's notebooks "stable" and "null_text" do. mode: how prompts are aligned (auto, replace, refine). pixels: what
    becomes of pixel columns that stand in one softmax with the text: rescale or keep. compat: "google" for the original
    code's alignment and rounding. function: a user's own edit of maps in place of all that, in function_layers (see
    `own_function`).
    """

    cross_replace: Share | Mapping[Phrase, Share] = 0.8
    self_replace: Share = 0.4
    self_replace_max_size: int = 16
    pooled_replace: Share = 0.0
    spatial_replace: Share = 0.0
    reweight: Mapping[Phrase, float | Sequence[float]] | None = None
    local_blend: Phrase | Sequence[Phrase] | None = None
    excluded: Phrase | Sequence[Phrase] | None = None
    blend: str | LocalBlend = "stable"
    mode: str = "auto"
    pixels: str = "rescale"
    compat: str | None = None
    function: MapFunction | None = None
    function_layers: str | Sequence[str] | None = None

    def of_target(self, source: PromptColumns, target: PromptColumns, own: Mapping[str, Any]) -> EditOptions:
        """Those of one target: with the model's own where it swaps words, adds none and removes none."""
        aligned = align(source, target, self.mode, compat=self.compat)
        swaps = aligned.swapped and not aligned.added and not aligned.removed
        return dataclasses.replace(self, **own) if swaps and own and self.function is None else self

    def said(self, target: int) -> dict[str, Any]:
        """What settings say of the target-th target, counted from 0: shares, and all that is not as usual, as JSON."""
        said = {**{name: getattr(self, name) for name in SHARES}, **unusual(self)}
        if self.reweight is not None:
            swept = {phrase: value[target] if is_list(value) else value for phrase, value in self.reweight.items()}
            said["reweight"] = swept
        return {name: _as_json(value) for name, value in said.items()}


def edit_options(given: Mapping[str, Any]) -> EditOptions:
    """Options by name. Raises ValueError for what is none; words and shares are checked where prompts are known."""
    own = dict(given)
    own |= {name: _from_json(own[name]) for name in PER_WORD if name in own}
    if isinstance(own.get("blend"), Mapping):
        own["blend"] = _blend(own["blend"])
    options = EditOptions(**own)
    if options.reweight is not None and not isinstance(options.reweight, Mapping):
        raise ValueError(f"reweight is {options.reweight!r}; expected a word's weight, such as {{'fluffy': 2.0}}")
    for name, known in (("mode", MODES), ("pixels", PIXELS), ("blend", tuple(BLENDS))):
        value = getattr(options, name)
        if not (isinstance(value, str) and value in known) and not (name == "blend" and isinstance(value, LocalBlend)):
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
    if options.excluded is not None and options.local_blend is None:
        raise ValueError("excluded words are given without local_blend; name the words to blend by too")
    if options.function_layers is not None and options.function is None:
        raise ValueError("function_layers are given without a function; give both, or none")
    return options


def _from_json(value: Any) -> Any:
    """A mapping that settings hold as pairs, since its words have numbers; anything else as it is."""
    pairs = list(value) if is_list(value) else []
    if not pairs or not all(is_list(pair) and len(pair) == 2 and len(phrases(pair[0])) == 1 for pair in pairs):
        return value
    return {phrases(key)[0]: number for key, number in pairs}


def _blend(fields: Mapping[str, Any]) -> LocalBlend:
    unknown = [str(name) for name in fields if name not in LocalBlend._fields]
    if unknown:
        raise ValueError(f"blend has {', '.join(unknown)}; expected {', '.join(LocalBlend._fields)}")
    return LocalBlend(**fields)


def _as_json(value: Any) -> Any:
    """Words with their occurrence as lists, and a mapping of such as a list of pairs; of a function its name."""
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    if isinstance(value, LocalBlend):
        return value._asdict()
    if isinstance(value, Mapping):
        pairs = [[_as_json(key), _as_json(one)] for key, one in value.items()]
        return dict(pairs) if all(isinstance(key, str) for key, _ in pairs) else pairs
    return [_as_json(one) for one in value] if is_list(value) else value
