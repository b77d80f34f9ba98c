"""The tasks that begin from a picture, as a pipeline's methods. Each imports its task when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from pydiff.cascade import Cascade, State
    from pydiff.tasks.request import Call
    from pydiff.tasks.run import Request, Result
    from pydiff.tasks.words import Prompt

Watch: TypeAlias = "Callable[[State], object] | None"


def check_output_type(output_type: str) -> None:
    from pydiff import images

    images.check_output_type(output_type)


def make_call(prompt: Prompt, arguments: Mapping[str, Any]) -> Call:
    from pydiff.tasks import request

    return request.make_call(prompt, arguments)


def finish(wanted: Request, output_type: str, watch: Watch) -> Result:
    from pydiff.tasks import run

    return run.finish(wanted, output_type, watch)


class PictureTasks:
    """Those methods of `pydiff.pipeline.Pipeline`, whose docstring says what all of them take."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade

    def image_to_image(
        self,
        image: Any,
        prompt: Prompt = None,
        *,
        size: int | None = None,
        output_type: str = "pil",
        watch: Watch = None,
        **arguments: Any,
    ) -> Result:
        """Change a picture: PIL, a path, (H, W, 3) uint8, floats in [0, 1], or latents (B, C, h, w).

        strength: in (0, 1], how much of the way back to noise it goes (0.8). With denoising_start in its place, latents
        that another run left there with denoising_end are taken over.
        """
        from pydiff.tasks.image_to_image import image_to_image

        return self._finish(image_to_image, output_type, watch, image, call=make_call(prompt, arguments), size=size)

    def inpaint(
        self,
        image: Any,
        mask: Any,
        prompt: Prompt = None,
        *,
        example: Any = None,
        size: int | None = None,
        output_type: str = "pil",
        watch: Watch = None,
        **arguments: Any,
    ) -> Result:
        """Fill the white part of the mask, keep the black one. mask: PIL, a path, (H, W) bools, uint8 or floats.

        example: in the place of a prompt, for a model that paints by example: a picture, given as image is, of what to
        paint there. The model sees the square in its middle.
        """
        from pydiff.cascade import EXAMPLE
        from pydiff.tasks.inpaint import inpaint
        from pydiff.tasks.paint_by_example import paint_by_example

        call = make_call(prompt, arguments)
        if example is not None or self.cascade.stages[0].kind == EXAMPLE:
            if size is not None:
                raise ValueError(f"size is {size!r}, but painting by example keeps the picture's size; leave it out")
            return self._finish(paint_by_example, output_type, watch, image, mask, example, call=call)
        return self._finish(inpaint, output_type, watch, image, mask, call=call, size=size)

    def outpaint(
        self,
        image: Any,
        prompt: Prompt = None,
        *,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        size: int | None = None,
        output_type: str = "pil",
        watch: Watch = None,
        **arguments: Any,
    ) -> Result:
        """Enlarge the canvas by so many pixels at each side, and fill what is new; what was given comes back as it is.

        The prompt describes the whole. A canvas larger than the model's own size is made in overlapping windows, each
        of which reads all of the prompt: one that sees little of the picture draws its things again. So to go on
        with the background, name it alone ("a white background").
        window_overlap: the share of a window's side that the next one shares, in [0, 0.9] (0.75). method, jump_length
        and the other options, and size: as for `inpaint`.
        """
        from pydiff.tasks.outpaint import outpaint

        sides = {"left": left, "right": right, "top": top, "bottom": bottom}
        return self._finish(outpaint, output_type, watch, image, make_call(prompt, arguments), sides, size=size)

    def instruct(
        self,
        image: Any,
        prompt: Prompt = None,
        *,
        size: int | None = None,
        output_type: str = "pil",
        watch: Watch = None,
        **arguments: Any,
    ) -> Result:
        """Change a picture as the prompt says, with a model that follows instructions, as "pydiff-instruct" does.

        guidance_scale: how closely to follow the words; image_guidance_scale: how closely to keep to the picture. size:
        of the picture to make, for a cascade of pixels: by default the largest stage's that does not exceed the image.
        """
        from pydiff.tasks.instruct import instruct

        return self._finish(instruct, output_type, watch, image, call=make_call(prompt, arguments), size=size)

    def upscale(
        self,
        image: Any,
        prompt: Prompt = None,
        *,
        size: int | None = None,
        output_type: str = "pil",
        watch: Watch = None,
        **arguments: Any,
    ) -> Result:
        """Run the super-resolution stages alone on a picture: PIL, a path, (H, W, 3) uint8, or floats in [0, 1].

        The stages that make it larger run, up to `size`; the first takes it, whatever its side, for the picture of the
        stage before. Otherwise as `generate`.
        """
        from pydiff.tasks.generate import upscale

        return self._finish(upscale, output_type, watch, image, call=make_call(prompt, arguments), size=size)

    def variations(
        self,
        image: Any,
        *,
        size: int | None = None,
        output_type: str = "pil",
        watch: Watch = None,
        **arguments: Any,
    ) -> Result:
        """Pictures that CLIP finds like the one given, with an unCLIP model of variations."""
        from pydiff.tasks.unclip import variations

        return self._finish(variations, output_type, watch, image, call=make_call("", arguments), size=size)

    def restore(
        self,
        image: Any,
        task: str,
        mask: Any = None,
        *,
        output_type: str = "pil",
        watch: Watch = None,
        **arguments: Any,
    ) -> Result:
        """Restore a damaged picture with a model of Palette's kind: `pydiff.load("pydiff-palette")` is one, which knows
        flat shapes at 64x64 pixels.

        task: "colorize" (a grey picture), "inpaint" (fill the white part of the mask), "uncrop" (the same, where what
        is known is one rectangle: put the picture on a larger canvas) or "jpeg" (what JPEG of a low quality left of a
        picture). Only inpaint and uncrop take a mask, and need it: as `inpaint` takes it, white = missing; what is
        black comes back unchanged. The picture keeps its size. No words are read.
        """
        from pydiff.tasks.restore import restore

        return self._finish(restore, output_type, watch, image, task, mask, call=make_call(None, arguments))

    def _finish(
        self, task: Callable[..., Request], output_type: str, watch: Watch, *given: Any, **options: Any
    ) -> Result:
        check_output_type(output_type)
        return finish(task(self.cascade, *given, **options), output_type, watch)
