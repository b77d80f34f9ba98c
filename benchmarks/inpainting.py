"""What filling a hole costs: `python -m benchmarks.tasks inpaint`.

RePaint and Stable Diffusion's two ways of inpainting beside diffusers' pipelines, on small networks of random weights
with the same counts, pictures compared before a time is printed; the embedded cascade's inpainting, what a network call
of it costs beside a bare one, and four masks in a batch beside four runs. float32.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import pydiff
from benchmarks.measure import Table, interleaved
from pydiff.diffusion import loop
from pydiff.tasks.begin import Now
from pydiff.tasks.inpaint import inpaint
from pydiff.tasks.request import make_call
from pydiff.tasks.words import encode_all
from pydiff.walk import Network

TOLERANCE = 2e-3  # of pictures in [0, 1], in float32
SEED = 7
PROMPT = "a red circle left of a blue square on a white background"
JUMPS = {"num_inference_steps": 10, "jump_length": 3, "jump_n_sample": 2}
COLUMNS = ("", "pydiff s", "diffusers s", "ratio", "difference")
Array = NDArray[Any]
Maker = Callable[[], Array]


def picture(side: int) -> Array:
    """(side, side, 3) bytes."""
    return np.random.default_rng(SEED).integers(0, 256, (side, side, 3), np.uint8)


def hole(side: int, top: int = 0) -> Array:
    """(side, side) bools: a quarter of a picture."""
    mask = np.zeros((side, side), bool)
    mask[top : top + side // 2, side // 4 : 3 * side // 4] = True
    return mask


def as_tensors(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The picture (1, 3, side, side) in [0, 1] and the hole (1, 1, side, side), as diffusers takes them."""
    given = torch.from_numpy(picture(side)).permute(2, 0, 1)[None].float() / 255
    return given, torch.from_numpy(hole(side))[None, None].float()


def pixels(folder: Path) -> tuple[Maker, Maker]:
    """RePaint of a U-Net of pixels at 32x32; as many steps as there are timesteps, for diffusers' levels are right
    there alone."""
    import diffusers
    from diffusers.pipelines.deprecated.repaint.pipeline_repaint import RePaintPipeline

    torch.manual_seed(SEED)
    network: Any = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    levels: Any = {"num_train_timesteps": JUMPS["num_inference_steps"], "beta_start": 0.005, "beta_end": 0.4}
    plain: Any = diffusers.DDIMPipeline(network.eval(), diffusers.DDIMScheduler(**levels))
    plain.save_pretrained(folder)
    theirs: Any = RePaintPipeline(network, diffusers.RePaintScheduler(**levels))
    theirs.set_progress_bar_config(disable=True)
    ours, (given, mask) = pydiff.load(folder), as_tensors(32)

    def other() -> Array:
        generator = torch.Generator().manual_seed(SEED)
        call: Any = {**JUMPS, "eta": 1.0, "generator": generator, "output_type": "np"}
        made: Array = theirs(given * 2 - 1, 1 - mask, **call).images
        return made

    how: Any = {**JUMPS, "eta": 1.0, "sampler": "ddim", "faithful": True, "compat": "diffusers", "output_type": "np"}
    return lambda: np.asarray(ours.inpaint(picture(32), hole(32), seed=SEED, **how).images), other


def latents(channels: int, folder: Path) -> tuple[Maker, Maker]:
    """A small Stable Diffusion, whose latents are half of the picture's sides."""
    from tests.checkpoints import makers

    unet = {"in_channels": channels, "block_out_channels": (64, 128), "attention_head_dim": 8, "norm_num_groups": 8}
    theirs = makers.stable_diffusion(folder, "StableDiffusionInpaintPipeline", unet=unet)
    ours = pydiff.load(folder)
    given, mask = as_tensors(64)
    call: Any = {"prompt": "the red cat on a table", "num_inference_steps": 10, "output_type": "np"}

    def other() -> Array:
        how = {**call, "generator": torch.Generator().manual_seed(SEED), "height": 64, "width": 64}
        made: Array = theirs(image=given, mask_image=mask, **how).images
        return np.where(hole(64)[..., None], made, picture(64) / np.float32(255))

    return lambda: np.asarray(ours.inpaint(picture(64), hole(64), seed=SEED, **call).images), other


