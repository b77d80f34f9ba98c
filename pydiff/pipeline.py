"""What a user holds: `pydiff.load()` and the pipeline's methods, one per task."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pydiff.cascade import Cascade
from pydiff.folders import open_cascade
from pydiff.tasks import generate as generation
from pydiff.tasks.generate import Preview, Request, Result
from pydiff.tasks.plan import Options, check_output_type

EMBEDDED = ("base", "super_256", "super_1024")
Seed = int | Sequence[int] | None
Generator = torch.Generator | Sequence[torch.Generator] | None


def load(model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None) -> Pipeline:
    """Open a pipeline: the embedded cascade, a folder in the diffusers layout, or one folder per stage, small first.

    Nothing is fetched and no code of a checkpoint is run. Raises ValueError, by name, for what is missing, corrupt,
    unsafe or of a kind that pydiff does not run.
    """
    if model is None:
        home = Path(__file__).parent / "embedded" / "weights"
        return Pipeline(open_cascade([home / name for name in EMBEDDED], name="pydiff-embedded"))
    paths = [model] if isinstance(model, (str, os.PathLike)) else list(model)
    if not paths:
        raise ValueError("model is an empty list; expected the folder of at least one stage")
    return Pipeline(open_cascade([Path(path) for path in paths], name=" ".join(map(str, paths))))


class Pipeline:
    """A loaded model. It holds no state between calls: many threads may use one."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the pictures that the stages make, in pixels."""
        return self.cascade.sizes

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] = "",
        seed: Seed = None,
        generator: Generator = None,
        num_images_per_prompt: int = 1,
        size: int | None = None,
        output_type: str = "pil",
        watch: Callable[[Any], object] | None = None,
        **options: Any,
    ) -> Result:
        """Make pictures of prompts.

        prompt: a string or a list; the empty one asks for any picture. seed: an int s (pictures get s, s + 1, ...), or
        one per picture; the same seed gives the same picture in any batch, and the one that diffusers makes. generator:
        torch.Generator per picture instead of seeds. size: that of a stage, in `sizes`; the stages up to it run.
        output_type: pil, np (B, H, W, 3) or pt (B, 3, H, W), both in [0, 1]. watch is called with every state.
        options: see `pydiff.tasks.plan.Options` (num_inference_steps, guidance_scale, guidance_rescale, sampler, eta,
        thresholding, percentile, max_value, noise_level); a list holds one value per stage, anything else is for the
        first. Raises ValueError before any work for what does not fit. A word that the model never saw is warned of.
        """
        check_output_type(output_type)
        wanted = self._request(
            prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            generator=generator,
            num_images_per_prompt=num_images_per_prompt,
            size=size,
            options=options,
        )
        return generation.generate(wanted, output_type, watch)

    def stream(self, prompt: str | Sequence[str], **arguments: Any) -> Iterator[Preview]:
        """The run of `generate` as it goes: one state per step of every stage, whose `image` is the picture so far.

        Takes `generate`'s arguments but output_type and watch, and checks them at once; closing it ends the run.
        """
        options = {name: arguments.pop(name) for name in list(arguments) if name in Options.__dataclass_fields__}
        wanted = self._request(prompt, options=options, **arguments)
        return map(Preview, generation.states(wanted))

    def upscale(
        self,
        image: Any,
        prompt: str = "",
        *,
        seed: int | None = None,
        generator: Generator = None,
        size: int | None = None,
        output_type: str = "pil",
        watch: Callable[[Any], object] | None = None,
        **options: Any,
    ) -> Result:
        """Run the super-resolution stages alone on a picture: PIL, a path, (H, W, 3) uint8, or floats in [0, 1].

        It is taken for the output of the stage before the smallest one that makes it larger, and resized to that.
        """
        check_output_type(output_type)
        wanted = self._request(prompt, seed=seed, generator=generator, size=size, image=image, options=options)
        return generation.generate(wanted, output_type, watch)

    def _request(self, prompt: str | Sequence[str], *, options: dict[str, Any], **arguments: Any) -> Request:
        unknown = set(options) - set(Options.__dataclass_fields__)
        if unknown:
            known = ", ".join(Options.__dataclass_fields__)
            raise ValueError(f"unknown option {', '.join(sorted(unknown))}; options are {known}")
        return generation.request(self.cascade, prompt, options=Options(**options), **arguments)
