"""What runs the same networks at which cost: `python -m benchmarks.runtimes`.

pydiff on torch and on ONNX Runtime, diffusers eager and compiled by torch.compile, and OpenVINO on
the same ONNX file, all in float32: per network call, per run, per process, and what is installed for it. Outputs are
compared with pydiff's on torch before a time is printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pydiff
from benchmarks.measure import Table, Times, interleaved, machine, write_json
from benchmarks.tasks import PROMPT, SEED, WEIGHTS, Maker, make_diffusers
from pydiff.cascade import Stage
from pydiff.diffusion.config import sampler_from_scheduler_config
from pydiff.export.graphs import unet_network
from pydiff.export.write import plain, plain_graph, save, trace
from pydiff.models.unet import UNet, UNetConfig
from pydiff.nn.cond import Cond
from pydiff.pipeline import EMBEDDED
from pydiff.runtime.manifest import Graph
from pydiff.runtime.sessions import Session, provider_of

CALL_TOLERANCE = 1e-3  # of what a network makes, beside its largest value
RUN_TOLERANCE = 2 / 255
EAGER, COMPILED, OPENVINO = "diffusers eager", "diffusers compiled", "OpenVINO"
TORCH, ONNX = "pydiff torch", "pydiff ONNX Runtime"
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280)}
PACKAGES = {
    TORCH: ("torch", "numpy", "array-api-compat", "pillow", "safetensors", "tokenizers", "tqdm"),
    ONNX: ("onnxruntime", "numpy", "array-api-compat", "pillow", "safetensors", "tokenizers", "tqdm"),
    EAGER: ("diffusers", "transformers", "torch", "accelerate", "sentencepiece"),
    OPENVINO: ("openvino",),
}
# Starts a command and says what it took. A small process does, for a child's memory is at least its parent's.
WAITS = """
import os, subprocess, sys, time
began = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(bool(status))
"""
Call = Callable[[], Any]


def calls(model: str, home: Path) -> tuple[dict[str, Call], list[str]]:
    """One network call of each contender, of the guided batch of one picture; and who could not be asked, and why."""
    theirs, path, graph, x, text = (embedded if model == "embedded" else stable_diffusion)(home)
    ours = UNet(UNetConfig.from_dict(dict(theirs.config))).eval()
    ours.load_state_dict(theirs.state_dict())
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = {
        "sample": x.numpy(),
        "timestep": np.full(len(x), 500, np.float32),
        "encoder_hidden_states": text.numpy(),
        "encoder_attention_mask": np.ones(text.shape[:2], np.float32),
    }
    prepared, laid = ours.prepare(Cond(text)), x.contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(theirs)
    made: dict[str, Call] = {
        TORCH: lambda: ours(laid, torch.tensor(500), prepared).numpy(),
        ONNX: partial(_first, Session(path, graph, provider_of(None)), inputs),
        EAGER: lambda: theirs(x, 500, text).sample.numpy(),
        COMPILED: lambda: compiled(x, 500, text).sample.numpy(),
    }
    try:
        made[OPENVINO] = openvino_call(path, inputs)
    except Exception as error:  # whatever a library does that does not run here
        return made, [f"{OPENVINO}: {type(error).__name__}: {str(error).splitlines()[0]}"]
    return made, []


def _first(session: Session, inputs: Mapping[str, Any]) -> Any:
    return session(inputs, ["out_sample"])[0]


def openvino_call(path: Path, inputs: Mapping[str, Any]) -> Call:
    """The graph compiled by OpenVINO, in float32: by itself it would compute in bfloat16 where the processor can."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    graph = core.read_model(path)
    graph.reshape({name: list(value.shape) for name, value in inputs.items()})
    request = core.compile_model(graph, "CPU", hints).create_infer_request()

    def call() -> Any:
        return request.infer(dict(inputs))["out_sample"]

    return call


def embedded(home: Path) -> tuple[Any, Path, Graph, torch.Tensor, torch.Tensor]:
    """diffusers' network, its graph, x and text: the embedded base stage."""
    from diffusers import UNet2DConditionModel

    theirs = UNet2DConditionModel.from_pretrained(WEIGHTS / EMBEDDED[0] / "unet")  # in evaluation mode
    return theirs, *_graph_of(theirs, home), torch.randn(2, 3, 64, 64), torch.randn(2, 77, 128)


def stable_diffusion(home: Path) -> tuple[Any, Path, Graph, torch.Tensor, torch.Tensor]:
    """The same of Stable Diffusion 1.5's configuration with random weights, for pictures of 256x256."""
    from diffusers import UNet2DConditionModel

    theirs: Any = UNet2DConditionModel(**SD15)
    theirs.eval()
    return theirs, *_graph_of(theirs, home), torch.randn(2, 4, 32, 32), torch.randn(2, 77, 768)


def _graph_of(theirs: Any, home: Path) -> tuple[Path, Graph]:
    unet = UNet(UNetConfig.from_dict(dict(theirs.config))).eval()
    unet.load_state_dict(theirs.state_dict(), assign=True)
    sampling = sampler_from_scheduler_config({"_class_name": "DDIMScheduler"})
    network = unet_network(Stage(unet, sampling, (64, 64), pydiff.load().cascade.stages[0].defaults))
    path = home / "unet.onnx"
    save(plain(trace(network), network.graph), path)
    return path, plain_graph(network.graph)


