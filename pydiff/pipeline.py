"""What a user holds: `pydiff.load()` and the pipeline's methods, one per task."""

from __future__ import annotations

import os
from collections.abc import Generator as Iterates
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydiff._optional import TORCH, optional
from pydiff.picture_tasks import PictureTasks, Watch, check_output_type, finish, make_call

if TYPE_CHECKING:
    import torch

    from pydiff.arrays import Array
    from pydiff.cascade import Cascade
    from pydiff.tasks.choices import Choice
    from pydiff.tasks.inverted import Inverted
    from pydiff.tasks.run import Preview, Result
    from pydiff.tasks.words import Prompt

EMBEDDED = ("base", "super_256", "super_1024")
EMBEDDED_NAME = "pydiff-embedded"  # in settings
SHIPPED = {  # folders of the models that pydiff carries
    EMBEDDED_NAME: EMBEDDED,
    "pydiff-palette": ("palette",),
    "pydiff-instruct": ("instruct", *EMBEDDED[1:]),
}
Model = str | os.PathLike[str]
DTYPES = ("float32", "bfloat16", "float16")


def load(
    model: Model | Sequence[Model] | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    variant: str | None = None,
    tokenizer: Model | None = None,
    prediction_type: str | None = None,
    provider: str | None = None,
    ahead: bool = False,
    int8: bool = False,
    compile: bool | str = False,
) -> Pipeline:
    """Open a pipeline: the embedded cascade, a folder in the diffusers layout, one folder per stage (small first), a
    single safetensors file of Stable Diffusion, the id of a repository on the Hugging Face hub, or a folder that
    `pydiff export` wrote, which runs on ONNX Runtime without torch. "pydiff-palette" and "pydiff-instruct" are the
    other models that pydiff carries, for `Pipeline.restore` and `Pipeline.instruct`; "pydiff-embedded" is the cascade
    by its name. Where there is no torch, or a provider is given, those run exported too.

    dtype: float32 (the default), bfloat16 or float16 of the networks, torch's or the name. device: "cpu" unless said.
    variant: "fp16" and the like, of the files to read. For a single file, which holds neither: tokenizer, a folder with
    CLIP's (or of a pipeline with it), and prediction_type, "epsilon" for Stable Diffusion 2 base. An exported folder
    takes none of these, and alone takes provider, what ONNX Runtime runs on: "cpu" unless said, "cuda" or "tensorrt".
    ahead: on ONNX Runtime, open the first graphs of a model that pydiff carries on a thread while the rest is imported,
    in a process that wants its first picture soon and does not fork before it. int8: products in the U-Nets' wide
    layers are of bytes, an approximation, off by default, on CPUs with AVX-512 VNNI: weights are rounded to 127 steps
    of the largest of an output, and what they are multiplied by, of the largest of an item.
    compile: networks and autoencoders by torch.compile, in its mode "default" (True) or one that is named: in place of
    plans on a CPU, inside of CUDA graphs on a GPU. The first call of a size takes minutes; one that would be compiled
    again raises `pydiff.runtime.compiled.RecompiledError`. Edits and captures run as without it.
    Nothing but a hub id is fetched, and no code of a checkpoint is run. Raises ValueError, by name, for what is
    missing, corrupt, unsafe or of a kind that pydiff does not run.
    """
    how: dict[str, Any] = {"dtype": dtype, "device": device, "variant": variant}
    how |= {"tokenizer": tokenizer, "prediction_type": prediction_type}
    how |= {"int8": int8 or None, "compile": compile or None}
    name = EMBEDDED_NAME if model is None else model
    if isinstance(name, str) and name in SHIPPED:
        return Pipeline(_shipped(name, how, provider, ahead))
    paths = [model] if isinstance(model, (str, os.PathLike)) else model
    if not isinstance(paths, Sequence) or not paths or not all(isinstance(path, (str, os.PathLike)) for path in paths):
        raise ValueError(f"model is {model!r}; expected a folder, or a list of one folder per stage")
    from pydiff.runtime.manifest import is_exported

    exported = [Path(path) for path in paths if is_exported(Path(path))]
    if not exported:
        return Pipeline(_from_weights(list(paths), " ".join(map(str, paths)), how, provider))
    if len(paths) > 1:
        raise ValueError(f"{exported[0]} is an exported folder, which holds all stages of its model; give it alone")
    return Pipeline(_from_export(exported[0], how, provider))


