"""How a caller wants each stage run, checked and turned into stage plans before any work starts."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any

from pydiff.cascade import Cascade, Stage, StagePlan
from pydiff.diffusion.partial import begin_below, begin_of_strength, rows_above, timestep_cutoff
from pydiff.diffusion.rows import StepTable
from pydiff.diffusion.thresholding import make_threshold
from pydiff.ops.guided_step import Threshold
from pydiff.step_cache import Reusing
from pydiff.tasks.augmentation import conditioning, ends, noise_level
from pydiff.tasks.checks import integer, is_list, number, otherwise
from pydiff.tasks.guided import plan_guidance
from pydiff.tasks.layers import attending, check_open, check_unmerged

PerStage = float | Sequence[Any] | Callable[[int, int], float] | None
PRIOR = ("prior_num_inference_steps", "prior_guidance_scale")  # options of unCLIP's prior
OF_ONE: Mapping[str, type] = {  # lists of these are for one stage
    "timesteps": numbers.Integral,
    "guidance_interval": numbers.Real,
    "pag_layers": str,
}
CODING = ("vae_tiling", "vae_slicing")
LOW_MEMORY = "low_memory"
MOST_MERGED = 0.75  # what of every 2x2 pixels is no destination
AUGMENTATION = ("noise_level", "conditioning")  # of the low-res pictures of super-resolution stages
PARTS = ("strength", "denoising_start", "denoising_end")  # how much of a stage's run is walked
NO_PARTS: Mapping[str, float | None] = {}


@dataclass(frozen=True)
class Options:
    """How to sample. A list holds one value per stage that runs; anything else is for the first of them, and later
    stages do as their folders say. In lists, None too means what the folder says.

    num_inference_steps: at least 1. timesteps, in their place: descending training timesteps, or the name or counts of
    a respacing ("smart50"). cache_steps: every so many evaluations of the network one is whole, and the others run its
    outermost level alone (`pydiff.step_cache`), an approximation, off (1) by default. merge_tokens: the share of
    pixels, from 0 to below 0.75, that are merged with others of the outermost level at which pixels attend to each
    other (`pydiff.nn.merge`), an approximation, off (0) by default. guidance_scale: up to 1 is no guidance; a function
    (level, levels) -> scale makes it vary over a run, as does a list in the place of a stage's number.
    image_guidance_scale: how closely to keep to the picture, of stages that follow instructions. guidance_rescale: phi
    in [0, 1]. guidance_interval: (low, high), the noise from 0 (none) to 1 (noise alone) between which guidance is on
    (`pydiff.diffusion.guidance.within`), an approximation, off by default. pag_scale: of perturbed-attention guidance
    (`pydiff.tasks.perturbed`), 0 is none, said as guidance_scale is; pag_adaptive_scale: how much less of it per
    timestep; pag_layers: where, names with * for any part, by default the middle of the network. sampler: ddpm, ddim,
    pndm, euler, euler_ancestral, dpmpp_2m, dpmpp_2m_sde, heun or edm. eta: noise of ddim, in [0, 1]. thresholding:
    none, and of pixels static or dynamic, with percentile in [0, 1] and max_value; without it those two change the
    folder's own.
    noise_level: of a super-resolution stage's low-res picture, 0 to 999; conditioning: whether
    that is "non_truncated", a finished picture noised to the level, or "truncated", what the stage before leaves there,
    stopped (`pydiff.tasks.augmentation`); one value of these is for all such stages. Of the first stage only: strength,
    the share of the steps that changes a picture; denoising_start and denoising_end, shares of the noise levels,
    (0, 1), at which a run takes over from another and leaves off. Of every stage with an autoencoder: vae_tiling,
    pictures are coded tile by tile, and vae_slicing, one after the other: less memory, and with tiles a slightly other
    picture. low_memory, of all stages: a network call takes one row, a branch of the guidance of one picture, so that
    the network's memory does not grow with them; the same pictures, more slowly. Rows whose attention is edited or
    captured stay together, for they borrow from each other.
    """

    num_inference_steps: PerStage = None
    cache_steps: int | Sequence[int | None] | None = None
    merge_tokens: float | Sequence[float | None] | None = None
    timesteps: str | Sequence[Any] | None = None
    guidance_scale: PerStage = None
    image_guidance_scale: PerStage = None
    guidance_rescale: PerStage = None
    guidance_interval: Sequence[Any] | None = None
    pag_scale: PerStage = None
    pag_adaptive_scale: PerStage = None
    pag_layers: str | Sequence[Any] | None = None
    sampler: str | Sequence[str | None] | None = None
    eta: PerStage = None
    thresholding: str | Sequence[str | None] | None = None
    percentile: PerStage = None
    max_value: PerStage = None
    noise_level: int | Sequence[int | None] | None = None
    conditioning: str | Sequence[str | None] | None = None
    strength: float | None = None
    denoising_start: float | None = None
    denoising_end: float | None = None
    vae_tiling: bool | None = None
    vae_slicing: bool | None = None
    low_memory: bool | Sequence[bool | None] | None = None

    def of_stage(self, index: int, stages: int, takes_low_res: bool) -> dict[str, Any]:
        """Every option's value for one stage, None where the folder decides."""
        values = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if is_list(value) and not (name in OF_ONE and all(isinstance(entry, OF_ONE[name]) for entry in value)):
                if len(value) != stages:
                    raise ValueError(f"{name} lists {len(value)} values, but {stages} stages run; give one per stage")
                values[name] = value[index]
            elif name in AUGMENTATION:
                values[name] = value if takes_low_res else None
            elif name in (*CODING, LOW_MEMORY):
                values[name] = value
            else:
                values[name] = value if index == 0 else None
        return values


