"""Graphs of an exported folder run by ONNX Runtime, each opened when it is first needed.

On a GPU what stays the same over a run (text, masks, labels) is copied there once and bound; x, the tables of an edit
and the prediction are the host's, so that a step copies x there and the prediction back.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydiff._optional import optional
from pydiff.ops import native
from pydiff.runtime.manifest import Graph, Manifest

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
ON_GPU = tuple(PROVIDERS[name] for name in ("cuda", "tensorrt"))  # whose constant inputs are kept in the GPU's memory
INSTALL = {"cuda": "pydiff-engine[onnx-gpu]", "tensorrt": "pydiff-engine[onnx-gpu] and TensorRT's libraries"}
SIDES = ("height", "width")  # axes that a graph halves
ERRORS_ONLY = 3  # of ONNX Runtime's log

Held = Any  # an array of the host, or an OrtValue in the memory of the provider's device


class Provider(NamedTuple):
    """What runs graphs, by ONNX Runtime's name, with its options."""

    name: str
    options: Mapping[str, Any] = {}

    @property
    def device(self) -> str:
        """Where what it computes with lies, as ONNX Runtime names it."""
        return "cuda" if self.name in ON_GPU else "cpu"


def provider_of(wanted: str | None) -> Provider:
    """The provider of a name: "cpu" (None too), "cuda" or "tensorrt", with ":1" for the second GPU, or a name of ONNX
    Runtime's own. Raises ValueError that says what there is, and what to install, for one that is not there."""
    if wanted is not None and not isinstance(wanted, str):
        raise ValueError(f"provider is {wanted!r}; expected one of {', '.join(PROVIDERS)}")
    ort = runtime()
    short, colon, index = ("cpu" if wanted is None else wanted).partition(":")
    name = PROVIDERS.get(short, short)
    known, there = [*PROVIDERS, *ort.get_all_providers()], ort.get_available_providers()
    if short not in known or (colon and (name not in ON_GPU or not index.isdecimal())):
        raise ValueError(f"provider is {wanted!r}; expected one of {', '.join(PROVIDERS)}, or ONNX Runtime's own name")
    if name not in there:
        has = ", ".join(short for short, full in PROVIDERS.items() if full in there)
        hint = f"install {INSTALL[short]}" if short in INSTALL else "install an ONNX Runtime that has it"
        raise ValueError(
            f"provider is {wanted!r}, which this ONNX Runtime {ort.__version__} has not; it has {has}: {hint}"
        )
    return Provider(name, {"device_id": index} if colon else {})


class Exported:
    """An exported folder whose files are as its manifest says, and its graphs. Many threads may use one."""

    def __init__(self, folder: Path, manifest: Manifest, provider: Provider) -> None:
        self.folder, self.manifest, self.provider = folder, manifest, provider
        self._sessions = {name: Session(folder / name, graph, provider) for name, graph in manifest.graphs.items()}

    def session(self, component: Path, ending: str = "") -> Session:
        """That of a component's folder: of DIR/base/unet the graph base/unet.onnx, with the ending "_edit"
        base/unet_edit.onnx. Raises ValueError where there is none."""
        found = self.found(component, ending)
        if found is None:
            name = f"{component.name}{ending}.onnx"
            raise ValueError(f"{component.parent} has no {name}, which this model needs; export it again")
        return found

    def found(self, component: Path, ending: str = "") -> Session | None:
        """The same, None where there is none."""
        name = component.relative_to(self.folder).as_posix()
        return self._sessions.get(f"{name}{ending}.onnx")

    def held(self, array: NDArray[Any]) -> Held:
        """An array that several calls take, where the provider computes."""
        if self.provider.device == "cpu":
            return array
        index = int(self.provider.options.get("device_id", 0))
        return runtime().OrtValue.ortvalue_from_numpy(array, self.provider.device, index)


class Session:
    """One graph. It is opened by its first call; weights that lie beside it are mapped, not read."""

    def __init__(self, path: Path, graph: Graph, provider: Provider) -> None:
        self.path, self.graph, self.provider = path, graph, provider
        self._opening = threading.Lock()
        self._opened: Any = None

    def __call__(self, inputs: Mapping[str, Held], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Some of the graph's outputs, on the host. Raises ValueError for arrays that the graph does not take, saying
        which it does."""
        check_inputs(self.path.name, self.graph, inputs)
        session, taken = self.opened(), {name: inputs[name] for name in self.graph.inputs}
        made: list[NDArray[Any]]
        if all(isinstance(value, np.ndarray) for value in taken.values()):
            made = session.run(list(outputs), taken)
            return made
        binding = session.io_binding()
        for name, value in taken.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        made = binding.copy_outputs_to_cpu()
        return made

    def opened(self) -> Any:
        """ONNX Runtime's own session, the same for all threads."""
        with self._opening:
            if self._opened is None:
                self._opened = _open(self.path, self.provider)
        return self._opened


def check_inputs(name: str, graph: Graph, inputs: Mapping[str, Held]) -> None:
    """Raise ValueError unless the arrays are of the types and shapes that the graph takes, axes of one name equally
    long, heights and widths multiples of what the graph divides them by."""
    sides: dict[str, int] = {}
    for key, (dtype, axes) in graph.inputs.items():
        value = inputs[key]
        on_host = isinstance(value, np.ndarray)
        shape: tuple[int, ...] = tuple(value.shape if on_host else value.shape())
        fits = len(shape) == len(axes) and 0 not in shape and (not on_host or value.dtype == dtype)
        as_before = []
        for axis, side in zip(axes, shape, strict=False):
            expected = sides.setdefault(axis, side) if isinstance(axis, str) else axis
            fits = fits and side == expected and (axis not in SIDES or side % graph.divides == 0)
            as_before += [f"{axis} {expected}"] if side != expected and axis in sides else []
        if not fits:
            came = f"{value.dtype} {shape}" if on_host else str(shape)
            multiples = [f"height and width multiples of {graph.divides}"] if {*SIDES} & {*axes} else []
            takes = ", ".join([f"{dtype} ({', '.join(map(str, axes))})", *multiples, *as_before])
            raise ValueError(f"{key} is {came}; the graph {name} takes {takes}")


@cache
def runtime() -> ModuleType:
    """ONNX Runtime. Raises ValueError that says what to install where it is missing."""
    return optional("onnxruntime", "pydiff-engine[onnx]", "an exported model")


def _open(path: Path, provider: Provider) -> Any:
    ort = runtime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = native.threads(), 1
    options.log_severity_level = ERRORS_ONLY
    try:
        session = ort.InferenceSession(path, options, providers=[(provider.name, dict(provider.options))])
    except Exception as error:  # ONNX Runtime's own have no other base
        raise ValueError(
            f"{path} is refused by ONNX Runtime {ort.__version__}: {str(error).splitlines()[0]}"
        ) from error
    session.disable_fallback()
    runs = session.get_providers()[0]
    if runs != provider.name:
        raise ValueError(
            f"{provider.name} was asked for, but ONNX Runtime {ort.__version__} runs {runs}: libraries that the first "
            "needs do not load here; see that CUDA and cuDNN are installed, of the versions that its errors name"
        )
    return session