def _shipped(name: str, how: dict[str, Any], provider: str | None, ahead: bool) -> Cascade:
    """A model that pydiff carries: by torch, or by ONNX Runtime where a provider is given or there is no torch."""
    if provider is not None or not _has_torch():
        from pydiff.runtime.shipped import open_shipped

        _check_exported(how, name)
        return open_shipped(SHIPPED[name], name, provider, ahead=ahead)
    home = Path(__file__).parent / "embedded" / "weights"
    return _from_weights([home / folder for folder in SHIPPED[name]], name, how, provider)


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def _from_export(folder: Path, how: dict[str, Any], provider: str | None) -> Cascade:
    from pydiff.runtime.opening import open_exported

    _check_exported(how, str(folder))
    return open_exported(folder, provider)


def _check_exported(how: dict[str, Any], name: str) -> None:
    for option, value in how.items():
        if value is not None:
            raise ValueError(
                f"{option} is {value!r}, which is torch's, but ONNX Runtime runs {name} here; leave it out: its "
                "device is provider, 'cpu', 'cuda' or 'tensorrt'"
            )


def _from_weights(models: Sequence[Model], name: str, how: dict[str, Any], provider: str | None) -> Cascade:
    if provider is not None:
        raise ValueError(f"provider is {provider!r}, but {name} is no exported folder; leave it out, or export that")
    torch = optional("torch", TORCH, f"{name}, which is no folder that `pydiff export` wrote,")
    from pydiff.folders import open_cascade
    from pydiff.runtime.compiled import check_mode
    from pydiff.runtime.fastest import fastest_cascade

    dtype, device, int8 = how["dtype"], how["device"], bool(how.pop("int8"))
    mode = check_mode(how.pop("compile") or False)
    if int8 and mode is not None:
        raise ValueError(f"int8 is of plans, in whose place compile={mode!r} runs networks; leave one of them out")
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}, or torch's")
    named = getattr(torch, dtype or "float32") if dtype is None or isinstance(dtype, str) else dtype
    opened = open_cascade(models, name=name, **{**how, "dtype": named, "device": "cpu" if device is None else device})
    return fastest_cascade(opened, mode, int8=int8)