def make_options(given: Mapping[str, Any]) -> Options:
    """Options by name; ValueError for unknown ones."""
    unknown = sorted(str(name) for name in set(given) - set(Options.__dataclass_fields__))
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; options are {', '.join(Options.__dataclass_fields__)}")
    return Options(**given)


def plan_stages(
    stages: Sequence[Stage],
    options: Options,
    sizes: Sequence[tuple[int, int]] | None = None,
    parts: Mapping[str, float | None] = NO_PARTS,
) -> tuple[StagePlan, ...]:
    """The plan of each stage; sizes are those of the pictures, by default the stages' own. parts: which of PARTS the
    task takes, and what they are for its first stage unless said; with conditioning, it may be truncated. Raises
    ValueError for options that are unknown, out of range or do not fit together."""
    for name in AUGMENTATION:
        value = getattr(options, name)
        if value is not None and not is_list(value) and all(stage.noising is None for stage in stages):
            raise ValueError(f"{name} is for super-resolution stages, but none runs")
    sizes = [stage.size for stage in stages] if sizes is None else sizes
    values = [
        _with_parts(options.of_stage(index, len(stages), stage.noising is not None), index, parts)
        for index, stage in enumerate(stages)
    ]
    found = ends(stages, values, "conditioning" in parts)
    return tuple(starmap(plan_stage, zip(stages, values, sizes, found, strict=True)))


def _with_parts(values: dict[str, Any], index: int, parts: Mapping[str, float | None]) -> dict[str, Any]:
    """The values with the task's own strength. Stages after the first may have a strength and no other part."""
    for name in PARTS:
        if values[name] is not None and (name not in parts or (index > 0 and name != "strength")):
            raise ValueError(f"{name} is {values[name]!r} for stage {index + 1} of a task that takes none there")
    if index == 0 and values["denoising_start"] is None:
        return {**values, "strength": otherwise(values["strength"], parts.get("strength"))}
    return values


