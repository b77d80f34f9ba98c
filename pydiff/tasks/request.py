"""From a caller's arguments to a checked Request: what all tasks have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pydiff.arrays import Array, is_array, is_torch, placed
from pydiff.cascade import Cascade, Stage, StagePlan
from pydiff.diffusion.noise import Noise
from pydiff.models.unet2d_config import UNet2DConfig
from pydiff.networks import UnexportedError
from pydiff.tasks.begin import Begin, Micro, micro_fields
from pydiff.tasks.checks import integer, is_list, per_prompt
from pydiff.tasks.classifier import CLASSIFIER, classifier_guidance
from pydiff.tasks.heat import HEAT, capturing
from pydiff.tasks.plan import NO_PARTS, PRIOR, Options, make_options, plan_stages
from pydiff.tasks.run import Request, StepEnd
from pydiff.tasks.seeds import Generators, Seed, generators
from pydiff.tasks.words import EMBEDDINGS, READING, SECOND, Embeddings, Prompt, Words, make_words
from pydiff.text.encoders import TextEncoder


@dataclass(frozen=True)
class Call:
    """The arguments that every task takes. options: by name, those of `Options` and of `Micro`; prompt_2 and
    negative_prompt_2 for a second text encoder; prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds and
    negative_pooled_prompt_embeds in place of words; clip_skip, weighting, chunks and clean_caption, how the text
    encoder reads; those of `HeatOptions`, what is captured of attention; and of `ClassifierOptions`."""

    prompt: Prompt = None
    negative_prompt: Prompt = None
    seed: Seed = None
    generator: Generators = None
    num_images_per_prompt: int = 1
    class_labels: Any = None
    callback_on_step_end: StepEnd | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def chosen(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: self.options[name] for name in names if self.options.get(name) is not None}

    def sampling(self) -> Options:
        """How to sample; refuses unknown options."""
        others = (*EMBEDDINGS, *SECOND, *READING, *PRIOR, *Micro.__dataclass_fields__, *HEAT, *CLASSIFIER)
        return make_options({name: value for name, value in self.options.items() if name not in others})


def make_call(prompt: Prompt, arguments: Mapping[str, Any]) -> Call:
    """Named arguments in their fields, all others as options."""
    fields = set(Call.__dataclass_fields__) - {"prompt", "options"}
    own = {name: value for name, value in arguments.items() if name in fields}
    options = {name: value for name, value in arguments.items() if name not in own}
    return Call(prompt, **own, options=options)


def make_request(
    task: str,
    cascade: Cascade,
    stages: Sequence[Stage],
    begins: Sequence[Begin],
    call: Call,
    sizes: Sequence[tuple[int, int]] | None = None,
    said: Mapping[str, Any] | None = None,
    parts: Mapping[str, float | None] = NO_PARTS,
    steers: bool = False,
) -> Request:
    """Check everything; raise ValueError before any work. said: what else settings hold. parts: see `plan_stages`.
    steers: whether the task itself weighs words against the negative prompt, whatever the stages do."""
    plans = plan_stages(stages, call.sampling(), sizes, parts)
    said = said or {}
    _check_options(call, stages, said)
    words, labels = _words(call, stages), _labels(stages[0], call)
    count = len(words) if words is not None else 0 if labels is None else len(labels)
    count = count or per_prompt(call.num_images_per_prompt)
    guided = steers or any(plan.guided for plan in plans)
    _check_words(words, plans, guided)
    micro = micro_fields(call.chosen(tuple(Micro.__dataclass_fields__)))
    if call.generator is not None and not is_torch(stages[0].unet.like):
        raise UnexportedError("generator is given, but an exported model draws without torch; give seed")
    seeds, drawn = generators(call.seed, call.generator, count)
    return Request(
        task,
        cascade,
        words,
        seeds,
        Noise(drawn),
        plans,
        tuple(begins),
        guided,
        Micro(**micro),
        labels,
        call.callback_on_step_end,
        {**call.chosen(READING), **micro, **said},
        changes=capturing(call.chosen(HEAT), plans[0], words, guided),
        classifier=classifier_guidance(call.chosen(CLASSIFIER), plans[0], labels, count),
    )


def _check_options(call: Call, stages: Sequence[Stage], said: Mapping[str, Any]) -> None:
    """Refuse what belongs to another kind of model, and a callback that is none."""
    if "micro" not in stages[0].traits:
        for name in call.chosen(tuple(Micro.__dataclass_fields__)):
            raise ValueError(f"{name} is for Stable Diffusion XL; leave it out")
    for name in call.chosen([name for name in PRIOR if name not in said]):
        raise ValueError(f"{name} is for making pictures with unCLIP's prior; leave it out")
    if call.callback_on_step_end is not None and not callable(call.callback_on_step_end):
        raise ValueError(f"callback_on_step_end is {call.callback_on_step_end!r}; expected a function")


def _check_words(words: Words | None, plans: Sequence[StagePlan], guided: bool) -> None:
    """That every stage that is guided reads words or an example, and that the stages can read the words of the call."""
    encoders: dict[int, TextEncoder] = {}
    for plan in plans:
        encoder, traits = plan.stage.text, plan.stage.traits
        if encoder is None:
            if plan.guided and "example" not in traits:
                scale = plan.said["guidance_scale"]
                raise ValueError(f"guidance_scale is {scale}, but that stage reads no words; give 1")
        elif words is not None and words.embeddings is not None:
            if "unclip" in traits:
                raise ValueError("prompt_embeds are given, but unCLIP reads more than those; give a prompt")
            words.embeddings.check(encoder, guided, "micro" in traits)
        elif words is not None and id(encoder) not in encoders:
            encoders[id(encoder)] = encoder
            words.check(encoder, guided)


def _words(call: Call, stages: Sequence[Stage]) -> Words | None:
    """The call's words, None where no stage reads any."""
    if all(stage.text is None for stage in stages):
        prompts = {"prompt": call.prompt, "negative_prompt": call.negative_prompt}
        given = [name for name, words in prompts.items() if words is not None and not _is_empty(words)]
        given += call.chosen((*SECOND, *EMBEDDINGS, *READING))
        if given:
            raise ValueError(f"{given[0]} is given, but this model reads no words; leave it out")
        return None
    embeddings = None
    if any(call.options.get(name) is not None for name in EMBEDDINGS):
        if call.options.get("prompt_embeds") is None:
            raise ValueError(f"{next(iter(call.chosen(EMBEDDINGS)))} is given without prompt_embeds; give both")
        embeddings = Embeddings._make(call.options.get(name) for name in EMBEDDINGS)
    return make_words(
        call.prompt,
        call.negative_prompt,
        call.num_images_per_prompt,
        second=call.options.get("prompt_2"),
        negative_second=call.options.get("negative_prompt_2"),
        embeddings=embeddings,
        reading=call.chosen(READING),
    )


def _is_empty(words: Any) -> bool:
    return isinstance(words, str) and not words


def _labels(stage: Stage, call: Call) -> Array | None:
    """Classes of a class-conditional network, (B,)."""
    config = stage.unet.config
    classes = config.num_class_embeds if isinstance(config, UNet2DConfig) else None
    given = call.class_labels
    if classes is None:
        if given is not None:
            raise ValueError(f"class_labels is {given!r}, but this model knows no classes; leave it out")
        return None
    if is_array(given):
        given = given.tolist()
    entries = list(given) if is_list(given) else [given]
    if given is None or not entries:
        raise ValueError(f"this model makes pictures of {classes} classes; give class_labels, an int or a list of them")
    each = per_prompt(call.num_images_per_prompt)
    whole = [integer("class_labels", entry, 0, classes - 1) for entry in entries for _ in range(each)]
    return placed(np.array(whole), stage.unet.like)
