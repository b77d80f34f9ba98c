"""What a caller asks for, checked and turned into stage plans before any work starts."""

from __future__ import annotations

import math
import numbers
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch

from pydiff.cascade import Cascade, Stage, StagePlan, make_guidance
from pydiff.diffusion.guidance import per_level
from pydiff.diffusion.thresholding import make_threshold
from pydiff.images import OUTPUT_TYPES
from pydiff.ops.guided_step import Threshold

MAX_SEED = 2**63 - 1
PerStage = float | Sequence[Any] | Callable[[int, int], float] | None


@dataclass(frozen=True)
class Options:
    """How to sample. A list holds one value per stage that runs; anything else is for the first of them, and later
    stages do as their folders say. In lists, None too means what the folder says.

    num_inference_steps: at least 1. guidance_scale: 1 is no guidance; a function (level, levels) -> scale makes it vary
    over a run, as does a list in the place of a stage's number. guidance_rescale: phi in [0, 1]. sampler: ddpm, ddim,
    euler, euler_ancestral, dpmpp_2m, dpmpp_2m_sde, heun or edm. eta: noise of ddim, in [0, 1]. thresholding: none,
    static or dynamic, with percentile in [0, 1] and max_value; without it those two change the folder's own.
    noise_level: of a super-resolution stage's low-res picture, 0 to 999; one number is for all such stages.
    """

    num_inference_steps: PerStage = None
    guidance_scale: PerStage = None
    guidance_rescale: PerStage = None
    sampler: str | Sequence[str | None] | None = None
    eta: PerStage = None
    thresholding: str | Sequence[str | None] | None = None
    percentile: PerStage = None
    max_value: PerStage = None
    noise_level: int | Sequence[int | None] | None = None

    def of_stage(self, index: int, stages: int, takes_low_res: bool) -> dict[str, Any]:
        """Every option's value for one stage, None where the folder decides."""
        values = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if _is_list(value):
                if len(value) != stages:
                    raise ValueError(f"{name} lists {len(value)} values, but {stages} stages run; give one per stage")
                values[name] = value[index]
            elif name == "noise_level":
                values[name] = value if takes_low_res else None
            else:
                values[name] = value if index == 0 else None
        return values


def make_options(given: Mapping[str, Any]) -> Options:
    """Options by name; ValueError for unknown ones."""
    unknown = sorted(set(given) - set(Options.__dataclass_fields__))
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; options are {', '.join(Options.__dataclass_fields__)}")
    return Options(**given)


def plan_stages(stages: Sequence[Stage], options: Options) -> tuple[StagePlan, ...]:
    """The plan of each stage. Raises ValueError for options that are unknown, out of range or do not fit together."""
    one_level = options.noise_level is not None and not _is_list(options.noise_level)
    if one_level and all(stage.noising is None for stage in stages):
        raise ValueError("noise_level is for super-resolution stages, but none runs")
    count = len(stages)
    return tuple(
        plan_stage(stage, options.of_stage(index, count, stage.noising is not None))
        for index, stage in enumerate(stages)
    )


def plan_stage(stage: Stage, values: Mapping[str, Any]) -> StagePlan:
    """One stage's plan. `said` keeps every option as it was decided, so that settings can repeat the run."""
    sampling, defaults = stage.sampling, stage.defaults
    steps = _integer("num_inference_steps", _or(values["num_inference_steps"], defaults.num_inference_steps), 1)
    sampler, eta = _or(values["sampler"], sampling.sampler), values["eta"]
    if not isinstance(sampler, str):
        raise ValueError(f"sampler is {sampler!r}; expected a name, or one per stage")
    extra: dict[str, Any] = {} if eta is None else {"eta": _number("eta", eta, 0, 1)}
    table = sampling.table(steps, sampler=sampler, **extra)
    scale = _scale(_or(values["guidance_scale"], defaults.guidance_scale), table.levels)
    rescale = _number("guidance_rescale", _or(values["guidance_rescale"], 0.0), 0, 1)
    threshold = _threshold(sampling.threshold, values)
    level = _noise_level(stage, values["noise_level"])
    said = {
        "num_inference_steps": steps,
        "guidance_scale": scale,
        "guidance_rescale": rescale,
        "sampler": sampler,
        "eta": eta,
        "thresholding": threshold.kind,
        "percentile": threshold.percentile if threshold.kind == "dynamic" else None,
        "max_value": None if threshold.kind == "none" or math.isinf(threshold.max_value) else threshold.max_value,
        "noise_level": level,
    }
    return StagePlan(stage, table, make_guidance(scale, table.levels, rescale), threshold, level, said)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _scale(scale: Any, levels: int) -> float | list[float]:
    """A number, or one per noise level."""
    if not callable(scale) and not _is_list(scale):
        return _number("guidance_scale", scale)
    given = [scale(level, levels) for level in range(levels)] if callable(scale) else scale
    return per_level("guidance_scale", [_number("guidance_scale", value) for value in given], levels)