def plan_stage(stage: Stage, values: Mapping[str, Any], size: tuple[int, int], end: float = 0.0) -> StagePlan:
    """One stage's plan. end: the sigma / alpha at which it ends. `said` keeps every option as it was decided, so that
    settings can repeat the run."""
    least = stage.factor * 2 ** (stage.unet.config.levels - 1)
    if min(size) < least:
        raise ValueError(
            f"the picture is {size[1]}x{size[0]}; expected sides of at least {least} pixels for this model"
        )
    sampler = otherwise(values["sampler"], stage.sampling.sampler)
    table, walked = _table(stage, sampler, values, end)
    guided = plan_guidance(stage, values, table)
    threshold = _threshold(stage, values)
    level = noise_level(stage, values["noise_level"])
    said = {
        **walked,
        **guided.said,
        "sampler": sampler,
        "thresholding": threshold.kind,
        "percentile": threshold.percentile if threshold.kind == "dynamic" else None,
        "max_value": None if threshold.kind == "none" or math.isinf(threshold.max_value) else threshold.max_value,
        "noise_level": level,
        "conditioning": conditioning(stage, values["conditioning"]),
        "cache_steps": _cache_steps(stage, values["cache_steps"]),
        "merge_tokens": _merge_tokens(stage, values["merge_tokens"]),
        **{name: values[name] for name in (*CODING, LOW_MEMORY)},
    }
    coding, low = _coding(stage, values), _flag(LOW_MEMORY, values[LOW_MEMORY])
    plan = StagePlan(stage, table, guided.guidance, threshold, size, level, said, coding, guided.perturbed)
    plan = plan._replace(low_memory=low, cache_steps=said["cache_steps"] or 1, merge_tokens=said["merge_tokens"] or 0.0)
    if plan.perturbed is not None:
        check_unmerged(plan.merge_tokens, "pag_scale is given")
    return plan


def _table(stage: Stage, sampler: Any, values: Mapping[str, Any], end: float) -> tuple[StepTable, dict[str, Any]]:
    """The rows to walk, and the options that chose them."""
    if not isinstance(sampler, str):
        raise ValueError(f"sampler is {sampler!r}; expected a name, or one per stage")
    times = values["timesteps"]
    said: dict[str, Any] = {"timesteps": times.tolist() if hasattr(times, "tolist") else times}  # of an array too
    steps = values["num_inference_steps"]
    if said["timesteps"] is None:
        steps = integer("num_inference_steps", otherwise(steps, stage.defaults.num_inference_steps), 1)
    elif steps is not None:
        raise ValueError(f"num_inference_steps is {steps!r} and timesteps are given too; give one of them")
    for name in PARTS:
        said[name] = None if values[name] is None else number(name, values[name], 0, 1)
    extra: dict[str, Any] = {} if values["eta"] is None else {"eta": number("eta", values["eta"], 0, 1)}
    table = partial(stage.sampling.table, steps, sampler=sampler, timesteps=said["timesteps"], **extra)
    rows = _part(table, stage.sampling.schedule.num_train_timesteps, said, end)
    if said["timesteps"] is not None and not isinstance(said["timesteps"], str):
        said["timesteps"] = [int(t) for t in said["timesteps"]]
    return rows, {"num_inference_steps": steps, **said, "eta": extra.get("eta")}


def _part(table: Callable[..., StepTable], timesteps: int, said: Mapping[str, Any], ratio: float) -> StepTable:
    """The part of a run's rows that is walked, down to sigma / alpha = ratio."""
    strength, start, end = (said[name] for name in PARTS)
    whole = table()
    if start is not None and end is not None and start >= end:
        raise ValueError(f"denoising_start is {start} and denoising_end {end}; expected the start before the end")
    begin = 0
    if start is not None:
        begin = begin_below(whole, timestep_cutoff(start, timesteps))
    elif strength is not None:
        begin = begin_of_strength(whole.levels, strength)
    rows = table(begin=begin, end=ratio) if begin or ratio else whole
    return rows if end is None else rows.until(rows_above(rows, timestep_cutoff(end, timesteps)))


