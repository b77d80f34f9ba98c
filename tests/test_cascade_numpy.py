"""The walk through stages on NumPy's arrays, in a process where torch cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MODULES = [
    "pydiff.arrays",
    "pydiff.cascade",
    "pydiff.diffusion",
    "pydiff.diffusion.classifier",
    "pydiff.diffusion.edits",
    "pydiff.diffusion.inversion",
    "pydiff.diffusion.local_blend",
    "pydiff.diffusion.windows",
    "pydiff.networks",
    "pydiff.nn.cond",
    "pydiff.nn.edit",
    "pydiff.ops.guided_step",
]
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\n"
RUN = """
from types import SimpleNamespace

import numpy as np

from pydiff.cascade import Branch, Leg, Stage, StageDefaults, StagePlan, Start
from pydiff.walk import run
from pydiff.diffusion import Noise, SamplerConfig, NoiseSchedule, classifier_free, make_threshold
from pydiff.diffusion.windows import make_windows
from pydiff.nn.cond import Cond
from pydiff.nn.edit import AttentionEdit, Heat

LIKE = np.empty(0, np.float32)


class Network:
    config = SimpleNamespace(out_channels=3, block_out_channels=(4,))
    like = LIKE
    calls = []

    def prepare(self, cond):
        return cond

    def __call__(self, x, t, cond):
        assert x.dtype == t.dtype == np.float32 and t.shape == () and len(x) == len(cond.text)
        if cond.edit is not None:
            cond.edit.captures[0].heat.add(4, np.ones((len(x), 4, 1), np.float32))
        self.calls.append(x.shape)
        return np.tanh(x[:, :3] + cond.text.mean())


class Codec:
    config, factor, like = SimpleNamespace(latent_channels=3), 2, LIKE

    def unscaled(self, x):
        return x * 2

    def decode(self, z, **options):
        return z.repeat(2, axis=2).repeat(2, axis=3)


sampling = SamplerConfig("ddpm", NoiseSchedule.make(), make_threshold("static"), "leading")
stage = Stage(Network(), sampling, (8, 8), StageDefaults(4, 3.0), codec=Codec())
table = sampling.table(4)
plan = StagePlan(stage, table, classifier_free(3.0, table.levels), sampling.threshold, (8, 8), None, {})
if sys.argv[1:]:
    plan = plan._replace(windows=make_windows((4, 4), (4, 3), 0.5))
heat = Heat()


def begin(before):
    noise = Noise([1, 2])
    x = noise(stage.shape(plan.size), like=LIKE)
    texts = [np.full((2, 5, 6), share, np.float32) for share in (0.1, 0.2)]
    branches = [Branch(Cond(text, np.ones((2, 5), np.float32)), np.zeros_like(x)) for text in texts]
    probe = np.ones((4, 5, 1), np.float32)
    return Start(x, noise, branches, edit=lambda level, which: AttentionEdit(5).capturing(probe, heat))


*_, last = run([Leg(plan, begin)])
assert last.done and last.picture.shape == (2, 3, 8, 8) and last.picture.dtype == np.float32
assert np.isfinite(last.picture).all() and len(Network.calls) == 4
assert Network.calls[0] == ((8, 6, 4, 3) if sys.argv[1:] else (4, 6, 4, 4))
assert heat.counts == {4: 4} and (heat.mean(4) == 1).all() and heat.sums[4].dtype == np.float32
assert sys.modules["torch"] is None
"""


def python(code: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + code, *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_it_imports_no_torch(module: str) -> None:
    python(f"import {module}")


@pytest.mark.parametrize("windows", [(), ("windows",)])
def test_a_stage_runs(windows: tuple[str, ...]) -> None:
    python(RUN, *windows)