def compare(rounds: int) -> Table:
    warnings.simplefilter("ignore")
    table = Table("filling a hole, float32", COLUMNS)
    makers: dict[str, Callable[[Path], tuple[Maker, Maker]]] = {
        "RePaint, 32x32 pixels": pixels,
        "9 channels, 64x64": partial(latents, 9),
        "blending, 64x64": partial(latents, 4),
    }
    for name, make in makers.items():
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = make(Path(folder))
            add_compared(table, name, ours, theirs, rounds)
    return table


def add_compared(table: Table, name: str, ours: Maker, theirs: Maker, rounds: int) -> None:
    difference = float(np.abs(ours() - theirs()).max())
    if not difference < TOLERANCE:
        raise SystemExit(f"{name}: the pictures differ by {difference:.1e}; no time is printed on a red check")
    times = interleaved({"ours": ours, "theirs": theirs}, rounds)
    ratio = times["theirs"].median / times["ours"].median
    table.add(name, times["ours"], times["theirs"], f"{ratio:.2f}", f"{difference:.0e}")


def embedded(pipe: pydiff.Pipeline, rounds: int) -> Table:
    """The embedded cascade's first stage."""
    table = Table("embedded cascade, 64x64, a hole of a quarter, float32", ("", "seconds", "network calls"))
    methods: dict[str, dict[str, Any]] = {"blend": {}, "repaint": {"jump_length": 5, "jump_n_sample": 2}}
    calls = {name: {"method": name, "seed": SEED, **options} for name, options in methods.items()}
    runs = {name: partial(pipe.inpaint, picture(64), hole(64), PROMPT, **call) for name, call in calls.items()}
    for name, timed in interleaved(runs, rounds).items():
        plan = inpaint(pipe.cascade, picture(64), hole(64), make_call(PROMPT, calls[name])).plans[0]
        table.add(name, timed, plan.table.evaluations)
    return table


def overhead(pipe: pydiff.Pipeline, rounds: int) -> Table:
    """A run's rows, what is known put back after each, and as many calls of the network on the same input."""
    options = {"method": "repaint", "num_inference_steps": 10, "jump_length": 5, "jump_n_sample": 2, "seed": SEED}
    wanted = inpaint(pipe.cascade, picture(64), hole(64), make_call(PROMPT, options))
    assert wanted.words is not None
    plan, (told,) = wanted.plans[0], encode_all(wanted.words, wanted.encoders, wanted.guided)
    start = wanted.begins[0](Now(plan, told, wanted.noise, None, wanted.micro))
    network, unet = Network(plan, start), plan.stage.unet
    sampled = partial(
        loop.sample,
        network,
        plan.table,
        plan.guidance,
        x=start.x,
        noise=start.noise,
        prediction_type=plan.stage.sampling.prediction_type,
        threshold=plan.threshold,
        known=start.known,
    )

    @torch.inference_mode()
    def run() -> None:
        for _ in sampled():
            pass

    run()
    ((_, cond),) = next(iter(network.prepared.values()))
    given = torch.cat([start.x] * len(start.branches)).contiguous(memory_format=torch.channels_last)
    times = [torch.full((), row.t) for row in plan.table.rows if row.evaluate]

    @torch.inference_mode()
    def bare() -> None:
        for t in times:
            unet(given, t, cond)

    measured = interleaved({"run": run, "bare": bare}, rounds)
    table = Table(
        "a network call of RePaint beside a bare one, 64x64", ("network calls", "run s", "bare s", "overhead")
    )
    ratio = measured["run"].median / measured["bare"].median - 1
    table.add(len(times), measured["run"], measured["bare"], f"{ratio:.1%}")
    return table


def batch(pipe: pydiff.Pipeline, rounds: int) -> Table:
    """Four masks of one picture at once, and one after the other."""
    masks = [hole(64, top) for top in (0, 10, 20, 30)]
    call: Any = {"num_inference_steps": 10, "output_type": "np"}

    def together() -> Array:
        return np.asarray(pipe.inpaint(picture(64), masks, PROMPT, seed=[1, 2, 3, 4], **call).images)

    def alone() -> Array:
        runs = [pipe.inpaint(picture(64), mask, PROMPT, seed=seed + 1, **call) for seed, mask in enumerate(masks)]
        return np.concatenate([run.images for run in runs])

    table = Table("four masks, embedded cascade, 64x64", ("", "in a batch s", "alone s", "ratio", "difference"))
    add_compared(table, "blend", together, alone, rounds)
    return table


def tables(rounds: int) -> list[Table]:
    pipe = pydiff.load()
    return [compare(rounds), embedded(pipe, rounds), overhead(pipe, rounds), batch(pipe, rounds)]
