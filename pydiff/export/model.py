"""The export of a model: a folder of graphs, of what their stages are, and of how both were checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import onnx
import onnx_ir as ir
import onnxscript
import torch

from pydiff._version import __version__
from pydiff.cascade import Cascade
from pydiff.export.edits import edit_graph, edited
from pydiff.export.graphs import Network, networks_of
from pydiff.export.parity import Check, compare
from pydiff.export.precision import CONVERSIONS
from pydiff.export.stages import Source, copy_stage, sources_of
from pydiff.export.steps import default_plans, steps_json
from pydiff.export.write import OPSET, plain, plain_graph, save, trace
from pydiff.folders import open_indexes
from pydiff.folders.torch_networks import torch_networks
from pydiff.pipeline import Model
from pydiff.runtime.manifest import Graph, Manifest, file_record, file_records
from pydiff.runtime.opening import open_exported
from pydiff.weights.files import write_json

BYTES = {"float32": 4, "float16": 2, "int8": 1}  # of a weight
PARITY = "parity.json"
Convert = Callable[[ir.Model], ir.Model]
Tell = Callable[[str], object]


def export(
    model: Model | Sequence[Model] | None,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    variant: str | None = None,
    tokenizer: Model | None = None,
    prediction_type: str | None = None,
    tell: Tell = lambda _: None,
) -> Path:
    """Write a model as a folder that `pydiff.load` opens without torch; returns the folder.

    model: as `pydiff.load` takes it (None: the embedded cascade), but for unCLIP and Paint by Example; and with it
    variant, of the files to read, and for a single file tokenizer and prediction_type. dtype: "float32", "float16", or
    "int8" (weights alone); inputs and outputs are float32. tell: is given a line about each thing done. Every graph is
    compared with torch, and so is the default run of every stage; parity.json has what came out. The folder appears
    whole, or not at all.

    Raises ValueError, by name, for a model that cannot be exported, a folder that holds something, a dtype that there
    is not, too little space, and a graph that does not compute what torch does.
    """
    if dtype not in CONVERSIONS:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(CONVERSIONS)}")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is there and not empty; give a new folder, or empty it")
    name, sources = sources_of(model, variant, tokenizer, prediction_type)
    cascade = open_indexes([source.index for source in sources], torch_networks(variant=variant), name)
    networks = [list(networks_of(source.index, stage)) for source, stage in zip(sources, cascade.stages, strict=True)]
    _check_space(target, networks, dtype)
    with _appearing(target) as made:
        graphs: dict[str, Graph] = {}
        for source, stage, parts in zip(sources, cascade.stages, networks, strict=True):
            copy_stage(source, stage, made / source.name)
            write_json(made / source.name / "steps.json", steps_json(default_plans([stage])[0]))
            for network in parts:
                convert = CONVERSIONS["float32" if network.precise and dtype == "float16" else dtype]
                for path, graph in write_graphs(network, made / source.name, convert):
                    graphs[path.relative_to(made).as_posix()] = graph
                    tell(f"{source.name}/{path.name}: {path.stat().st_size / 1e6:.1f} MB")
        manifest = _manifest(made, cascade, sources, graphs, dtype)
        manifest.write(made)
        checks = _checked(sources, cascade, made, networks, dtype, tell)
        write_json(made / PARITY, _report(checks, dtype))
        _with_file(manifest, made, PARITY).write(made)
    return target


def write_graphs(network: Network, folder: Path, convert: Convert) -> Iterator[tuple[Path, Graph]]:
    """Write the network's graph, and its edit graph where it has one, both converted."""
    model = trace(network)
    changed = edited(model.clone(), edit_graph(network.graph)) if network.edits else None
    path = folder / f"{network.name}.onnx"
    save(convert(plain(model, network.graph)), path)
    yield path, plain_graph(network.graph)
    if changed is not None:
        other = path.with_stem(f"{network.name}_edit")
        save(convert(changed), other, beside=path)
        yield other, edit_graph(network.graph)


def _checked(
    sources: Sequence[Source],
    cascade: Cascade,
    folder: Path,
    networks: Sequence[Sequence[Network]],
    dtype: str,
    tell: Tell,
) -> list[Check]:
    """What `compare` finds. Raises ValueError for a check that does not hold."""
    checks = []
    exported = open_exported(folder)
    for check in compare([source.name for source in sources], cascade, exported, networks, dtype):
        tell(f"{check.stage}: {check.what} differs from torch's by {check.error:.2g}")
        if not check.holds:
            raise ValueError(
                f"the {check.what} of {check.stage} differs from torch's by {check.error:.3g}; expected at most "
                f"{check.bound}: export it as float32, or tell pydiff's authors what model it is"
            )
        checks.append(check)
    return checks


def _report(checks: Sequence[Check], dtype: str) -> dict[str, Any]:
    """The object that parity.json holds."""
    error = "largest difference / max(1, largest value)" if dtype == "float32" else "rms of difference / rms of values"
    return {"against": f"torch {torch.__version__} float32", "error": error, "checks": [c._asdict() for c in checks]}


def _manifest(
    folder: Path, cascade: Cascade, sources: Sequence[Source], graphs: dict[str, Graph], dtype: str
) -> Manifest:
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxscript": onnxscript.__version__}
    return Manifest(
        model=cascade.name,
        dtype=dtype,
        opset=OPSET,
        stages=tuple(source.name for source in sources),
        files=file_records(folder),
        graphs=graphs,
        default_size=cascade.default_size,
        versions={**versions, "pydiff": __version__},
    )


def _with_file(manifest: Manifest, folder: Path, name: str) -> Manifest:
    fields = vars(manifest)
    return Manifest(**{**fields, "files": {**manifest.files, name: file_record(folder / name)}})


def _check_space(target: Path, networks: Sequence[Sequence[Network]], dtype: str) -> None:
    """Weights are written once for every graph that has them."""
    parts = [network for of_stage in networks for network in of_stage]
    weights = sum(
        (1 + network.edits) * sum(parameter.numel() for parameter in network.module.parameters()) for network in parts
    )
    needed = int(1.1 * weights * BYTES[dtype])
    parent = next(place for place in target.absolute().parents if place.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ValueError(
            f"{target} needs about {needed / 1e6:.0f} MB, but there are {free / 1e6:.0f} MB free; make room"
        )


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A temporary folder beside the target, which becomes it at the end; on failure nothing is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{token_hex(8)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
