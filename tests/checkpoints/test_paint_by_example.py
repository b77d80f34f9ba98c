"""Paint by Example: a hole is filled with the thing that a picture shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import pydiff
from pydiff.images import to_pil
from pydiff.vision import ExampleEncoder
from tests.checkpoints import broken, makers
from tests.checkpoints.test_pictures import picture

RUN, EXACT = 5e-4, 1e-8
HEIGHT, WIDTH = 24, 40
STEPS = {"num_inference_steps": 4}
LATENT: dict[str, Any] = {**STEPS, "output_type": "latent"}


class Pair(NamedTuple):
    theirs: Any
    ours: pydiff.Pipeline

    def expected(self, task: Task, seeds: list[int], **call: Any) -> torch.Tensor:
        """Of one picture and several seeds diffusers draws latents with the first seed: give it several pictures."""
        images = {"image": [task.image], "mask_image": [task.mask], "example_image": [task.example]}
        given = {name: value * len(seeds) for name, value in images.items()}
        made: torch.Tensor = self.theirs(**given, generator=makers.generators(seeds), **call).images
        return made

    def made(self, task: Task, seeds: list[int], **call: Any) -> torch.Tensor:
        count = {"num_images_per_prompt": len(seeds), "seed": seeds}
        made: torch.Tensor = self.ours.inpaint(task.image, task.mask, example=task.example, **count, **call).images
        return made


class Task(NamedTuple):
    image: Image.Image
    mask: Image.Image
    example: Image.Image


def as_pil(height: int, width: int, seed: int) -> Image.Image:
    return to_pil(picture(height, width, seed) * 2 - 1)[0]


def task() -> Task:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:18, 9:26] = 255
    return Task(as_pil(HEIGHT, WIDTH, 0), Image.fromarray(mask), as_pil(53, 41, 1))


def opened(folder: Path, sampler: str = "ddim", dtype: torch.dtype = torch.float32) -> Pair:
    theirs = makers.paint_by_example(folder, sampler).to(dtype)
    if dtype == torch.float64:
        makers.widened(theirs.scheduler)
    return Pair(theirs, pydiff.load(folder, dtype=dtype))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return opened(tmp_path_factory.mktemp("example"))


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "pndm"])
@pytest.mark.parametrize("guidance", [None, 1.0])
def test_checkpoints_paint_what_diffusers_paints(tmp_path: Path, sampler: str, guidance: float | None) -> None:
    pair, scale = opened(tmp_path, sampler), {} if guidance is None else {"guidance_scale": guidance}
    expected = pair.expected(task(), [3], **LATENT, **scale)
    made = pair.made(task(), [3], **LATENT, **scale)
    assert made.shape == (1, 4, HEIGHT // 2, WIDTH // 2)
    assert made.std() > 0.1
    torch.testing.assert_close(made, expected, atol=RUN, rtol=0)


def test_checkpoints_paint_batches(pair: Pair) -> None:
    expected = pair.expected(task(), [5, 2, 9], **LATENT)
    made = pair.made(task(), [5, 2, 9], **LATENT)
    torch.testing.assert_close(made, expected, atol=RUN, rtol=0)
    torch.testing.assert_close(made[1:2], pair.made(task(), [2], **LATENT), atol=RUN, rtol=0)


def test_checkpoints_paint_several_pictures_of_one_seed(pair: Pair) -> None:
    """They have that seed and those that follow it."""
    given = task()
    made = pair.ours.inpaint(*given[:2], example=given.example, num_images_per_prompt=2, seed=4, **LATENT).images
    torch.testing.assert_close(made, pair.expected(given, [4, 5], **LATENT), atol=RUN, rtol=0)


@torch.no_grad()
def test_checkpoints_paint_exactly_in_float64(tmp_path: Path) -> None:
    """The example as the network sees it, for preprocessing rounds to float32."""
    pair, given = opened(tmp_path, dtype=torch.float64), task()
    encoder = pair.ours.cascade.stages[0].traits["example"]
    assert isinstance(encoder, ExampleEncoder)
    image, mask = picture(HEIGHT, WIDTH), torch.from_numpy(np.asarray(given.mask) / np.float32(255))[None, None]
    seen = torch.from_numpy(encoder.preprocessing(given.example))[None]
    expected = pair.theirs(
        example_image=seen, image=image * 2 - 1, mask_image=mask, generator=makers.generators([6]), **LATENT
    ).images
    made = pair.ours.inpaint(image, mask, example=given.example, seed=6, **LATENT).images
    torch.testing.assert_close(made.double(), expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpoints_paint_nothing_outside_of_the_hole(pair: Pair, dtype: torch.dtype, tmp_path: Path) -> None:
    given, ours = task(), pair.ours
    if dtype == torch.bfloat16:
        makers.paint_by_example(tmp_path)
        ours = pydiff.load(tmp_path, dtype=dtype)
    made = ours.inpaint(*given[:2], example=given.example, seed=1, num_images_per_prompt=2, **STEPS).images
    hole, image = np.asarray(given.mask) > 0, np.asarray(given.image)
    for one in map(np.asarray, made):
        assert np.array_equal(one[~hole], image[~hole])
        assert (one[hole] != image[hole]).mean() > 0.5


def test_checkpoints_paint_in_the_hole_what_diffusers_paints(pair: Pair) -> None:
    expected = pair.expected(task(), [1], output_type="np", **STEPS)
    made = pair.made(task(), [1], output_type="np", **STEPS)
    hole = np.asarray(task().mask) > 0
    assert np.abs(made - expected)[:, hole].max() < RUN


def test_checkpoints_paint_pictures_of_any_sides(pair: Pair) -> None:
    image, mask = as_pil(25, 31, 0), np.zeros((25, 31), np.uint8)
    mask[4:25, 3:31] = 255
    made = pair.ours.inpaint(image, mask, example=task().example, seed=1, **STEPS)
    assert (made.settings[0]["height"], made.settings[0]["width"]) == (25, 31)
    one = np.asarray(made.images[0])
    assert np.array_equal(one[mask == 0], np.asarray(image)[mask == 0])
    assert (one[mask > 0] != np.asarray(image)[mask > 0]).mean() > 0.5


def test_checkpoints_paint_into_several_pictures(pair: Pair) -> None:
    """Two pictures with a mask each, twice: those of a picture stand together."""
    tasks = [task(), task()._replace(image=as_pil(HEIGHT, WIDTH, 7), mask=task().mask.rotate(180))]
    images, masks = [one.image for one in tasks], [one.mask for one in tasks]
    call = {"num_images_per_prompt": 2, "seed": [1, 2, 3, 4], **LATENT}
    made = pair.ours.inpaint(images, masks, example=task().example, **call).images
    apart = [pair.made(tasks[index // 2], [index + 1], **LATENT) for index in range(4)]
    torch.testing.assert_close(made, torch.cat(apart), atol=RUN, rtol=0)


def test_checkpoints_paint_another_thing(pair: Pair) -> None:
    one = pair.made(task(), [1], **LATENT)
    other = pair.made(task()._replace(example=as_pil(53, 41, 8)), [1], **LATENT)
    assert (one - other).abs().max() > 10 * RUN


def test_checkpoints_paint_by_default_as_diffusers(pair: Pair) -> None:
    stage = pair.ours.cascade.stages[0]
    assert stage.defaults[:2] == (50, 5.0)
    settings = pair.ours.inpaint(*task()[:2], example=task().example, seed=1, num_inference_steps=2).settings[0]
    assert settings["guidance_scale"] == [5.0]
    assert settings["prompt"] is None


def test_checkpoints_paint_with_perturbed_attention(pair: Pair) -> None:
    plain = pair.made(task(), [1], **LATENT)
    perturbed = pair.made(task(), [1], pag_scale=2.0, pag_layers="*", **LATENT)
    assert perturbed.isfinite().all()
    assert (plain - perturbed).abs().max() > RUN


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"example": None}, "paints by example; give example=, a picture of the thing to paint"),
        ({"prompt": "a dog"}, "prompt is given, but this model reads no words; leave it out"),
        ({"negative_prompt": "a dog"}, "negative_prompt is given, but this model reads no words"),
        ({"capture": ["dog"]}, "capture is given, but the first stage of this run attends to no words"),
        ({"example": np.zeros((8, 8), np.uint8)}, r"example has shape \(8, 8\); expected one RGB picture"),
        ({"example": "no.png"}, "no.png does not exist"),
        ({"mask": np.zeros((8, 8), np.uint8)}, r"mask has shape \(8, 8\)"),
        ({"mask": np.zeros((HEIGHT, WIDTH), np.uint8)}, "mask is black everywhere"),
        ({"strength": 0.5}, "strength is 0.5 for stage 1 of a task that takes none there"),
        ({"image_guidance_scale": 2.0}, "this model follows no instructions"),
    ],
)
def test_checkpoints_that_paint_by_example_refuse(pair: Pair, changes: dict[str, Any], message: str) -> None:
    call = {**task()._asdict(), "seed": 1, **STEPS, **changes}
    with pytest.raises(ValueError, match=message):
        pair.ours.inpaint(**call)


def test_checkpoints_that_paint_by_example_do_nothing_else(pair: Pair) -> None:
    hint = r"it paints by example: pipe\.inpaint\(image, mask, example=picture\)"
    for call in (
        lambda: pair.ours.generate(),
        lambda: pair.ours.image_to_image(task().image),
        lambda: pair.ours.instruct(task().image),
        lambda: pair.ours.edit("a cat", "a dog"),
        lambda: pair.ours.restore(task().image, "jpeg"),
    ):
        with pytest.raises(ValueError, match=hint):
            call()


@pytest.mark.parametrize(
    ("kind", "channels", "hint"),
    [
        ("StableDiffusionPipeline", 4, r"it reads words: pipe\.inpaint\(image, mask, prompt\)"),
        ("StableDiffusionInpaintPipeline", 9, r"it fills holes: pipe\.inpaint\(image, mask, prompt\)"),
    ],
)
def test_checkpoints_of_words_take_no_example(tmp_path: Path, kind: str, channels: int, hint: str) -> None:
    makers.stable_diffusion(tmp_path, kind, unet={"in_channels": channels})
    with pytest.raises(ValueError, match=rf"example is given, but .* paints by no example; {hint}"):
        pydiff.load(tmp_path).inpaint(*task()[:2], "a dog", example=task().example)


def test_checkpoints_as_they_are_published(tmp_path: Path) -> None:
    """The index names the library paint_by_example, and CLIP's tensors have the names that transformers gave then."""
    theirs = makers.paint_by_example(tmp_path)
    index = {"image_encoder": ["paint_by_example", "PaintByExampleImageEncoder"]}
    index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    broken.rewrite(tmp_path / "model_index.json", **index)
    config = tmp_path / "feature_extractor" / "preprocessor_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "size": 36, "crop_size": 32}))

    def older(state: dict[str, torch.Tensor]) -> None:
        for name in [name for name in state if name.startswith("model.")]:
            state[name.replace("model.", "model.vision_model.", 1)] = state.pop(name)
        state["model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]

    broken.restore(tmp_path / "image_encoder", older)
    pair = Pair(theirs, pydiff.load(tmp_path))
    torch.testing.assert_close(pair.made(task(), [3], **LATENT), pair.expected(task(), [3], **LATENT), atol=RUN, rtol=0)