class Pipeline(PictureTasks):
    """A loaded model. It holds no state between calls: many threads may use one.

    Every task takes, beside its own arguments: negative_prompt; seed, an int s (pictures get s, s + 1, ...) or one per
    picture: the same seed gives the same picture in any batch, and the one that diffusers makes; generator, a
    torch.Generator per picture instead; num_images_per_prompt; callback_on_step_end, called as diffusers calls it
    (run, step, t, {"latents": x}): it may return {"latents": other} and set run.interrupt = True; and by name every
    option of `pydiff.tasks.plan.Options`, `pydiff.tasks.begin.Micro`, `pydiff.tasks.request.Call`,
    `pydiff.tasks.heat.HeatOptions` (capture=["circle"]: where words look, in `Result.heat`) and
    `pydiff.tasks.classifier.ClassifierOptions` (classifier=f). output_type is pil, np (B, H, W, 3) or pt (B, 3, H, W),
    both in [0, 1], or latent; watch is called with every state. A ValueError before any work says what does not fit.
    """

    @property
    def sizes(self) -> tuple[int, ...]:
        """The larger sides of the pictures that the stages make, in pixels."""
        return self.cascade.sizes

    @property
    def attention_layers(self) -> dict[str, str]:
        """The layers of attention of the first stage, by the names that options take (pag_layers, mutual_layers and
        others), and what each attends to: "pixels", "text", or "text and pixels" in one softmax."""
        return dict(self.cascade.stages[0].unet.attention)

    def choices(self) -> list[Choice]:
        """What this model runs of every task, condition, algorithm, thresholding and sampling, and for all else the
        reason why it is refused: see `pydiff.tasks.choices.Choice`."""
        from pydiff.tasks.choices import choices

        return choices(self.cascade)

    def generate(
        self,
        prompt: Prompt = None,
        *,
        size: int | None = None,
        height: int | None = None,
        width: int | None = None,
        latents: Array | None = None,
        cross_frame: bool = False,
        output_type: str = "pil",
        watch: Watch = None,
        **arguments: Any,
    ) -> Result:
        """Make pictures of prompts.

        prompt: a string or a list; the empty one asks for any picture; None for a model that reads no words. size: that
        of a stage, in `sizes`; the stages up to it run. height, width: of the last picture, where they are not its own.
        latents (B, C, h, w): the noise to begin from. cross_frame: the pictures look like the first one, to whose
        pixels those of the others attend in the first stage; settings of these ask for both. Other arguments: see
        `Pipeline`; a list holds one value per stage, anything else is for the first. A word that the model never saw is
        warned of.
        """
        from pydiff.tasks.generate import generate

        check_output_type(output_type)
        call = make_call(prompt, arguments)
        how: dict[str, Any] = {"size": size, "height": height, "width": width, "latents": latents}
        return finish(generate(self.cascade, call, **how, cross_frame=cross_frame), output_type, watch)

    def stream(
        self,
        prompt: Prompt = None,
        *,
        size: int | None = None,
        height: int | None = None,
        width: int | None = None,
        latents: Array | None = None,
        cross_frame: bool = False,
        **arguments: Any,
    ) -> Iterates[Preview, None, None]:
        """The run of `generate` as it goes: one state per step of every stage, whose `image` is the picture so far.

        Takes `generate`'s arguments but output_type and watch, and checks them at once; `close()` ends the run.
        """
        from pydiff.tasks.generate import generate
        from pydiff.tasks.run import previews

        call = make_call(prompt, arguments)
        how: dict[str, Any] = {"size": size, "height": height, "width": width, "latents": latents}
        return previews(generate(self.cascade, call, **how, cross_frame=cross_frame))

    def edit(
        self,
        source: str | Inverted,
        target: str | Sequence[str] | None = None,
        *,
        size: int | None = None,
        height: int | None = None,
        width: int | None = None,
        latents: Array | None = None,
        output_type: str = "pil",
        watch: Watch = None,
        **arguments: Any,
    ) -> Result:
        """Edit a picture by editing its prompt: pictures of the source and of every target, from one seed.

        By name every field of `pydiff.tasks.edit_options.EditOptions` (cross_replace, reweight, local_blend and
        others); without a target, reweight={"fluffy": 2.0} edits the source's own words. method: "prompt_to_prompt", or
        with options of their own "masactrl" (`MutualOptions`: the source's things in the target's layout) and
        "plug_and_play" (`PlugOptions`: the source's layout in the target's looks). function: f(source_map, target_map,
        progress) -> map in place of all that in function_layers; slow, for it forms the maps. Only the first stage is
        edited. latents (1, C, h, w): the noise that all begin from. Otherwise as `generate`.

        source: also what `invert` made of a picture; its sides, noise and way of sampling are then the inversion's.
        """
        from pydiff.tasks.edit import edit
        from pydiff.tasks.inverted import Inverted
        from pydiff.tasks.reconstruct import check_no_sides, edit_inverted

        check_output_type(output_type)
        call = make_call(None, arguments)
        if isinstance(source, Inverted):
            check_no_sides(height=height, width=width, latents=latents)
            return finish(edit_inverted(self.cascade, source, target, call, size=size), output_type, watch)
        wanted = edit(self.cascade, source, target, call, size=size, height=height, width=width, latents=latents)
        return finish(wanted, output_type, watch)

    def invert(
        self, image: Any, prompt: str, *, size: int | None = None, watch: Watch = None, **arguments: Any
    ) -> Inverted:
        """Find the noise that leads to a picture, so that `edit` and `reconstruct` can begin from it.

        image: one picture, as `image_to_image` takes it. prompt: what it shows. size: of the last stage that will run
        on the result. By name every field of `pydiff.tasks.invert.InvertOptions` (method, measure and others).
        num_inference_steps is 50 unless said. An exception in watch ends the inversion and leaves nothing behind.
        """
        from pydiff.tasks.invert import find, invert

        return find(invert(self.cascade, image, make_call(prompt, arguments), size=size), watch)

    def reconstruct(
        self,
        inverted: Inverted,
        *,
        size: int | None = None,
        output_type: str = "pil",
        watch: Watch = None,
        **arguments: Any,
    ) -> Result:
        """Make a picture again that `invert` inverted. Stages after the first make it larger, as `generate` does."""
        from pydiff.tasks.reconstruct import reconstruct

        return self._finish(reconstruct, output_type, watch, inverted, call=make_call(None, arguments), size=size)
