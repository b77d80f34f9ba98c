"""A model's folders, and what of them goes into the exported one as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydiff.cascade import Stage
from pydiff.folders.index import EXEMPLAR, UNCLIP, Index, read_index
from pydiff.folders.single import SingleFile, read_single
from pydiff.pipeline import EMBEDDED_NAME, SHIPPED, Model
from pydiff.text.tokenizer_files import WHOLE
from pydiff.text.tokens import PromptTokenizer
from pydiff.weights.files import inside, is_single_file, read_json, write_json, write_whole
from pydiff.weights.hub import hub_folder, is_hub_id

HOME = Path(__file__).parents[1] / "embedded" / "weights"
SINGLE = "model"  # the stage of a model that is one folder
_STAGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Source:
    """A stage's folder, or single file, and its name in the exported one."""

    name: str
    index: Index


def sources_of(
    model: Model | Sequence[Model] | None,
    variant: str | None = None,
    tokenizer: Model | None = None,
    prediction_type: str | None = None,
) -> tuple[str, list[Source]]:
    """What settings call the model, and its folders, small first; variant: of the files to fetch. tokenizer,
    prediction_type: what a single file does not say. Raises ValueError for a model that is not exported, and as
    `read_index` and `read_single` do."""
    name = EMBEDDED_NAME if model is None else model
    if isinstance(name, str) and name in SHIPPED:
        return name, [_source(HOME / folder, folder) for folder in SHIPPED[name]]
    folders = [model] if isinstance(model, (str, os.PathLike)) else list(model or ())
    if not folders or not all(isinstance(one, (str, os.PathLike)) for one in folders):
        raise ValueError(f"model is {model!r}; expected a folder, or a list of one folder per stage")
    said = {"tokenizer": tokenizer, "prediction_type": prediction_type}
    if len(folders) == 1 and is_single_file(folders[0]):
        given = None if tokenizer is None else _folder(tokenizer, None)
        return str(folders[0]), [Source(SINGLE, read_single(Path(folders[0]), prediction_type, given))]
    for option, value in said.items():
        if value is not None:
            raise ValueError(f"{option} is for single files, but {folders[0]} is none; its folder says that itself")
    paths = [_folder(one, variant) for one in folders]
    names = [path.resolve().name for path in paths]
    if len(paths) == 1:
        names = [SINGLE]
    elif len(set(names)) < len(names) or not all(map(_STAGE.fullmatch, names)):
        names = [f"stage_{place}" for place in range(1, len(names) + 1)]
    return " ".join(map(str, folders)), [_source(path, own) for path, own in zip(paths, names, strict=True)]


def _folder(model: Model, variant: str | None) -> Path:
    if is_single_file(model):
        raise ValueError(f"{model} is a single file, which is a whole model; give it alone")
    return hub_folder(model, variant) if is_hub_id(model) else Path(model)


def _source(folder: Path, name: str) -> Source:
    index = read_index(folder)
    if index.family.name in (UNCLIP, EXEMPLAR):
        raise ValueError(
            f"{folder} is a {index.pipeline}, which is not exported: only torch runs its networks of pictures; load it "
            "as it is"
        )
    return Source(name, index)


def copy_stage(source: Source, stage: Stage, folder: Path) -> None:
    """The JSON files of a stage's folder: its index and settings, configurations, schedulers and tokenizers; those of
    tokenizers that are in other files are made."""
    index = source.index
    parts = _write_json(index, folder) if isinstance(index, SingleFile) else _copy_all(index, folder)
    texts = [name for name in parts if name.startswith("text_encoder")]
    if stage.text is not None:
        for name, tokenizer in zip(texts, stage.text.tokenizers, strict=False):
            _complete(folder / name.replace("text_encoder", "tokenizer"), tokenizer)


def _copy_all(index: Index, folder: Path) -> list[str]:
    """A folder's JSON files; its components, by name."""
    home = index.folder
    _copy_json(home, folder)
    parts = [name for name in sorted(index.values) if index.has(name) and (home / name).is_dir()]
    for name in parts:
        _copy_json(inside(home, name), folder / name)
    return parts


def _write_json(index: SingleFile, folder: Path) -> list[str]:
    """The same of a single file, as the folder that diffusers would make of it has them."""
    given = index.opened
    write_json(folder / "model_index.json", given.model_index)
    networks = {"unet": given.unet_config, "vae": given.autoencoder_config, **given.text_configs}
    for name, config in networks.items():
        write_json(folder / name / "config.json", config)
    for name in ("scheduler", "low_res_scheduler"):
        if index.has(name):
            write_json(folder / name / "scheduler_config.json", dict(index.scheduler(name)))
    return sorted(networks)


def _copy_json(source: Path, target: Path) -> None:
    for path in sorted(source.glob("*.json")):
        if not path.name.endswith(".index.json"):  # of weights in several files
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(inside(source, path.name), target / path.name)


def _complete(folder: Path, tokenizer: PromptTokenizer) -> None:
    """tokenizer.json, and in tokenizer_config.json what else a reader of it must know."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / WHOLE).exists():
        text = tokenizer.tokenizer.to_str()
        write_whole(folder / WHOLE, lambda path: path.write_text(text, encoding="utf-8"))
    path = folder / "tokenizer_config.json"
    said = read_json(path) if path.exists() else {}
    known = {"pad_token": tokenizer.tokenizer.id_to_token(tokenizer.pad), "model_max_length": tokenizer.window}
    lacking = {name: value for name, value in known.items() if said.get(name) is None}
    if lacking:
        text = json.dumps({**said, **lacking}, indent=2, sort_keys=True) + "\n"
        write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
