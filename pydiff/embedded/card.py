"""The card beside the weights: what was trained, for how long, and how well it draws.

`python -m pydiff.embedded.card --scores SCENES.json --restored RESTORE.json --instructed INSTRUCTIONS.json`, with what
`python -m benchmarks.scenes --json SCENES.json` and so on wrote.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from pydiff.embedded import recipe
from pydiff.embedded.export import HOME, TRAINING
from pydiff.embedded.world import UNSEEN_KINDS, UNSEEN_PAIRS
from pydiff.weights import read_header, read_json
from pydiff.weights.files import write_whole

FOLDERS = ("base/text_encoder", "base/unet", "super_256/unet", "super_1024/unet", "palette/unet", "instruct/unet")
CARD = """\
# The embedded models

Three U-Nets (64, 256 and 1024 pixels) and a T5 text encoder, trained by `python -m pydiff.embedded.train` on scenes
that `pydiff/embedded/world.py` draws, captions by `captions.py`. No other data. Weights are moving averages, float32.

- It knows one to four circles, squares, triangles, stars, rings or crosses; colours, sizes and places; a background.
- Kept out of training, to test on: {unseen}.
- Objective: v-prediction over 1000 cosine levels, and the variance of the reverse step (Improved DDPM).
- Optimiser: Muon and AdamW (`optimizer.py`); the text encoder first learns a coarse layout from captions alone.
- `palette` restores damaged pictures (`palette.py`): the base network, trained on with the damaged one beside x.
- `instruct` follows instructions (`instruct.py`): the base network and its text encoder, trained on with the picture to
  change beside x, on pairs of pictures that the base made by Prompt-to-Prompt and the scene reader let pass; from step
  11,564 on half of the pairs are drawn, and of the made ones the rest of the picture is pasted, so that nothing moves;
  from step 15,150 on the made ones are of 1,300 captions, of 270 before.

## Networks

| folder | parameters |
|---|---:|
{networks}

## Training

| phase | steps so far | of | batch | pictures seen | hours on two CPU cores |
|---|---:|---:|---:|---:|---:|
{training}

## Scores

`python -m benchmarks.scenes --prompts {prompts} --size {size}`, default settings:

| category | right | n |
|---|---:|---:|
{scores}

`python -m benchmarks.restore --number {number}`, default settings; what the reader finds right is in the last column:

| task | picture | PSNR dB | SSIM | right |
|---|---|---:|---:|---:|
{restored}

`python -m benchmarks.instructions`, default settings; "both" is what counts:

| what is changed | instructions | done | all else kept | both |
|---|---:|---:|---:|---:|
{instructed}
"""


def card(home: Path, scores: dict[str, Any], restored: dict[str, Any], instructed: dict[str, Any]) -> str:
    """The card's text, from the exported weights, their training record and the JSON of the three benchmarks."""
    unseen = [" ".join(kind) for kind in sorted(UNSEEN_KINDS)] + [" ".join(pair) for pair in sorted(UNSEEN_PAIRS)]
    networks = [f"| {folder} | {_parameters(home / folder):,} |" for folder in FOLDERS]
    training = []
    for name, facts in read_json(home / TRAINING).items():
        phase, hours = recipe.PHASES[name], facts["seconds"] / 3600
        seen = facts["step"] * phase.batch
        training.append(f"| {name} | {facts['step']:,} | {phase.steps:,} | {phase.batch} | {seen:,} | {hours:.1f} |")
    rows = [
        f"| {name} | {row['right'] / row['total']:.1%} | {row['total']} |"
        for name, row in scores["table"].items()
        if row["total"]
    ]
    restorations = [
        f"| {task} | {kind} | {row['psnr']:.1f} | {row['ssim']:.3f} | {row['right']:.0%} |"
        for task, kinds in restored["scores"].items()
        for kind, row in kinds.items()
    ]
    answers = next(rows for rows in instructed.values() if isinstance(rows, list))  # beside facts of the machine
    columns = ("what is changed", "instructions", "done", "all else kept", "both")
    obeyed = [f"| {' | '.join(str(row[name]) for name in columns)} |" for row in answers]
    return CARD.format(
        unseen=", ".join(unseen),
        networks="\n".join(networks),
        training="\n".join(training),
        scores="\n".join(rows),
        restored="\n".join(restorations),
        instructed="\n".join(obeyed),
        number=restored["settings"]["number"],
        prompts=scores["settings"]["prompts"],
        size=scores["settings"]["size"],
    )


def _parameters(folder: Path) -> int:
    return sum(math.prod(info.shape) for info in read_header(folder).values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pydiff.embedded.card", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scores", type=Path, required=True, help="what `python -m benchmarks.scenes --json` wrote")
    parser.add_argument("--restored", type=Path, required=True, help="what `python -m benchmarks.restore --json` wrote")
    parser.add_argument("--instructed", type=Path, required=True, help="what `benchmarks.instructions --json` wrote")
    parser.add_argument("--home", type=Path, default=HOME, help="where the folders are")
    arguments = parser.parse_args()
    text = card(arguments.home, *map(read_json, (arguments.scores, arguments.restored, arguments.instructed)))
    write_whole(arguments.home / "CARD.md", lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
