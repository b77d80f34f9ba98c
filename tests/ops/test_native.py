"""Which implementation runs: PYDIFF_KERNELS, missing cores, and tensors that the core cannot serve."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from pydiff.ops import Step, guided_step, native

CODE = "from pydiff.ops import native; print(native.core() is None, native.why_missing())"


def ask(kernels: str, code: str = CODE) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYDIFF_KERNELS": kernels}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_reference_can_be_asked_for() -> None:
    assert ask("reference").stdout.strip() == "True PYDIFF_KERNELS=reference"


def test_unknown_choice_is_refused() -> None:
    done = ask("fast")
    assert done.returncode != 0
    assert "PYDIFF_KERNELS is 'fast'; expected one of auto, native, reference" in done.stderr


def test_native_refuses_a_missing_core() -> None:
    hide = "import sys; sys.modules['pydiff._C'] = None; "
    done = ask("native", hide + CODE)
    assert "PYDIFF_KERNELS=native, but pydiff._C cannot be imported" in done.stderr
    assert ask("auto", hide + CODE).stdout.startswith("True pydiff._C cannot be imported")


@pytest.mark.skipif(native.core() is None, reason=str(native.why_missing()))
def test_what_the_core_serves() -> None:
    x = torch.zeros(2)
    assert native.serves(x, None) is native.core()
    assert native.serves(x, torch.nn.Parameter(x)) is None
    assert native.serves(x.double()) is None
    assert native.serves(x, x.to("meta")) is None
    with torch.no_grad():
        assert native.serves(torch.nn.Parameter(x)) is native.core()


def test_export_sees_the_reference() -> None:
    class Denoise(torch.nn.Module):
        def forward(self, x: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:
            return guided_step(x, predictions, [2.0, -1.0], Step(0.6, 0.8, 0.3, 0.5))[0]

    given = torch.randn(1, 3, 4, 4), torch.randn(2, 1, 3, 4, 4)
    exported = torch.export.export(Denoise(), given)
    torch.testing.assert_close(exported.module()(*given), Denoise()(*given))
