"""Graphs of an exported folder run by ONNX Runtime, each opened when it is first needed.

Inputs and outputs are bound by their addresses, in the memory where the provider computes: NumPy's arrays on the host,
CuPy's on a GPU, where nothing of a call comes to the host.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pydiff._optional import optional
from pydiff.arrays import Array
from pydiff.ops import native
from pydiff.runtime.manifest import Graph, Manifest
from pydiff.runtime.places import Gpu, Host, Place

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
ON_GPU = tuple(PROVIDERS[name] for name in ("cuda", "tensorrt"))  # which compute with arrays in the GPU's memory
INSTALL = {"cuda": "pydiff-engine[onnx-gpu]", "tensorrt": "pydiff-engine[onnx-gpu] and TensorRT's libraries"}
SIDES = ("height", "width")  # axes that a graph halves
ERRORS_ONLY = 3  # of ONNX Runtime's log
TENSORS = {"float32": "tensor(float)", "int64": "tensor(int64)"}


class Provider(NamedTuple):
    """What runs graphs, by ONNX Runtime's name, with its options."""

    name: str
    options: Mapping[str, Any] = {}

    @property
    def chain(self) -> list[tuple[str, dict[str, Any]]]:
        """What ONNX Runtime is given: what TensorRT does not take of a graph, CUDA computes on the same GPU."""
        names = [self.name, *([PROVIDERS["cuda"]] if self.name == PROVIDERS["tensorrt"] else [])]
        return [(name, dict(self.options)) for name in names]

    def place(self) -> Place:
        """Where it computes. Raises ValueError for a GPU whose memory cannot be used."""
        return Gpu(int(self.options.get("device_id", 0))) if self.name in ON_GPU else Host()


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
    """An exported folder whose files are as its manifest says, and its graphs. Many threads may use one. Raises
    ValueError for a GPU whose memory cannot be used."""

    def __init__(self, folder: Path, manifest: Manifest, provider: Provider) -> None:
        self.folder, self.manifest, self.provider, self.place = folder, manifest, provider, provider.place()
        self._sessions = {
            name: Session(folder / name, graph, provider, self.place) for name, graph in manifest.graphs.items()
        }

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


class Session:
    """One graph. It is opened by its first call; weights that lie beside it are mapped, not read."""

    def __init__(self, path: Path, graph: Graph, provider: Provider, place: Place | None = None) -> None:
        self.path, self.graph, self.provider = path, graph, provider
        self.place = provider.place() if place is None else place
        self._opening = threading.Lock()
        self._opened: Any = None

    def __call__(
        self, inputs: Mapping[str, Any], outputs: Sequence[str], sizes: Mapping[str, int] | None = None
    ) -> list[Array]:
        """Some of the graph's outputs, new arrays where the provider computes, of arrays of any kind. sizes: of axes
        that only outputs have. Raises ValueError for arrays that the graph does not take, saying which it does."""
        sides = {**check_inputs(self.path.name, self.graph, inputs), **(sizes or {})}
        session, place = self.opened(), self.place
        taken = {name: place.dense(inputs[name], dtype) for name, (dtype, _) in self.graph.inputs.items()}
        made = {name: place.empty(self._shape(name, sides), self.graph.outputs[name].dtype) for name in outputs}
        binding = session.io_binding()
        for bind, arrays in ((binding.bind_input, taken), (binding.bind_output, made)):
            for name, array in arrays.items():
                kind: Any = array.dtype  # NumPy's, as CuPy's are
                bind(name, place.device, place.index, kind.type, tuple(array.shape), place.address(array))
        place.settle()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return list(made.values())

    def _shape(self, output: str, sides: Mapping[str, int]) -> tuple[int, ...]:
        shape = self.graph.outputs[output].shape
        return tuple(sides[axis] if isinstance(axis, str) else axis for axis in shape)

    def opened(self) -> Any:
        """ONNX Runtime's own session, the same for all threads."""
        with self._opening:
            if self._opened is None:
                opened = _open(self.path, self.provider)
                check_outputs(self.path.name, self.graph, {one.name: one.type for one in opened.get_outputs()})
                self._opened = opened
        return self._opened


def check_inputs(name: str, graph: Graph, inputs: Mapping[str, Any]) -> dict[str, int]:
    """The lengths of the axes that have names. Raises ValueError unless the arrays are of the types and shapes that the
    graph takes, axes of one name equally long, heights and widths multiples of what the graph divides them by."""
    sides: dict[str, int] = {}
    for key, (dtype, axes) in graph.inputs.items():
        value = inputs[key]
        shape = tuple(value.shape)
        fits = len(shape) == len(axes) and 0 not in shape and value.dtype == dtype
        as_before = []
        for axis, side in zip(axes, shape, strict=False):
            expected = sides.setdefault(axis, side) if isinstance(axis, str) else axis
            fits = fits and side == expected and (axis not in SIDES or side % graph.divides == 0)
            as_before += [f"{axis} {expected}"] if side != expected and axis in sides else []
        if not fits:
            multiples = [f"height and width multiples of {graph.divides}"] if {*SIDES} & {*axes} else []
            takes = ", ".join([f"{dtype} ({', '.join(map(str, axes))})", *multiples, *as_before])
            raise ValueError(f"{key} is {value.dtype} {shape}; the graph {name} takes {takes}")
    return sides


def check_outputs(name: str, graph: Graph, types: Mapping[str, str]) -> None:
    """Raise ValueError unless the outputs are of the types that memory is made for, by ONNX Runtime's names."""
    for key, (dtype, _) in graph.outputs.items():
        if types.get(key) != TENSORS.get(dtype, dtype):
            raise ValueError(f"the graph {name} makes {key} as {types.get(key)}; expected {dtype}: export it again")


@cache
def runtime() -> ModuleType:
    """ONNX Runtime. Raises ValueError that says what to install where it is missing."""
    return optional("onnxruntime", "pydiff-engine[onnx]", "an exported model")


def _open(path: Path, provider: Provider) -> Any:
    ort = runtime()
    if provider.name in ON_GPU:
        with redirect_stdout(sys.stderr):
            ort.preload_dlls()  # of the packages that CUDA and cuDNN were installed by
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = native.threads(), 1
    options.log_severity_level = ERRORS_ONLY
    try:
        session = ort.InferenceSession(path, options, providers=provider.chain)
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
