"""What a user holds: `pydiff.load()` and the pipeline's methods, one per task."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from collections.abc import Generator as Iterates
from pathlib import Path
from typing import Any

import torch

from pydiff.cascade import Cascade, State
from pydiff.folders import open_cascade
from pydiff.tasks import generate as generation
from pydiff.tasks.generate import Preview, Request, Result
from pydiff.tasks.plan import check_output_type, make_options

EMBEDDED = ("base", "super_256", "super_1024")
EMBEDDED_NAME = "pydiff-embedded"  # in settings
Words = str | Sequence[str] | None
Seed = int | Sequence[int] | None
Generator = torch.Generator | Sequence[torch.Generator] | None


def load(model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None) -> Pipeline:
    """Open a pipeline: the embedded cascade, a folder in the diffusers layout, or one folder per stage, small first.

    Nothing is fetched and no code of a checkpoint is run. Raises ValueError, by name, for what is missing, corrupt,
    unsafe or of a kind that pydiff does not run.
    """
    if model is None:
        home = Path(__file__).parent / "embedded" / "weights"
        return Pipeline(open_cascade([home / name for name in EMBEDDED], name=EMBEDDED_NAME))
    paths = [model] if isinstance(model, (str, os.PathLike)) else model
    if not isinstance(paths, Sequence) or not paths or not all(isinstance(path, (str, os.PathLike)) for path in paths):
        raise ValueError(f"model is {model!r}; expected a folder, or a list of one folder per stage")
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
        negative_prompt: Words = "",
        seed: Seed = None,
        generator: Generator = None,
        num_images_per_prompt: int = 1,
        size: int | None = None,
        output_type: str = "pil",
        watch: Callable[[State], object] | None = None,
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

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: Words = "",
        seed: Seed = None,
        generator: Generator = None,
        num_images_per_prompt: int = 1,
        size: int | None = None,
        **options: Any,
    ) -> Iterates[Preview, None, None]:
        """The run of `generate` as it goes: one state per step of every stage, whose `image` is the picture so far.

        Takes `generate`'s arguments but output_type and watch, and checks them at once; `close()` ends the run.
        """
        wanted = self._request(
            prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            generator=generator,
            num_images_per_prompt=num_images_per_prompt,
            size=size,
            options=options,
        )
        return (Preview(state) for state in generation.states(wanted))

    def upscale(
        self,
        image: Any,
        prompt: str = "",
        *,
        seed: int | None = None,
        generator: Generator = None,
        size: int | None = None,
        output_type: str = "pil",
        watch: Callable[[State], object] | None = None,
        **options: Any,
    ) -> Result:
        """Run the super-resolution stages alone on a square picture: PIL, a path, (H, W, 3) uint8, or floats in [0, 1].

        The stages that make it larger run, up to `size`; the first takes it, whatever its side, for the picture of the
        stage before. Otherwise as `generate`.
        """
        check_output_type(output_type)
        wanted = self._request(prompt, seed=seed, generator=generator, size=size, image=image, options=options)
        return generation.generate(wanted, output_type, watch)

    def _request(self, prompt: str | Sequence[str], *, options: dict[str, Any], **arguments: Any) -> Request:
        return generation.request(self.cascade, prompt, options=make_options(options), **arguments)
