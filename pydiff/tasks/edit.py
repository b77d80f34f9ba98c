"""Edit a picture by editing its prompt (Prompt-to-Prompt, Hertz et al. 2022): source and targets walk together from one
noise, and the targets borrow where the source looked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pydiff.arrays import Array, expand
from pydiff.cascade import PLAIN, Cascade, Stage, Start
from pydiff.diffusion.edits import EditTable, edited_levels, of_targets
from pydiff.diffusion.local_blend import BLENDS
from pydiff.nn.edit import Heat
from pydiff.tasks.begin import Begin, Now, branches, from_low_res, pure_noise
from pydiff.tasks.borrow import Borrowing, TextBranchEdits, adjusted, followed_size
from pydiff.tasks.changes import Change
from pydiff.tasks.checks import integer, is_list
from pydiff.tasks.columns import prompt_columns
from pydiff.tasks.edit_options import EditOptions, edit_options
from pydiff.tasks.generate import HINTS, check_latents
from pydiff.tasks.layers import check_unmerged
from pydiff.tasks.mutual import MutualOptions
from pydiff.tasks.own_function import own_function
from pydiff.tasks.plan import sizes_of, stages_to
from pydiff.tasks.plug_and_play import PlugOptions
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request
from pydiff.tasks.seeds import MAX_SEED, seed_list
from pydiff.text.prompt_edit import prompt_edit, word_probe
from pydiff.text.spans import PromptColumns

METHODS: dict[str, type[EditOptions | MutualOptions | PlugOptions]] = {
    "prompt_to_prompt": EditOptions,
    "masactrl": MutualOptions,
    "plug_and_play": PlugOptions,
}


def edit(
    cascade: Cascade,
    source: str,
    target: str | Sequence[str] | None,
    call: Call,
    *,
    size: int | None = None,
    height: int | None = None,
    width: int | None = None,
    latents: Array | None = None,
) -> Request:
    """Pictures of the source and of every target, all from one noise. The first stage is edited, by one of METHODS;
    later ones run on its pictures with the targets' prompts. Without a target the source is edited by re-weighting its
    words."""
    stages = stages_to(cascade, size)
    check_editable(cascade, stages[0])
    given = call.options
    options, others = _options(given)
    prompts = _prompts(source, target, options)
    call = dataclasses.replace(call, prompt=prompts, options=others, seed=_one_seed(call, latents, len(prompts)))
    sizes = sizes_of(stages, height, width)
    wanted = make_request("edit", cascade, stages, (), call, sizes, parts={"denoising_end": None})
    check_unmerged(wanted.plans[0].merge_tokens, "an edit changes attention")
    if latents is not None:
        check_latents(latents, stages[0], sizes[0], 1)
    first: Begin = partial(from_one_noise, latents=latents)
    changes: tuple[Change, ...] = ()
    levels = wanted.plans[0].table.levels
    if not isinstance(options, EditOptions):
        changes = (options.change(stages[0], levels),)
        each: Sequence[Any] = [options] * (len(prompts) - 1)
    else:
        assert stages[0].text is not None
        assert wanted.words is not None
        columns = prompt_columns(stages[0].text, wanted.words, wanted.guided)
        own = {name: share for name, share in stages[0].traits.get("swap", {}).items() if name not in given}
        each = [options.of_target(columns[0], column, own) for column in columns[1:]]
        first = partial(from_edit, borrowed=borrowing(columns, levels, each), latents=latents)
        if options.function is not None:
            changes = (own_function(options.function, options.function_layers, stages[0], levels),)
    said = [{"task": "generate"}, *({"source": source, **one.said(index)} for index, one in enumerate(each))]
    unseeded = {} if latents is None else {"seed": None}
    return dataclasses.replace(
        wanted,
        begins=(first, *(from_low_res for _ in stages[1:])),
        said_of=tuple({**unseeded, **one} for one in said),
        changes=(*changes, *wanted.changes),
    )


def check_editable(cascade: Cascade, stage: Stage) -> None:
    """Raise ValueError unless the stage makes pictures of prompts alone, from attention to their words."""
    if stage.kind != PLAIN or "unclip" in stage.traits or stage.text is None:
        hint = HINTS.get(stage.kind, "an edit needs attention to the words of prompts")
        raise ValueError(f"{cascade.name} makes no pictures of prompts alone; {hint}")


def _options(given: Mapping[str, Any]) -> tuple[EditOptions | MutualOptions | PlugOptions, dict[str, Any]]:
    """The options of an edit's method, of which words and shapes are checked later, and all others."""
    method = given.get("method", "prompt_to_prompt")
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    names = {option.name: of for of, kind in METHODS.items() for option in dataclasses.fields(kind)}
    own, others = dict[str, Any](), dict[str, Any]()
    for name, value in given.items():
        if names.get(name, method) != method:
            raise ValueError(f"{name} is an option of the method {names[name]!r}, but the method is {method!r}")
        if name != "method":
            (own if name in names else others)[name] = value
    return (edit_options(own) if method == "prompt_to_prompt" else METHODS[method](**own)), others


