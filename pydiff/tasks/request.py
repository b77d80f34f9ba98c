"""From a caller's arguments to a checked Request: what all tasks have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pydiff.cascade import Cascade, Stage
from pydiff.diffusion.noise import Noise
from pydiff.models.unet2d import UNet2D
from pydiff.tasks.begin import Begin, Micro
from pydiff.tasks.checks import integer, is_list
from pydiff.tasks.plan import PRIOR, Options, make_options, plan_stages
from pydiff.tasks.run import Request, StepEnd
from pydiff.tasks.seeds import Generators, Seed, generators
from pydiff.tasks.words import EMBEDDINGS, READING, SECOND, Embeddings, Prompt, Words, make_words

@dataclass(frozen=True)
class Call:
    """The arguments that every task takes. options: by name, those of `Options` and of `Micro`; prompt_2 and
    negative_prompt_2 for a second text encoder; prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds and
    negative_pooled_prompt_embeds in place of words; clip_skip, weighting, chunks and clean_caption, how the text
    encoder reads."""

    prompt: Prompt = None
    negative_prompt: Prompt = None
    seed: Seed = None
    generator: Generators = None
    num_images_per_prompt: int = 1
    class_labels: Any = None
    callback_on_step_end: StepEnd | None = None
    options: Mapping[str, Any] = ()  # type: ignore[assignment]

    def chosen(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: self.options[name] for name in names if self.options.get(name) is not None}

    def sampling(self) -> Options:
        """How to sample; refuses unknown options."""
        others = (*EMBEDDINGS, *SECOND, *READING, *PRIOR, *Micro.__dataclass_fields__)
        return make_options({name: value for name, value in self.options.items() if name not in others})


def make_request(
    task: str,
    cascade: Cascade,
    stages: Sequence[Stage],
    begins: Sequence[Begin],
    call: Call,
    sizes: Sequence[tuple[int, int]] | None = None,
    said: Mapping[str, Any] | None = None,
) -> Request:
    """Check everything; raise ValueError before any work."""
    plans = plan_stages(stages, call.sampling(), sizes)
    words = _words(call, stages)
    labels = _labels(stages[0], call, words)
    count = len(words) if words is not None else 0 if labels is None else len(labels)
    count = count or integer("num_images_per_prompt", call.num_images_per_prompt, 1)
    guided = any(plan.guided for plan in plans)
    for plan in plans:
        if plan.guided and plan.stage.text is None:
            raise ValueError(f"guidance_scale is {plan.said['guidance_scale']}, but that stage reads no words; give 1")
        if words is not None and words.embeddings is not None and "micro" in plan.stage.traits:
            words.embeddings.check_pooled(plan.guided)
    if words is not None:
        for encoder in {id(stage.text): stage.text for stage in stages}.values():
            if encoder is not None:
                words.check(encoder, guided)
    sizes_said = call.chosen(tuple(Micro.__dataclass_fields__))
    micro = Micro(**{name: tuple(value) if is_list(value) else value for name, value in sizes_said.items()})
    if sizes_said and "micro" not in stages[0].traits:
        raise ValueError(f"{next(iter(sizes_said))} is for Stable Diffusion XL; leave it out")
    seeds, drawn = generators(call.seed, call.generator, count)
    kept = {**call.chosen(READING), **sizes_said, **(said or {})}
    return Request(
        task, cascade, words, seeds, Noise(drawn), plans, tuple(begins), micro, labels, call.callback_on_step_end, kept
    )


def _words(call: Call, stages: Sequence[Stage]) -> Words | None:
    """The call's words, None where no stage reads any."""
    if all(stage.text is None for stage in stages):
        given = [name for name in ("prompt", "negative_prompt") if getattr(call, name)]
        given += [name for name in (*SECOND, *EMBEDDINGS, *READING) if call.options.get(name) is not None]
        if given:
            raise ValueError(f"{given[0]} is given, but this model reads no words; leave it out")
        return None
    embeddings = None
    if any(call.options.get(name) is not None for name in EMBEDDINGS):
        if call.options.get("prompt_embeds") is None:
            raise ValueError(f"{next(iter(call.chosen(EMBEDDINGS)))} is given without prompt_embeds; give both")
        embeddings = Embeddings(*(call.options.get(name) for name in EMBEDDINGS))
    return make_words(
        call.prompt,
        call.negative_prompt,
        call.num_images_per_prompt,
        second=call.options.get("prompt_2"),
        negative_second=call.options.get("negative_prompt_2"),
        embeddings=embeddings,
        reading=call.chosen(READING),
    )


def _labels(stage: Stage, call: Call, words: Words | None) -> Tensor | None:
    """Classes of a class-conditional network, (B,)."""
    classes = stage.unet.config.num_class_embeds if isinstance(stage.unet, UNet2D) else None
    given = call.class_labels
    if classes is None:
        if given is not None:
            raise ValueError(f"class_labels is {given!r}, but this model knows no classes; leave it out")
        return None
    if isinstance(given, Tensor):
        given = given.tolist()
    entries = list(given) if is_list(given) else [given]
    if given is None or not entries:
        raise ValueError(f"this model makes pictures of {classes} classes; give class_labels, an int or a list of them")
    each = integer("num_images_per_prompt", call.num_images_per_prompt, 1)
    whole = [integer("class_labels", entry, 0, classes - 1) for entry in entries for _ in range(each)]
    return torch.tensor(whole, device=next(stage.unet.parameters()).device)
