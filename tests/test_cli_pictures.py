"""The commands that begin from a picture: what they write, and what they refuse with one line and status 2."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pydiff
from pydiff import cli
from pydiff.images import read_settings, write_png
from tests.checkpoints import makers

COMMANDS = ("inpaint", "outpaint", "instruct", "restore", "upscale", "image-to-image")
RING = "a red ring"


@pytest.fixture(scope="module")
def load(pipe: pydiff.Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pydiff.Pipeline]:
    """`pydiff.load` with every model opened once, and a tiny one in the place of pydiff-instruct."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("instruct", "example", "upscaler")}
    makers.stable_diffusion(folders["instruct"], "StableDiffusionInstructPix2PixPipeline", unet={"in_channels": 8})
    makers.paint_by_example(folders["example"])
    makers.upscaler(folders["upscaler"])
    shipped = pydiff.load("pydiff-palette")
    opened = {None: pipe, "pydiff-palette": shipped, "pydiff-embedded": pipe}
    opened |= {f"pydiff-{name}": pydiff.load(folder) for name, folder in folders.items()}
    true = pydiff.load
    return lambda model=None, **how: opened[model] if model in opened else true(model, **how)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[..., pydiff.Pipeline]) -> Path:
    """A folder with pictures to stand in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pydiff.pipeline.load", load)
    rng = np.random.default_rng(5)
    for name, size in {"a.png": (64, 64), "small.png": (48, 64), "tiny.png": (24, 32)}.items():
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(tmp_path / name)
        grays = np.zeros(size, np.uint8)
        grays[8:20, 10:24] = 255
        grays[20:22, 10:24] = 90
        Image.fromarray(grays).save(tmp_path / f"mask-{name}")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def status_of(arguments: list[str]) -> object:
    try:
        return cli.main(arguments)
    except SystemExit as stopped:
        return stopped.code


WIDE = {"feather": 2, "soft_mask": True, "padding_mask_crop": 4, "strength": 0.7, "size": 64, "window_overlap": 0.5}
AGAIN = {"method": "repaint", "sampler": "ddpm", "jump_length": 1, "jump_n_sample": 2}
GUIDED = {"guidance_scale": 3, "negative_prompt": "a star"}
SAME: list[tuple[str, dict[str, Any]]] = [
    ("inpaint a.png mask-a.png", {}),
    ("inpaint small.png mask-small.png ring --size 64", {"prompt": RING, "size": 64}),
    (
        "inpaint a.png mask-a.png --method repaint --sampler ddpm --jump-length 1 --jump-n-sample 2 --size 64",
        {**AGAIN, "size": 64},
    ),
    (
        "inpaint a.png mask-a.png --feather 2 --soft-mask --padding-mask-crop 4 --strength 0.7 --size 64"
        " --window-overlap 0.5 --guidance-scale 3 --negative-prompt star",
        {**WIDE, **GUIDED},
    ),
    ("inpaint tiny.png mask-tiny.png --example a.png --model pydiff-example", {"example": "a.png"}),
    ("outpaint tiny.png ring --left 8 --bottom 4", {"prompt": RING, "left": 8, "bottom": 4}),
    ("outpaint a.png --right 8 --top 12 --method blend", {"right": 8, "top": 12, "method": "blend"}),
    ("instruct tiny.png ring", {"prompt": RING}),
    (
        "instruct tiny.png ring --guidance 3 --image-guidance-scale 1.2 --negative star",
        {"prompt": RING, "image_guidance_scale": 1.2, **GUIDED},
    ),
    ("restore a.png --task colorize", {"task": "colorize"}),
    ("restore a.png --task inpaint --mask mask-a.png --model pydiff-palette", {"task": "inpaint"}),
    ("upscale a.png --size 256", {"size": 256}),
    ("upscale tiny.png ring --model pydiff-upscaler", {"prompt": RING}),
    ("image-to-image a.png ring --strength 0.6 --size 64", {"prompt": RING, "strength": 0.6, "size": 64}),
]
SHIPPED = {"restore": "pydiff-palette", "instruct": "pydiff-instruct"}


def words_of(text: str) -> list[str]:
    return [{"ring": RING, "star": "a star"}.get(word, word) for word in text.split()]


@pytest.mark.parametrize(("line", "how"), SAME, ids=[line for line, _ in SAME])
def test_the_picture_of_the_api(
    load: Callable[..., pydiff.Pipeline],
    capsys: pytest.CaptureFixture[str],
    line: str,
    how: dict[str, Any],
) -> None:
    words = words_of(line)
    command, image = words[:2]
    steps = 1 if command == "upscale" else 2
    assert cli.main([*words, "--seed", "7", "--steps", str(steps), "-o", "out.png"]) == 0
    assert capsys.readouterr() == ("out.png\n", "")
    masks = {"mask": f"mask-{image}"} if f"mask-{image}" in words else {}
    pipe = load(words[words.index("--model") + 1] if "--model" in words else SHIPPED.get(command))
    reads = {} if command == "restore" or "example" in how else {"prompt": ""}
    method = getattr(pipe, command.replace("-", "_"))
    made = method(image, **masks, **{**reads, **how}, seed=7, num_inference_steps=steps)
    assert np.array_equal(Image.open("out.png"), made.images[0])
    assert read_settings(Path("out.png")) == made.settings[0]
    assert made.settings[0]["task"] == command.replace("-", "_")


def test_several_pictures_a_sheet_and_heat(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "sub").mkdir()
    Image.open("a.png").convert("LA").save("sub/My Photo.webp", lossless=True)
    before = names(place)
    call = [
        "inpaint",
        "sub/My Photo.webp",
        "mask-a.png",
        RING,
        "--size",
        "64",
        "--steps",
        "2",
        "--seed",
        "3",
        "-n",
        "2",
    ]
    assert cli.main([*call, "--heat", "ring", "--sheet", "sheet.png"]) == 0
    made = [f"my-photo-inpaint-{end}.png" for end in ("1", "1-heat", "2", "2-heat")]
    assert capsys.readouterr() == ("\n".join([*made, "sheet.png", ""]), "")
    assert names(place) == sorted([*before, *made, "sheet.png"])
    assert [read_settings(Path(made[index]))["seed"] for index in (0, 2)] == [3, 4]
    assert 2 * 256 < Image.open("sheet.png").width < 3 * 256  # the one that is given, and the one that is made
    assert cli.main(["outpaint", "a.png", "--top", "4", "--size", "64", "--steps", "1", "--no-metadata"]) == 0
    assert not Image.open("a-outpaint.png").info


BAD = [
    ("inpaint", "the following arguments are required: IMAGE, MASK"),
    ("inpaint none.png mask-a.png", "none.png does not exist"),
    ("inpaint a.png none.png", "none.png does not exist"),
    ("inpaint text.png mask-a.png", "text.png is no readable PNG"),
    ("inpaint folder.png mask-a.png", "folder.png is a directory"),
    ("inpaint a.png mask-small.png", "mask has shape (48, 64)"),
    ("inpaint a.png black.png", "mask is black everywhere"),
    ("inpaint a.png mask-a.png --method magic", "method is 'magic'; expected one of repaint, blend, model"),
    ("inpaint a.png mask-a.png --method model", "the network of pydiff-embedded knows of no holes"),
    ("inpaint a.png mask-a.png --jump-length 2", "jump_length is 2, but the method is 'blend'"),
    ("inpaint a.png mask-a.png --feather -1", "feather is -1.0; expected a number from 0"),
    ("inpaint a.png mask-a.png --padding-mask-crop 2.5", "--padding-mask-crop: invalid int value: '2.5'"),
    ("inpaint a.png mask-a.png --strength 2", "strength is 2.0; expected a number from 0 to 1"),
    ("inpaint a.png mask-a.png --example a.png", "pydiff-embedded paints by no example"),
    ("inpaint a.png mask-a.png --example none.png", "none.png does not exist"),
    ("inpaint tiny.png mask-tiny.png --model pydiff-example", "paints by example; give example="),
    ("inpaint a.png mask-a.png --model nowhere", "nowhere is not a folder"),
    ("inpaint a.png mask-a.png --model pydiff-palette", "fills no holes; it restores damaged pictures"),
    ("inpaint a.png mask-a.png --size 100", "size is 100, which no stage"),
    ("inpaint a.png mask-a.png --heat dog", "capture names the word 'dog'"),
    ("inpaint a.png mask-a.png --from a.png", "unrecognized arguments: --from a.png"),
    ("inpaint a.png mask-a.png -n 0", "-n is 0; expected at least 1"),
    ("inpaint a.png mask-a.png --seed -1", "seed is -1"),
    ("inpaint none.png mask-a.png -o none/a.png", "the folder none does not exist"),
    ("inpaint none.png mask-a.png -o out.jpg", "the output out.jpg is no .png"),
    ("inpaint none.png mask-a.png -o folder.png", "the output folder.png is a folder"),
    ("inpaint a.png mask-a.png --sheet a-inpaint.png", "give two names"),
    ("inpaint a.png mask-a.png -o ./a.png", "the output a.png is a picture that is given; choose another name"),
    ("inpaint a.png mask-a.png --sheet mask-a.png", "the output mask-a.png is a picture that is given"),
    ("outpaint a.png", "left, right, top and bottom are all 0"),
    ("outpaint a.png --left -4", "left is -4; expected an integer from 0"),
    ("outpaint a.png --left 99999999", "left is 99999999; expected an integer from 0"),
    ("outpaint a.png --left 4 --feather 2", "unrecognized arguments: --feather 2"),
    ("outpaint a.png --left 4 --window-overlap 1", "window_overlap is 1.0"),
    ("instruct tiny.png", "the following arguments are required: TEXT"),
    ("instruct tiny.png ring --size 64", "keeps the size of the picture; leave it out"),
    ("instruct tiny.png ring --model pydiff-embedded", "pydiff-embedded follows no instructions"),
    ("instruct tiny.png ring --image-guidance-scale nan", "image_guidance_scale is nan"),
    ("restore a.png", "the following arguments are required: --task"),
    ("restore a.png --task magic", "task is 'magic'; expected one of colorize"),
    ("restore a.png --task inpaint", "the task 'inpaint' needs a mask"),
    ("restore a.png --task jpeg --mask mask-a.png", "a mask is given, but the task 'jpeg' takes none"),
    ("restore a.png --task inpaint --mask mask-small.png", "mask has shape (48, 64)"),
    ("restore a.png --task jpeg --model pydiff-embedded", "pydiff-embedded restores no pictures"),
    ("restore a.png --task jpeg --negative star", "unrecognized arguments: --negative a star"),
    ("upscale a.png --size 64", "no super-resolution stage makes"),
    ("upscale tiny.png", "image is 32x24; expected a square picture"),
    ("upscale a.png ring", "prompt is given, but this model reads no words"),
    ("upscale a.png --height 64", "unrecognized arguments: --height 64"),
    ("upscale a.png --model pydiff-palette", "nothing would be upscaled"),
    ("image-to-image a.png", "the following arguments are required: PROMPT"),
    ("image-to-image a.png ring --strength nan", "strength is nan"),
    ("image-to-image a.png ring --model pydiff-instruct", "does not begin from a noised picture"),
]


@pytest.fixture
def around(place: Path) -> list[str]:
    """Files and folders that a call may fall over."""
    (place / "folder.png").mkdir()
    (place / "text.png").write_text("words")
    Image.new("L", (64, 64)).save(place / "black.png")
    return names(place)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_bad_input(place: Path, around: list[str], capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    assert status_of(words_of(line)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("pydiff: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    assert names(place) == around


def test_an_output_folder_that_cannot_be_written_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cli.main(["upscale", "none.png"]) == 2
    assert "cannot be written to; choose another" in capsys.readouterr().err


TOLD = {"prompt": "a", "seed": 1, "model": "pydiff-embedded"}
OTHERS = ("image_to_image", "inpaint", "outpaint", "instruct", "restore", "upscale", "variations", "reconstruct")


@pytest.mark.parametrize("command", ["generate", "edit"])
@pytest.mark.parametrize("told", [*({"task": task} for task in OTHERS), {"task": "edit", "inversion": "ddim"}], ids=str)
def test_what_began_from_a_picture_is_not_repeated_from_settings_alone(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, told: dict[str, Any]
) -> None:
    write_png(place / "made.png", Image.new("RGB", (8, 8)), {**TOLD, **told})
    before = names(place)
    assert cli.main([command, "--from", "made.png", "-o", "out.png"]) == 2
    said = capsys.readouterr().err
    assert f"made.png was not made by {command} (its task is {told['task']!r}): it began from another picture" in said
    assert names(place) == before


@pytest.mark.parametrize("where", ["pydiff.tasks.run.states", "PIL.Image.Image.save", "pydiff.pipeline.load"])
def test_an_interrupt_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = names(place)
    monkeypatch.setattr(where, interrupt)
    assert cli.main(["outpaint", "a.png", "--left", "4", "--size", "64", "--steps", "1"]) == 130
    assert capsys.readouterr() == ("", "pydiff: interrupted; no half-made picture was written\n")
    assert names(place) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert status_of([command, "--help"]) == 0
    said = capsys.readouterr().out
    common = {"IMAGE", "-n", "--seed", "--steps", "--sampler", "--model", "--device", "--output", "--sheet", "--quiet"}
    reads = {"--size", "--guidance", "--guidance-scale", "--negative", "--negative-prompt", "--heat"}
    words = set(said.replace(",", " ").replace("[", " ").replace("]", " ").split())
    assert common <= words
    assert reads & words == (set() if command == "restore" else reads)
    assert f"pydiff {command} " in said.split("example:")[1]
    cli.main([])
    assert f"\n    {command}" in capsys.readouterr().out
