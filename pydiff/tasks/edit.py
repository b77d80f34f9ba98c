"""Edit a picture by editing its prompt (Prompt-to-Prompt, Hertz et al. 2022): source and targets walk together from one
noise, and the targets borrow where the source looked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pydiff.cascade import PLAIN, Cascade, Stage, Start
from pydiff.diffusion.edits import Share
from pydiff.diffusion.local_blend import BLENDS, LocalBlend
from pydiff.nn.edit import Heat
from pydiff.tasks.begin import Begin, Now, branches, from_low_res, pure_noise
from pydiff.tasks.borrow import Borrowing, TextBranchEdits, blend
from pydiff.tasks.checks import integer, is_list
from pydiff.tasks.generate import HINTS, check_latents
from pydiff.tasks.plan import sizes_of, stages_to
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request
from pydiff.tasks.seeds import MAX_SEED, seed_list
from pydiff.tasks.words import EMBEDDINGS, READING, SECOND
from pydiff.text.alignment import MODES
from pydiff.text.prompt_edit import prompt_edit, word_probe
from pydiff.text.spans import Phrase, PromptColumns, phrases, read_columns

PIXELS = ("rescale", "keep")
PER_WORD = ("cross_replace", "reweight")  # options that map words to numbers
NOT_READ = (*EMBEDDINGS, *SECOND, "weighting")  # words that no column of a prompt stands for


@dataclasses.dataclass(frozen=True)
class EditOptions:
    """How targets borrow. A word is a string that stands in a prompt, or (string, number of its occurrence from 0).

    cross_replace: the share of the run, or (start, end), in which targets' words look where the source's do; or one per
    word, "default_" being the others. self_replace: the same for pixels, in layers of at most self_replace_max_size a
    side. reweight: per word what the attention to it is multiplied by, meant for [-2, 2], or a list of such, one per
    target. local_blend: the words outside whose places the source stays as it is, except excluded ones; blend: how, a
    LocalBlend or its fields, or as Google's notebooks "stable" and "null_text" do. mode: how prompts are aligned (auto,
    replace, refine). pixels: what becomes of pixel columns that stand in one softmax with the text: rescale or keep.
    compat: "google" for the original code's alignment and rounding.
    """

    cross_replace: Share | Mapping[Phrase, Share] = 0.8
    self_replace: Share = 0.4
    self_replace_max_size: int = 16
    reweight: Mapping[Phrase, float | Sequence[float]] | None = None
    local_blend: Phrase | Sequence[Phrase] | None = None
    excluded: Phrase | Sequence[Phrase] | None = None
    blend: str | LocalBlend = "stable"
    mode: str = "auto"
    pixels: str = "rescale"
    compat: str | None = None

    def said(self, target: int) -> dict[str, Any]:
        """What settings say of the target-th target, counted from 0: all that is not as usual, as JSON has it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        said = {name: value for name, value in fields.items() if value != getattr(EditOptions, name)}
        if self.reweight is not None:
            swept = {phrase: value[target] if is_list(value) else value for phrase, value in self.reweight.items()}
            said["reweight"] = swept
        return {name: _as_json(value) for name, value in said.items()}


def edit(
    cascade: Cascade,
    source: str,
    target: str | Sequence[str] | None,
    call: Call,
    *,
    size: int | None = None,
    height: int | None = None,
    width: int | None = None,
    latents: Tensor | None = None,
) -> Request:
    """Pictures of the source and of every target, all from one noise. The first stage is edited; later ones run on its
    pictures with the targets' prompts. Without a target the source is edited by re-weighting its words."""
    stages = stages_to(cascade, size)
    check_editable(cascade, stages[0])
    options, others = _options(call.options)
    prompts = _prompts(source, target, options)
    call = dataclasses.replace(call, prompt=prompts, options=others, seed=_one_seed(call, latents, len(prompts)))
    sizes = sizes_of(stages, height, width)
    wanted = make_request("edit", cascade, stages, (), call, sizes, parts={"denoising_end": None})
    if latents is not None:
        check_latents(latents, stages[0], sizes[0], 1)
    columns = prompt_columns(stages[0], prompts, call)
    borrowed = borrowing(columns, wanted.plans[0].table.levels, options)
    first: Begin = partial(from_edit, borrowed=borrowed, latents=latents)
    said = [{"task": "generate"}, *({"source": source, **options.said(index)} for index in range(len(prompts) - 1))]
    unseeded = {} if latents is None else {"seed": None}
    return dataclasses.replace(
        wanted,
        begins=(first, *(from_low_res for _ in stages[1:])),
        said_of=tuple({**unseeded, **one} for one in said),
    )


