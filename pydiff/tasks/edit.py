"""Edit a picture by editing its prompt (Prompt-to-Prompt, Hertz et al. 2022): source and targets walk together from one
noise, and the targets borrow where the source looked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pydiff.cascade import PLAIN, Cascade, Stage, Start
from pydiff.diffusion import loop
from pydiff.diffusion.edits import EditRow, EditTable, Share
from pydiff.diffusion.local_blend import BLENDS, LocalBlend, blend_mask, blended
from pydiff.nn.edit import AttentionEdit, Heat
from pydiff.tasks.begin import Begin, Now, branches, from_low_res, pure_noise
from pydiff.tasks.checks import integer, is_list
from pydiff.tasks.generate import HINTS
from pydiff.tasks.plan import stages_to
from pydiff.tasks.request import Call, make_request
from pydiff.tasks.run import Request
from pydiff.text.alignment import MODES
from pydiff.text.prompt_edit import prompt_edit, word_probe
from pydiff.text.spans import Phrase, PromptColumns, read_columns

PIXELS = ("rescale", "keep")


@dataclasses.dataclass(frozen=True)
class EditOptions:
    """How targets borrow. cross_replace: the share of the run, or (start, end), in which their words look where the
    source's do; or one per word, "default_" being the others. self_replace: the same for pixels, in layers of at most
    self_replace_max_size a side. reweight: what the attention to a word is multiplied by, or a list, one per target.
    local_blend: the words outside whose places the source stays as it is, except excluded ones; blend: how. mode: how
    prompts are aligned (auto, replace, refine). pixels: what becomes of pixel columns that stand in one softmax with
    the text, rescale or keep. compat: "google" for the original code's alignment and rounding."""

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


class Borrowing(NamedTuple):
    """What an edit does at every level: its table and, of local blending, the columns whose attention it follows
    (B, T, K), how, and from which level on."""

    table: EditTable
    pixels: str
    probe: Tensor | None
    blend: LocalBlend
    first_blend: int


def edit(
    cascade: Cascade, source: str, target: str | Sequence[str] | None, call: Call, *, size: int | None = None
) -> Request:
    """Pictures of the source and of every target, all from one seed. The first stage is edited; later ones run on its
    pictures with the targets' prompts. Without a target the source is edited by re-weighting its words."""
    stages = stages_to(cascade, size)
    if stages[0].kind != PLAIN or "unclip" in stages[0].traits or stages[0].text is None:
        raise ValueError(
            f"{cascade.name} makes no pictures of prompts alone; {HINTS.get(stages[0].kind, 'edit needs one')}"
        )
    options, others = _options(call.options)
    prompts = _prompts(source, target, options)
    seed = integer("seed", call.seed, 0) if call.seed is not None else None
    call = dataclasses.replace(call, prompt=prompts, options=others)
    if seed is None or call.generator is not None or call.num_images_per_prompt != 1:
        raise ValueError("an edit makes one picture of each prompt from one seed; give seed, an int")
    call = dataclasses.replace(call, seed=[seed] * len(prompts))
    kept = {"source": source, **call_options(options)}
    begins: list[Begin] = [partial(from_edit, options=options, prompts=prompts), *(from_low_res for _ in stages[1:])]
    wanted = make_request("edit", cascade, stages, begins, call, said=kept)
    borrowing(stages[0], prompts, wanted.plans[0].table.levels, options, call)  # refuses what does not fit
    return wanted


def call_options(options: EditOptions) -> dict[str, Any]:
    """What settings say of an edit: all that is not as usual, as JSON has it."""
    usual = EditOptions()
    fields = {name: getattr(options, name) for name in EditOptions.__dataclass_fields__}
    return {name: value for name, value in fields.items() if value != getattr(usual, name)}


def _options(given: Mapping[str, Any]) -> tuple[EditOptions, dict[str, Any]]:
    own = {name: value for name, value in given.items() if name in EditOptions.__dataclass_fields__}
    options = EditOptions(**own)
    for name, known in (("mode", MODES), ("pixels", PIXELS), ("blend", tuple(BLENDS))):
        value = getattr(options, name)
        if value not in known and not (name == "blend" and isinstance(value, LocalBlend)):
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
    return options, {name: value for name, value in given.items() if name not in own}