def call_table(model: str, rounds: int) -> tuple[Table, list[str]]:
    table = Table(f"one network call, {model}, guided batch of one picture, float32", ("runtime", "s", "ratio"))
    with tempfile.TemporaryDirectory() as home, torch.inference_mode():
        contenders, missing = calls(model, Path(home))
        check({name: call() for name, call in contenders.items()}, CALL_TOLERANCE)
        add(table, (), interleaved(contenders, rounds))
    return table, missing


def run_table(sizes: list[int], rounds: int) -> Table:
    """Whole runs of the embedded cascade."""
    table = Table("embedded cascade, one picture, float32", ("picture", "runtime", "s", "ratio"))
    ours, exported, theirs = pydiff.load(), pydiff.load(provider="cpu"), make_diffusers()
    compiled = make_diffusers(compiled=True)
    for size in sizes:
        contenders: dict[str, Call] = {
            TORCH: partial(_picture, ours, size),
            ONNX: partial(_picture, exported, size),
            EAGER: partial(_peer, theirs, size),
            COMPILED: partial(_peer, compiled, size),
        }
        with quiet():
            check({name: call() for name, call in contenders.items()}, RUN_TOLERANCE)
            add(table, (f"{size}x{size}",), interleaved(contenders, rounds))
    return table


def _picture(pipe: pydiff.Pipeline, size: int) -> Any:
    return pipe.generate(PROMPT, seed=SEED, size=size, output_type="np").images[0]


def _peer(make: Maker, size: int) -> Any:
    return (make(size)[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()


def check(made: Mapping[str, Any], tolerance: float) -> None:
    """Stop where somebody's numbers are not pydiff's."""
    right = made[TORCH]
    for name, numbers in made.items():
        difference = float(np.abs(numbers - right).max() / np.abs(right).max())
        if not difference < tolerance:
            raise SystemExit(f"{name} differs by {difference:.1e}; no time is printed on a red check")


def add(table: Table, what: tuple[str, ...], times: Mapping[str, Times]) -> None:
    """One row per runtime; the ratio is how often it fits into pydiff's time on ONNX Runtime, above 1 where slower."""
    for name, timed in times.items():
        table.add(*what, name, timed, f"{timed.median / times[ONNX].median:.2f}")


def process_table(sizes: list[int], rounds: int) -> Table:
    """From process start to the written picture: wall and processor seconds (medians), and the most memory resident."""
    table = Table("a process of its own", ("picture", "runtime", "s", "CPU s", "MiB"))
    for size in sizes:
        with tempfile.TemporaryDirectory() as home:
            name = ["--seed", str(SEED), "--size", str(size), "-q", "-o", f"{home}/a.png"]
            generate = [sys.executable, "-m", "pydiff.cli", "generate", PROMPT, *name]
            commands = {
                TORCH: generate,
                ONNX: [*generate, "--provider", "cpu"],
                EAGER: [sys.executable, "-m", "benchmarks.runtimes", "--child", str(size)],
            }
            measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
            for _ in range(rounds + 1):  # the first one warms the disk's cache
                for runtime, command in commands.items():
                    measured[runtime].append(process(command))
            for runtime, figures in measured.items():
                wall, processor, memory = np.median(figures[1:], axis=0)
                table.add(f"{size}x{size}", runtime, f"{wall:.2f}", f"{processor:.2f}", f"{memory:.0f}")
    return table


def process(command: list[str]) -> tuple[float, float, float]:
    """Seconds, processor seconds and MiB of a command."""
    done = subprocess.run([sys.executable, "-c", WAITS, *command], stdout=subprocess.PIPE, text=True, check=True)
    seconds, processor, memory = map(float, done.stdout.split())
    return seconds, processor, memory


def size_table() -> Table:
    table = Table("installed, MB", ("runtime", "packages", "MB"))
    for runtime, names in PACKAGES.items():
        found = set[str]()
        for name in names:
            found |= needed(name)
        table.add(runtime, len(found), f"{sum(map(installed, found)) / 1e6:.0f}")
    return table


def needed(name: str, seen: Set[str] = frozenset()) -> set[str]:
    """A package and all that it requires, of what is installed."""
    try:
        requires = distribution(name).requires or []
    except PackageNotFoundError:
        return set()
    found = {str(canonicalize_name(name))}
    for line in requires:
        requirement = Requirement(line)
        other = str(canonicalize_name(requirement.name))
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and other not in seen | found:
            found |= needed(other, seen | found)
    return found


def installed(name: str) -> int:
    """Bytes of a package's files."""
    paths = (Path(str(file.locate())) for file in distribution(name).files or ())
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def measured(arguments: argparse.Namespace, absent: list[str]) -> Iterator[Table]:
    """Tables as they are made; who could not be asked is added to absent."""
    yield size_table()
    yield process_table(arguments.sizes, arguments.rounds)
    yield run_table(arguments.sizes, arguments.rounds)
    for model in arguments.models:
        table, missing = call_table(model, arguments.rounds)
        absent += missing
        yield table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["embedded", "sd15"], choices=("embedded", "sd15"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="pictures of the embedded cascade")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repetitions")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        make_diffusers()(arguments.child)
        return
    began = time.perf_counter()
    print(machine())
    tables, absent = list[Table](), list[str]()
    for table in measured(arguments, absent):
        print(table, flush=True)
        tables.append(table)
    for line in absent:
        print(f"not there: {line}")
    print(f"in {time.perf_counter() - began:.0f} s")
    if arguments.json:
        write_json(arguments.json, tables)


if __name__ == "__main__":
    main()