def _prompts(source: Any, target: Any, options: EditOptions | MutualOptions | PlugOptions) -> list[str]:
    targets = list(target) if is_list(target) else [target]
    if target is None:
        if not isinstance(options, EditOptions) or not options.reweight:
            raise ValueError("an edit without a target re-weights words of its source; give reweight, or a target")
        swept = [len(value) for value in options.reweight.values() if is_list(value)]
        targets = [source] * (swept[0] if swept else 1)
    if not isinstance(source, str) or not targets or not all(isinstance(prompt, str) for prompt in targets):
        raise ValueError(f"the edit is of {source!r} to {target!r}; expected a prompt, and a prompt or a list of them")
    return [source, *targets]


def _one_seed(call: Call, latents: Array | None, count: int) -> list[int]:
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


def borrowing(columns: Sequence[PromptColumns], levels: int, options: Sequence[EditOptions]) -> Borrowing:
    """The tables of an edit, of the options of every target, which differ in shares alone. Raises ValueError for a word
    that no prompt has, and for numbers outside their ranges."""
    one = options[0]
    probes = [word_probe(columns, words) for words in (one.local_blend, one.excluded) if words is not None]
    probe = np.stack(probes, axis=-1) if probes else None
    how = BLENDS[one.blend] if isinstance(one.blend, str) else one.blend.checked()
    pooled, spatial = (
        tuple(edited_levels(name, getattr(each, name), levels, compat=each.compat) for each in options)
        for name in ("pooled_replace", "spatial_replace")
    )
    tables = {id(each): _table(columns, levels, each) for each in options}
    table = of_targets([tables[id(each)] for each in options])
    return Borrowing(table, one.pixels, probe, how, how.span(levels, compat=one.compat), pooled, spatial)


def _table(columns: Sequence[PromptColumns], levels: int, options: EditOptions) -> EditTable:
    return prompt_edit(
        columns,
        levels,
        mode=options.mode,
        cross_replace=options.cross_replace,
        self_replace=options.self_replace,
        reweight=options.reweight,
        self_replace_max_size=options.self_replace_max_size,
        compat=options.compat,
    )


def from_one_noise(now: Now, latents: Array | None) -> Start:
    """One noise for all rows."""
    x = pure_noise(now, None if latents is None else expand(latents, len(now.noise)))
    return Start(x, now.noise, branches(now))


def from_edit(now: Now, borrowed: Borrowing, latents: Array | None) -> Start:
    """One noise for all rows; what the targets borrow depends on the noise level alone."""
    start = from_one_noise(now, latents)
    followed = followed_size(now.plan.stage.unet, (start.x.shape[2], start.x.shape[3]))
    heat = Heat(sizes=frozenset({followed[0] * followed[1]}))
    edits = TextBranchEdits(borrowed, heat, now.weight)
    return start._replace(adjust=partial(adjusted, borrowed, heat, followed) if borrowed.adjusts else None, edit=edits)