def _coding(stage: Stage, values: Mapping[str, Any]) -> dict[str, bool]:
    """How the autoencoder works, in its own words."""
    for name in CODING:
        if _flag(name, values[name]) and stage.codec is None:
            raise ValueError(
                f"{name} is True, but a stage has no autoencoder; leave it out, or list one value per stage"
            )
    return {name.removeprefix("vae_"): True for name in CODING if values[name]}


def _cache_steps(stage: Stage, value: Any) -> int | None:
    """Checked: of U-Nets of torch, of more than one level."""
    if value is None:
        return None
    integer("cache_steps", value, 1)
    if value > 1:
        check_open(stage.unet, "cache_steps")
        if not isinstance(stage.unet, Reusing) or stage.unet.config.levels < 2:
            raise ValueError(f"cache_steps is {value}, but this network has no levels that could be kept; leave it out")
    return int(value)


def _merge_tokens(stage: Stage, value: Any) -> float | None:
    """Checked: of networks of torch in which pixels attend to each other."""
    if value is None:
        return None
    share = number("merge_tokens", value, 0)
    if share >= MOST_MERGED:
        raise ValueError(f"merge_tokens is {share}; expected a share of the pixels, from 0 to below {MOST_MERGED}")
    if share:
        check_open(stage.unet, "merge_tokens")
        if not attending(stage.unet, "pixels"):
            raise ValueError(f"merge_tokens is {share}, but in this network no layer attends to pixels; leave it out")
    return share


def _flag(name: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def _threshold(stage: Stage, values: Mapping[str, Any]) -> Threshold:
    own = stage.sampling.threshold
    kind, percentile, max_value = (values[name] for name in ("thresholding", "percentile", "max_value"))
    percentile = None if percentile is None else number("percentile", percentile)
    max_value = None if max_value is None else number("max_value", max_value)
    if kind in ("static", "dynamic") and kind != own.kind and stage.codec is not None:
        raise ValueError(f"thresholding is {kind!r}, for pixels' range, but this stage walks through latents")
    if kind is not None:
        return make_threshold(kind, percentile=percentile, max_value=max_value)
    if own.kind == "dynamic":
        percentile = otherwise(percentile, own.percentile)
    if own.kind != "none":
        max_value = otherwise(max_value, own.max_value)
    return make_threshold(own.kind, percentile=percentile, max_value=max_value)


def stages_to(cascade: Cascade, size: int | None) -> tuple[Stage, ...]:
    """The stages from the first to the one that makes `size`."""
    wanted: Any = cascade.default_size if size is None else size
    if not isinstance(wanted, numbers.Integral) or wanted not in cascade.sizes:
        made = ", ".join(map(str, cascade.sizes))
        raise ValueError(f"size is {wanted!r}, which no stage of {cascade.name} makes; expected one of {made}")
    return cascade.stages[: cascade.sizes.index(wanted) + 1]


def sizes_of(stages: Sequence[Stage], height: int | None, width: int | None) -> list[tuple[int, int]]:
    """Height and width of every stage's picture when the last one is height x width (by default its own): the same
    picture, smaller. ValueError for sides that a stage cannot make."""
    last = stages[-1].size
    sides = [
        own if given is None else integer(name, given, 1)
        for name, given, own in (("height", height, last[0]), ("width", width, last[1]))
    ]
    return [_smaller(stage, sides, last) for stage in stages]


def _smaller(stage: Stage, sides: Sequence[int], last: tuple[int, int]) -> tuple[int, int]:
    made = []
    for name, side, own, of in zip(("height", "width"), sides, stage.size, last, strict=True):
        made.append(side * own // of)
        step = stage.factor * of // own if of % own == 0 else stage.factor
        if side * own % of or made[-1] % stage.factor:
            raise ValueError(f"{name} is {side}; expected a multiple of {step}")
    return made[0], made[1]
