"""Pictures with defects, their masks and boxes, to train inspection systems on.

A defect is placed on what is not background, painted there, and worked in by a model that changes nothing outside of
its hole. Any model that `Pipeline.inpaint` takes will do.

    python -m pydiff.tools.defects CLEAN-DIR -o OUT
    python -m pydiff.tools.defects CLEAN-DIR -o OUT --kinds scratch dent --per-picture 4 --within OBJECTS-DIR
    python -m pydiff.tools.defects CLEAN-DIR -o OUT --model DIR --masks MASKS-DIR --prompt "a crack in concrete"

OUT holds images/NAME-K.png, masks/NAME-K.png (white: what visibly changed), holes/NAME-K.png (white: what was free to),
records/NAME-K.json, and when all are done annotations.json in COCO's form. Started again with the same options the
program goes on; the same options make the same bytes. A defect that the model painted away is made again from another
place and seed, --tries times, and then left out. With --method repaint what is in the hole comes from noise alone.

Kinds are rows of `pydiff.tools.defect_kinds.KINDS`, made for models that know no defects: little noise, much of what
was painted kept. For a model that does know some: --prompt "... {kind}" --strength 0.5 --keep 0, or rows of one's own
in a file, --kinds-file (`read_kinds`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pydiff._version import __version__
from pydiff.cascade import INPAINT
from pydiff.cli.options import open_model
from pydiff.images import from_user, mask_from_user, to_pil, write_png
from pydiff.pipeline import Pipeline
from pydiff.tasks.inpaint import inpaint, nearest_size, stages_for
from pydiff.tasks.request import make_call
from pydiff.tasks.run import Request, finish
from pydiff.tools.batch import Shard, run_tool, work_off
from pydiff.tools.coco import document, shape_of, visible, write_compact
from pydiff.tools.defect_kinds import Floats, Kind, Mask, Picture, cover_of, hole_of, object_of, paint, place
from pydiff.tools.defect_options import OPTIONS, check, command_of, kinds_of, make_parser, settings_of
from pydiff.weights import read_json, write_json

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
FEATHERED = 64  # one pixel of feather for so many of the picture's smaller side, unless said
LEAST_SEEN = 0.25  # of the cover; a defect of which less is seen was painted away


class Job(NamedTuple):
    """What is the same for all pictures. kinds: in turn. given: masks by the name of their picture; within: masks of
    the objects; None where there are none. options: of `Pipeline.inpaint`."""

    pipe: Pipeline
    kinds: tuple[Kind, ...]
    given: Mapping[str, Path] | None
    within: Mapping[str, Path] | None
    options: Mapping[str, Any]
    arguments: argparse.Namespace

    @property
    def output(self) -> Path:
        return Path(self.arguments.output)


class Made(NamedTuple):
    """A picture with a defect: its pixels, the hole, what of it is seen, and the settings that make it again."""

    picture: Picture
    hole: Mask
    seen: Mask
    settings: Mapping[str, Any]


def request(job: Job, image: Image.Image, weight: Floats, kind: Kind, seed: int, feather: int) -> Request:
    """The run that works a defect in, checked. weight (H, W) in [0, 1]: the share of each pixel that is made."""
    given, cascade = job.arguments, job.pipe.cascade
    first, size = cascade.stages[0], given.size
    if size is None and given.crop is None:
        size = nearest_size(cascade, max(image.size))
    method = given.method or ("model" if first.kind == INPAINT else "blend")
    how = {**job.options, "method": method, "seed": seed, "feather": feather, "soft_mask": True}
    if method != "repaint":
        steps = [stage.defaults.num_inference_steps for stage in stages_for(cascade, size)]
        steps[0] = given.steps or steps[0]
        share = kind.strength if given.strength is None else given.strength
        how["strength"] = [max(share, min(1, 1.001 / each)) for each in steps]  # at least one step
    prompt = kind.prompt if kind.prompt is not None else given.prompt
    if first.text is not None:
        prompt = (prompt or "").replace("{kind}", kind.name)
        if not prompt and given.guidance is None:
            how["guidance_scale"] = 1.0
    return inpaint(cascade, image, weight, make_call(prompt, how), size=size)


def make_defect(job: Job, clean: Image.Image, name: str, number: int) -> tuple[Kind, Made | None, int]:
    """Defect `number`, from 1, of a picture: its kind, what was made, None where none was seen, and how many tries it
    took."""
    picture, given = np.asarray(clean), job.arguments
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    kind = job.kinds[(word + number) % len(job.kinds)]
    feather = max(1, min(clean.size) // FEATHERED) if given.feather is None else given.feather
    where = _mask(job.within, name, clean) if job.within is not None else object_of(picture)
    free = _mask(job.given, name, clean) if job.given is not None else None
    for trial in range(1, given.tries + 1):
        rng = np.random.default_rng((given.seed, word, number, trial))
        cover = place(kind.place, where, rng) if free is None else cover_of(free, feather)
        hole = hole_of(cover, feather + 1) if free is None else free
        start = Image.fromarray(paint(kind.start, picture, cover, where, rng))
        weight = hole * (1 - _keep(job, kind) * cover)
        result = finish(request(job, start, weight, kind, int(rng.integers(1 << 48)), feather))
        changed = np.asarray(result.images[0])
        seen = visible(picture, changed, given.threshold)
        if seen.sum() >= LEAST_SEEN * (cover >= 0.5).sum():
            return kind, Made(changed, hole, seen, result.settings[0]), trial
    return kind, None, given.tries


def _keep(job: Job, kind: Kind) -> float:
    given = job.arguments
    if given.method == "repaint":
        return 0.0
    return kind.keep if given.keep is None else float(given.keep)


def make_all(job: Job, path: Path) -> None:
    """All defects of a picture that have no record yet. A record is written last, so that what it says is there."""
    clean = to_pil(from_user(path))[0]
    for number in range(1, job.arguments.per_picture + 1):
        record = record_of(job, path, number)
        if record.is_file():
            continue
        kind, made, tries = make_defect(job, clean, path.name, number)
        said: dict[str, Any] = {"clean": path.name, "category": kind.name, "tries": tries, "left_out": made is None}
        if made is not None:
            file = f"{record.stem}.png"
            write_png(job.output / "images" / file, Image.fromarray(made.picture), {**made.settings, **said})
            for folder, mask in (("masks", made.seen), ("holes", made.hole)):
                write_png(job.output / folder / file, Image.fromarray(mask), None)
            said |= {"file_name": file, "width": clean.width, "height": clean.height, **shape_of(made.seen)}
        write_compact(record, said)


def record_of(job: Job, path: Path, number: int) -> Path:
    return job.output / "records" / f"{path.stem}-{number}.json"


def _mask(masks: Mapping[str, Path], name: str, clean: Image.Image) -> Mask:
    """The mask of a picture, of its size and not empty."""
    path = masks.get(Path(name).stem)
    if path is None:
        raise ValueError("it has no mask; expected one of its name, whatever the ending")
    mask: Mask = mask_from_user(path, (clean.height, clean.width))[0, 0] > 0
    if not mask.any():
        raise ValueError(f"its mask {path} is black everywhere; expected white where a defect may be")
    return mask


def pictures_in(folder: Path) -> list[Path]:
    """PNG, JPEG and WebP by name. Raises ValueError where there are none, or two of one name."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one with pictures")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    by_stem = {path.stem: path for path in paths}
    if not paths:
        raise ValueError(f"{folder} holds no pictures; expected {', '.join(PICTURES)}")
    for path in paths:
        if by_stem[path.stem] != path:
            raise ValueError(f"{path} and {by_stem[path.stem].name} are alike but for the ending; rename one")
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 some pictures failed, 2 bad input, 130 interrupted."""
    given = make_parser().parse_args(arguments)
    return run_tool("defects", partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    paths, shard = pictures_in(given.clean), Shard.parse(given.shard)
    job = _job(given)
    _begin(job)
    failed = work_off(
        paths,
        name=str,
        done=lambda path: all(record_of(job, path, n).is_file() for n in range(1, given.per_picture + 1)),
        work=partial(make_all, job),
        shard=shard,
    )
    records = [record_of(job, path, n) for path in paths for n in range(1, given.per_picture + 1)]
    said = [read_json(path) for path in records if path.is_file()]
    kept = [record for record in said if not record["left_out"]]
    info = {
        "description": command_of(given),
        "version": __version__,
        "model": job.pipe.cascade.name,
        "seed": given.seed,
    }
    write_compact(job.output / "annotations.json", document(kept, [kind.name for kind in job.kinds], info))
    for record in said:
        if record["left_out"]:
            print(f"{record['clean']}: no {record['category']} was seen in {record['tries']} tries", file=sys.stderr)
    print(json.dumps({"pictures": len(kept), "left_out": len(said) - len(kept), "failed": failed}))
    return 1 if failed else 0


def _job(given: argparse.Namespace) -> Job:
    """Checked, with a first request of each kind."""
    check(given)
    kinds = kinds_of(given)
    options = {name: getattr(given, own) for name, own in OPTIONS.items() if getattr(given, own) is not None}
    masks, within = (None if folder is None else _by_stem(folder) for folder in (given.masks, given.within))
    job = Job(open_model(given), kinds, masks, within, options, given)
    side = max(job.pipe.sizes[0] if given.size is None else given.size, 64)
    for kind in kinds:
        request(job, Image.new("RGB", (side, side)), np.ones((side, side), np.float32), kind, 0, given.feather or 0)
    return job


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in pictures_in(folder)}


def _begin(job: Job) -> None:
    """Make the folders, and hold to the options that they were begun with."""
    for folder in ("images", "masks", "holes", "records"):
        (job.output / folder).mkdir(parents=True, exist_ok=True)
    path, settings = job.output / "settings.json", settings_of(job.arguments)
    begun = read_json(path) if path.is_file() else settings
    for name in sorted({*begun, *settings}):
        if begun.get(name) != settings.get(name):
            was, now = begun.get(name), settings.get(name)
            raise ValueError(f"{job.output} was begun with {name} {was!r}, not {now!r}; choose another folder")
    write_json(path, settings)


if __name__ == "__main__":
    sys.exit(main())
