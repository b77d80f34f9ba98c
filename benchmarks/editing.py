"""What an edit costs: `python -m benchmarks.tasks edit`.

A source and a target by Prompt-to-Prompt, with and without capturing a word and blending locally, beside two pictures
of one batch, and beside the same edit in diffusers with attention processors that form the maps. On the embedded base
network and on Stable Diffusion 1.5's configuration with random weights at 256x256; float32, without the autoencoder.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import pydiff
from benchmarks.materialised import Maps, Processor
from benchmarks.measure import Table, interleaved, peak_memory
from benchmarks.workloads import SD15, WEIGHTS, random_weights
from pydiff.pipeline import EMBEDDED
from pydiff.tasks.columns import prompt_columns
from pydiff.tasks.edit import borrowing
from pydiff.tasks.edit_options import EditOptions
from pydiff.tasks.words import make_words

TOLERANCE = 2e-3  # of latents of about 1, in float32
GUIDANCE, SEED = 5.0, 7
OPTIONS: dict[str, Any] = {"cross_replace": 0.8, "self_replace": 0.4, "pooled_replace": 0.0, "spatial_replace": 0.0}
MODELS = ("embedded", "sd15")


Maker = Callable[[], Tensor]


class Model(NamedTuple):
    """A folder, how it is sampled, and an edit that fits its words."""

    folder: Path
    steps: int
    source: str
    target: str
    word: str

    @property
    def call(self) -> dict[str, Any]:
        return {"num_inference_steps": self.steps, "guidance_scale": GUIDANCE, "output_type": "latent"}


def embedded() -> Model:
    words = "a {} circle left of a blue square on a white background"
    return Model(WEIGHTS / EMBEDDED[0], 25, words.format("red"), words.format("green"), "circle")


def stable_diffusion(folder: Path) -> Model:
    """Stable Diffusion 1.5's U-Net and text encoder of random weights; its autoencoder is small, for nothing is
    decoded."""
    import diffusers
    from transformers import CLIPTextModel

    from tests.checkpoints import makers

    model = Model(folder, 2, "the red cat on a table", "the red dog on a table", "table")
    if (folder / "model_index.json").is_file():
        return model
    text = makers.text_config(768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12)
    vae = {"block_out_channels": (8,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4}
    pipeline: Any = diffusers.StableDiffusionPipeline(
        vae=makers.vae(**vae, up_block_types=("UpDecoderBlock2D",) * 4),
        unet=random_weights(diffusers.UNet2DConditionModel(**SD15)),
        text_encoder=random_weights(CLIPTextModel(text)),
        tokenizer=makers.tokenizer(folder / "tokenizer"),
        scheduler=makers.scheduler("ddim"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return model


@functools.cache
def opened(folder: Path) -> pydiff.Pipeline:
    """One for all contenders, which are its tasks: a plan's weights are twice the network's."""
    return pydiff.load(folder)


def pydiff_maker(model: Model, contender: str) -> Maker:
    """Latents of source and target: both without an edit, by an edit, or with all that it may capture."""
    pipe = opened(model.folder)
    if contender == "two pictures":
        return lambda: pipe.generate([model.source, model.target], seed=[SEED, SEED], **model.call).images
    more: dict[str, Any] = {"local_blend": model.word, "capture": [model.word]} if "capture" in contender else {}
    return lambda: pipe.edit(model.source, model.target, seed=SEED, **model.call, **OPTIONS, **more).images


def formed_maker(model: Model, contender: str) -> Maker:
    """The same edit in diffusers, with the maps."""
    import diffusers

    warnings.simplefilter("ignore")
    diffusers.utils.logging.disable_progress_bar()
    text = opened(model.folder).cascade.stages[0].text
    assert text is not None
    prompts, options = [model.source, model.target], EditOptions(**OPTIONS)
    table = borrowing(prompt_columns(text, make_words(prompts), True), model.steps, [options]).table
    theirs: Any = diffusers.DiffusionPipeline.from_pretrained(model.folder, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)

    def make() -> Tensor:
        maps = Maps(table, options.pixels)
        theirs.unet.set_attn_processor(Processor(maps))
        call = {**model.call, "generator": [torch.Generator().manual_seed(SEED) for _ in prompts]}
        if hasattr(theirs, "vae"):
            made: Tensor = theirs(prompts, **call, callback_on_step_end=maps.step).images
            return made
        with torch.inference_mode():
            states, null = (part.states for part in text.encode_pair(prompts, [None] * len(prompts)))
        call |= {"prompt_embeds": states, "negative_prompt_embeds": null, "output_type": "pt"}
        made = theirs(**call, callback=lambda step, t, x: maps.step(None, step, t, {})).images
        return made

    return make


MAKERS: dict[str, Callable[[Model, str], Maker]] = {
    **dict.fromkeys(("two pictures", "edit", "edit, blend, capture"), pydiff_maker),
    "maps formed": formed_maker,
}


def compare(name: str, model: Model, rounds: int) -> Table:
    contenders = {contender: build(model, contender) for contender, build in MAKERS.items()}
    made = {contender: make() for contender, make in contenders.items()}
    difference = (made["edit"] - made["maps formed"]).abs().max().item()
    if not difference < TOLERANCE:
        raise SystemExit(f"{name}: edit and formed maps differ by {difference:.1e}; no time is printed on a red check")
    times = interleaved(contenders, rounds, warm=True)
    columns = ("", "seconds", "of two pictures", "peak memory, MiB", "difference from formed maps")
    table = Table(f"{name}: a source and a target, {model.steps} steps, float32", columns)
    for contender, timed in times.items():
        ratio = timed.median / times["two pictures"].median
        memory = _child(name, contender, model) if name == "embedded" else ""  # of others it is that of their weights
        table.add(contender, timed, f"{ratio:.3f}", memory, f"{difference:.0e}" if contender == "edit" else "")
    return table


def _child(name: str, contender: str, model: Model) -> int:
    """Peak memory of a process that does this alone, in MiB."""
    command = [sys.executable, "-m", "benchmarks.tasks", "edit", "--child", name, contender, str(model.folder)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def child(name: str, contender: str, folder: str) -> None:
    model = embedded() if name == "embedded" else stable_diffusion(Path(folder))
    MAKERS[contender](model, contender)()
    print(peak_memory())


def tables(names: list[str], rounds: int) -> list[Table]:
    with tempfile.TemporaryDirectory() as folder:
        models = {"embedded": embedded, "sd15": lambda: stable_diffusion(Path(folder))}
        return [compare(name, models[name](), rounds) for name in names]