def _prompts(source: Any, target: Any, options: EditOptions) -> list[str]:
    targets = list(target) if is_list(target) else [target]
    if target is None:
        swept = [len(value) for value in dict(options.reweight or {}).values() if is_list(value)]
        targets = [source] * (swept[0] if swept else 1)
        if not options.reweight:
            raise ValueError("an edit without a target re-weights words of its source; give reweight, or a target")
    if not isinstance(source, str) or not targets or not all(isinstance(prompt, str) for prompt in targets):
        raise ValueError(f"the edit is of {source!r} to {target!r}; expected a prompt, and a prompt or a list of them")
    return [source, *targets]


def borrowing(stage: Stage, prompts: Sequence[str], levels: int, options: EditOptions, call: Call) -> Borrowing:
    """The tables of an edit. Raises ValueError for a word that no prompt has, and for numbers outside their ranges."""
    columns = _columns(stage, prompts)
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
    blend = BLENDS[options.blend] if isinstance(options.blend, str) else options.blend.checked()
    probes = [word_probe(columns, words) for words in (options.local_blend, options.excluded) if words is not None]
    if options.excluded is not None and options.local_blend is None:
        raise ValueError("excluded words are given without local_blend; name the words to blend by too")
    probe = torch.stack(probes, dim=-1) if probes else None
    return Borrowing(table, options.pixels, probe, blend, blend.first_level(levels, compat=options.compat))


def _columns(stage: Stage, prompts: Sequence[str]) -> list[PromptColumns]:
    assert stage.text is not None
    return read_columns(stage.text.tokenizers[0], prompts, as_read=stage.text.as_read)


def from_edit(now: Now, options: EditOptions, prompts: Sequence[str]) -> Start:
    """One noise for all rows; what the targets borrow depends on the noise level alone."""
    plan = now.plan
    borrowed = borrowing(plan.stage, prompts, plan.table.levels, options, Call())
    x = pure_noise(now)
    heat = None if borrowed.probe is None else Heat()
    edits = Edits(borrowed, now.weight)
    adjust = None if heat is None else partial(_blend, borrowed, heat, len(prompts))
    return Start(x, now.noise, branches(now), adjust, edit=edits, heat=heat)


class Edits:
    """A level to its AttentionEdit, on the network's device and of its type; equal levels have the same one."""

    def __init__(self, borrowed: Borrowing, like: Tensor) -> None:
        self.borrowed, self.like = borrowed, like
        self.made: dict[int, AttentionEdit | None] = {}
        self.probe = None if borrowed.probe is None else borrowed.probe.to(like)

    def __call__(self, level: int) -> AttentionEdit | None:
        row = self.borrowed.table.at(level)
        if id(row) not in self.made:
            self.made[id(row)] = self._make(row)
        return self.made[id(row)]

    def _make(self, row: EditRow) -> AttentionEdit | None:
        if not row.borrows and row.self_source is None and self.probe is None:
            return None
        device = self.like.device
        edit = AttentionEdit(
            tokens=row.keep.shape[1],
            pixels=self.borrowed.pixels,
            self_source=None if row.self_source is None else row.self_source.to(device),
            self_pixels=self.borrowed.table.self_max_pixels,
            probe=self.probe,
        )
        if not row.borrows:
            return edit
        return edit._replace(
            source=row.source.to(device), transfer=row.transfer.to(self.like), keep=row.keep.to(self.like)
        )


def _blend(borrowed: Borrowing, heat: Heat, rows: int, state: loop.State) -> Tensor:
    """x where the words look, the source's x elsewhere."""
    if state.level < borrowed.first_blend:
        return state.x
    height, width = state.x.shape[2:]
    pixels = min(heat.sums, key=lambda count: abs(count - height * width // 16))  # the layers of a quarter of the side
    scale = (height * width / pixels) ** 0.5
    maps = heat.sums[pixels][:rows].unflatten(1, (round(height / scale), round(width / scale))).movedim(-1, 0)
    excluded = maps[1][:, None] if len(maps) > 1 else None
    return blended(state.x, blend_mask(maps[0][:, None], (height, width), borrowed.blend, excluded=excluded))