def _threshold(own: Threshold, values: Mapping[str, Any]) -> Threshold:
    kind, percentile, max_value = (values[name] for name in ("thresholding", "percentile", "max_value"))
    percentile = None if percentile is None else _number("percentile", percentile)
    max_value = None if max_value is None else _number("max_value", max_value)
    if kind is not None:
        return make_threshold(kind, percentile=percentile, max_value=max_value)
    if own.kind == "dynamic":
        percentile = _or(percentile, own.percentile)
    if own.kind != "none":
        max_value = _or(max_value, own.max_value)
    return make_threshold(own.kind, percentile=percentile, max_value=max_value)


def _noise_level(stage: Stage, value: Any) -> int | None:
    if stage.noising is not None:
        last = len(stage.noising.alphas_cumprod) - 1
        return _integer("noise_level", _or(value, stage.defaults.noise_level), 0, last)
    if value is not None:
        raise ValueError(f"noise_level is {value!r} for a base stage, which takes no low-res picture; give it None")
    return None


def _integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    if not isinstance(value, bool) and isinstance(value, numbers.Integral):
        whole = int(value)
        if whole >= low and (high is None or whole <= high):
            return whole
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise ValueError(f"{name} is {value!r}; expected an integer {bounds}")


def _number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    try:
        number = float(value) if not isinstance(value, bool) and isinstance(value, numbers.Real) else math.nan
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}; expected a finite number")
    if not low <= number <= high:
        raise ValueError(f"{name} is {value}; expected a number from {low:g} to {high:g}")
    return number


def stages_to(cascade: Cascade, size: int | None) -> tuple[Stage, ...]:
    """The stages from the first to the one that makes `size`."""
    wanted = cascade.default_size if size is None else size
    if wanted not in cascade.sizes:
        made = ", ".join(map(str, cascade.sizes))
        raise ValueError(f"size is {wanted!r}, which no stage of {cascade.name} makes; expected one of {made}")
    return cascade.stages[: cascade.sizes.index(wanted) + 1]


def prompt_pairs(
    prompt: str | Sequence[str], negative: str | Sequence[str] | None, each: int
) -> tuple[list[str], list[str]]:
    """Prompt and negative prompt (None is the empty one) of every picture, `each` pictures to a prompt."""
    each = _integer("num_images_per_prompt", each, 1)
    prompts, negatives = _strings("prompt", prompt), _strings("negative_prompt", _or(negative, ""))
    if len(negatives) not in (1, len(prompts)):
        raise ValueError(
            f"negative_prompt lists {len(negatives)} for {len(prompts)} prompts; give one, or one for each"
        )
    if len(negatives) == 1:
        negatives = negatives * len(prompts)
    return [words for words in prompts for _ in range(each)], [words for words in negatives for _ in range(each)]


def _strings(name: str, given: str | Sequence[str]) -> list[str]:
    strings = [given] if isinstance(given, str) else list(given) if _is_list(given) else []
    if not strings or not all(isinstance(words, str) for words in strings):
        raise ValueError(f"{name} is {given!r}; expected a string or a list of strings")
    return strings


def seed_list(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """One seed per picture: as given; from one int s the seeds s, s + 1, ...; from None random ones."""
    if seed is None:
        return [secrets.randbelow(2**32) for _ in range(count)]
    if _is_list(seed):
        if len(seed) != count:
            raise ValueError(f"seed lists {len(seed)} numbers for {count} pictures; give one int, or one per picture")
        return [_integer("seed", value, 0, MAX_SEED) for value in seed]
    first = _integer("seed", seed, 0, MAX_SEED - count + 1)
    return [first + index for index in range(count)]


def generators(
    seed: int | Sequence[int] | None, generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> tuple[list[int | None], list[torch.Generator]]:
    """Seeds (None where a generator was given) and generators, one per picture."""
    if generator is None:
        seeds = seed_list(seed, count)
        return list(seeds), [torch.Generator().manual_seed(value) for value in seeds]
    if seed is not None:
        raise ValueError("seed and generator are both given; give one of them")
    given: list[Any] = list(generator) if _is_list(generator) else [generator]
    if not all(isinstance(one, torch.Generator) for one in given):
        raise ValueError(f"generator is {generator!r}; expected a torch.Generator per picture")
    if len(given) != count:
        raise ValueError(f"generator lists {len(given)} generators for {count} pictures; give one per picture")
    return [None] * count, given


def check_output_type(output_type: str) -> None:
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}")
