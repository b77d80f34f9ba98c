"""Which engine a command runs on."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydiff.cli.options import open_model

if TYPE_CHECKING:
    from pydiff.tasks.run import Result

TORCHS = ("dtype", "int8", "device", "variant", "tokenizer", "compile")  # options that are torch's
MOST_PICTURES, MOST_SIDE = 2, 256  # of one call, and pixels; of more, torch makes up for the time of its import


def run_task(arguments: argparse.Namespace, task: str, call: Mapping[str, Any], default: str | None) -> Result:
    """What the pipeline's method `task` makes. default: the model where none is named.

    The models that pydiff carries start on ONNX Runtime, which is ready long before torch is imported, where
    `on_onnx_runtime` says so. What it refuses of them (it does so before any work), and all else, runs on torch.
    """
    from pydiff.networks import UnexportedError

    if on_onnx_runtime(arguments, call, default):
        with suppress(UnexportedError):
            return _run(arguments, task, call, default, provider="cpu", ahead=True)
    return _run(arguments, task, call, default)


def on_onnx_runtime(arguments: argparse.Namespace, call: Mapping[str, Any], default: str | None = None) -> bool:
    """Whether a call starts on ONNX Runtime: it is installed, the model is one that pydiff carries, no option is
    torch's, no provider is named, and there is so little to do that importing torch would take longer."""
    from pydiff.pipeline import EMBEDDED_NAME, SHIPPED

    named = arguments.model or [default or EMBEDDED_NAME]
    if len(named) > 1 or named[0] not in SHIPPED or arguments.provider is not None:
        return False
    if any(getattr(arguments, option) is not None for option in TORCHS) or _is_much(call):
        return False
    try:
        importlib.import_module("onnxruntime")
    except ImportError:
        return False
    return True


def _run(arguments: argparse.Namespace, task: str, call: Mapping[str, Any], default: str | None, **how: Any) -> Result:
    made: Result = getattr(open_model(arguments, default, **how), task)(**call)
    return made


def _is_much(call: Mapping[str, Any]) -> bool:
    """Whether so many or so large pictures are asked for, as far as the call says it; it is not checked yet."""
    image, target = call.get("image"), call.get("target")
    numbers = {name: value for name, value in call.items() if isinstance(value, int)}
    sides = [numbers[name] for name in ("size", "height", "width") if name in numbers]
    sides = sides or ([] if image is None else [*image.size])
    pictures = (1 + len(target) if isinstance(target, list) else 1) * numbers.get("num_images_per_prompt", 1)
    return pictures > MOST_PICTURES or max(sides, default=0) > MOST_SIDE