def check_editable(cascade: Cascade, stage: Stage) -> None:
    """Raise ValueError unless the stage makes pictures of prompts alone, from attention to their words."""
    if stage.kind != PLAIN or "unclip" in stage.traits or stage.text is None:
        hint = HINTS.get(stage.kind, "an edit needs attention to the words of prompts")
        raise ValueError(f"{cascade.name} makes no pictures of prompts alone; {hint}")


def _options(given: Mapping[str, Any]) -> tuple[EditOptions, dict[str, Any]]:
    """The options of an edit, of which words and shapes are checked later, and all others."""
    names = [field.name for field in dataclasses.fields(EditOptions)]
    own = {name: value for name, value in given.items() if name in names}
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
    return options, {name: value for name, value in given.items() if name not in own}


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


def _prompts(source: Any, target: Any, options: EditOptions) -> list[str]:
    targets = list(target) if is_list(target) else [target]
    if target is None:
        if not options.reweight:
            raise ValueError("an edit without a target re-weights words of its source; give reweight, or a target")
        swept = [len(value) for value in options.reweight.values() if is_list(value)]
        targets = [source] * (swept[0] if swept else 1)
    if not isinstance(source, str) or not targets or not all(isinstance(prompt, str) for prompt in targets):
        raise ValueError(f"the edit is of {source!r} to {target!r}; expected a prompt, and a prompt or a list of them")
    return [source, *targets]


def _one_seed(call: Call, latents: Tensor | None, count: int) -> list[int]:
    """The seed of every picture of an edit: one for all."""
    if call.generator is not None:
        raise ValueError("generator is given, but an edit draws one noise for all its pictures; give seed or latents")
    if call.num_images_per_prompt != 1:
        came = call.num_images_per_prompt
        raise ValueError(
            f"num_images_per_prompt is {came!r}, but an edit makes one picture of each prompt; leave it out"
        )
    seed = seed_list(None, 1)[0] if call.seed is None else integer("seed", call.seed, 0, MAX_SEED)
    return [seed] * count


def prompt_columns(stage: Stage, prompts: Sequence[str], call: Call) -> list[PromptColumns]:
    """The columns of a call's prompts, in as many windows as the encoder reads. Raises ValueError for words that are
    read in another way."""
    for name in call.chosen(NOT_READ):
        raise ValueError(f"{name} is given, but words are found in plain prompts alone; leave it out")
    assert stage.text is not None
    negatives = call.negative_prompt
    others = [negatives] if isinstance(negatives, str) else list(negatives or [])
    as_read = partial(stage.text.as_read, **call.chosen(READING))
    return read_columns(stage.text.tokenizers[0], [*prompts, *others], as_read=as_read)[: len(prompts)]


def borrowing(columns: Sequence[PromptColumns], levels: int, options: EditOptions) -> Borrowing:
    """The tables of an edit. Raises ValueError for a word that no prompt has, and for numbers outside their ranges."""
    table = prompt_edit(
        columns,
        levels,
        mode=options.mode,
        cross_replace=options.cross_replace,
        self_replace=options.self_replace,
        reweight=options.reweight,
        self_replace_max_size=options.self_replace_max_size,
        compat=options.compat,
    )
    how = BLENDS[options.blend] if isinstance(options.blend, str) else options.blend.checked()
    probes = [word_probe(columns, words) for words in (options.local_blend, options.excluded) if words is not None]
    probe = torch.stack(probes, dim=-1) if probes else None
    return Borrowing(table, options.pixels, probe, how, how.first_level(levels, compat=options.compat))


def from_edit(now: Now, borrowed: Borrowing, latents: Tensor | None) -> Start:
    """One noise for all rows; what the targets borrow depends on the noise level alone."""
    rows = len(now.noise)
    x = pure_noise(now, None if latents is None else latents.expand(rows, -1, -1, -1))
    heat = None if borrowed.probe is None else Heat()
    adjust = None if heat is None else partial(blend, borrowed, heat, rows)
    return Start(x, now.noise, branches(now), adjust, edit=TextBranchEdits(borrowed, heat, now.weight))


def _as_json(value: Any) -> Any:
    """Words with their occurrence as lists, and a mapping of such as a list of pairs."""
    if isinstance(value, LocalBlend):
        return value._asdict()
    if isinstance(value, Mapping):
        pairs = [[_as_json(key), _as_json(one)] for key, one in value.items()]
        return dict(pairs) if all(isinstance(key, str) for key, _ in pairs) else pairs
    return [_as_json(one) for one in value] if is_list(value) else value
