"""Step caching: which evaluations are whole, what the others reuse, and that it is off by default."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import pydiff
from pydiff import cli
from pydiff.images import read_settings
from pydiff.models.unet import UNet
from pydiff.networks import UnexportedError
from pydiff.nn.cond import Cond
from pydiff.runtime.planned import PlannedUNet
from pydiff.step_cache import StepCache
from tests.checkpoints import makers

PROMPT = "a red circle left of a blue square"
SMALL: dict[str, Any] = {  # a network of pixels that reads no words
    "sample_size": 16,
    "block_out_channels": (32, 32),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
}
CALL: dict[str, Any] = {"size": 64, "num_inference_steps": 5, "output_type": "np", "seed": 7}


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Of every network call how many rows, and whether all levels ran."""
    seen: list[tuple[int, bool]] = []

    def watch(kind: type[UNet] | type[PlannedUNet]) -> None:
        reusing = kind.reusing

        def told(self: Any, x: Any, t: Any, cond: Any, deep: Any) -> Any:
            seen.append((len(x), deep is None))
            return reusing(self, x, t, cond, deep)

        monkeypatch.setattr(kind, "reusing", told)

    watch(PlannedUNet if isinstance(pydiff.load().cascade.stages[0].unet, PlannedUNet) else UNet)
    return seen


def test_every_so_many_evaluations_one_is_whole(pipe: pydiff.Pipeline, evaluated: list[tuple[int, bool]]) -> None:
    made = pipe.generate(PROMPT, cache_steps=3, **CALL)
    assert evaluated == [(2, True), (2, False), (2, False), (2, True), (2, False)]
    assert made.settings[0]["cache_steps"] == [3]


def test_other_branches_are_evaluated_whole(pipe: pydiff.Pipeline, evaluated: list[tuple[int, bool]]) -> None:
    scales = [1.0, 1.0, 3.0, 3.0, 1.0]
    pipe.generate(PROMPT, cache_steps=5, guidance_scale=[scales], **CALL)
    assert evaluated == [(1, True), (1, False), (2, True), (2, False), (1, True)]


def test_it_goes_with_low_memory(pipe: pydiff.Pipeline) -> None:
    together, turns = (pipe.generate(PROMPT, cache_steps=2, low_memory=low, **CALL).images for low in (False, True))
    assert np.abs(together - turns).max() < 1e-5


def test_off_is_the_exact_picture(pipe: pydiff.Pipeline) -> None:
    plain = pipe.generate(PROMPT, **CALL)
    assert plain.settings[0]["cache_steps"] == [None]
    assert np.array_equal(plain.images, pipe.generate(PROMPT, cache_steps=1, **CALL).images)
    assert not np.array_equal(plain.images, pipe.generate(PROMPT, cache_steps=2, **CALL).images)


def test_runs_at_once_keep_their_own(pipe: pydiff.Pipeline) -> None:
    prompts = [PROMPT, "a green star", "two black crosses on pink"]
    alone = [pipe.generate(prompt, cache_steps=2, **CALL).images for prompt in prompts]
    with ThreadPoolExecutor(3) as pool:
        at_once = list(pool.map(lambda prompt: pipe.generate(prompt, cache_steps=2, **CALL).images, prompts))
    assert all(map(np.array_equal, alone, at_once))


@torch.no_grad()
def test_features_of_the_same_x_change_nothing(pipe: pydiff.Pipeline) -> None:
    unet = pipe.cascade.stages[0].unet
    module: UNet = getattr(unet, "module", unet)
    rng = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 3, 32, 48, generator=rng), torch.randn(2, 9, module.config.text_dim, generator=rng)
    cond, t = module.prepare(Cond(text)), torch.tensor(500.0)
    whole, deep = module.reusing(x, t, cond, None)
    assert torch.equal(whole, module(x, t, cond))
    assert deep.shape[-2:] == x.shape[-2:]
    again, same = module.reusing(x, t, cond, deep)
    assert torch.equal(again, whole)
    assert same is deep


def test_a_cache_is_of_one_network() -> None:
    class Counted:
        def __init__(self) -> None:
            self.whole = 0

        def reusing(self, x: Any, t: Any, prepared: Any, deep: Any, /) -> tuple[Any, Any]:
            self.whole += deep is None
            return x, x

    first, second, cache = Counted(), Counted(), StepCache(4)
    x: Any = np.zeros((1, 3, 8, 8))
    for network in (first, first, second, first):
        cache(network, [(x, None)], x, (0,))
    assert (first.whole, second.whole) == (2, 1)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_others_are_refused(pipe: pydiff.Pipeline, value: Any) -> None:
    with pytest.raises(ValueError, match="cache_steps is"):
        pipe.generate(PROMPT, cache_steps=value, **CALL)


def test_networks_that_keep_nothing_refuse_it(tmp_path: Path) -> None:
    with pytest.raises(UnexportedError, match="cache_steps is not in an exported model"):
        pydiff.load(provider="cpu").generate(PROMPT, cache_steps=2, **CALL)
    makers.saved(diffusers.DDIMPipeline(diffusers.UNet2DModel(**SMALL), diffusers.DDIMScheduler()), tmp_path)
    with pytest.raises(ValueError, match="no levels that could be kept"):
        pydiff.load(tmp_path).generate(num_inference_steps=2, cache_steps=2)


def test_the_command_runs_it_on_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = ["generate", PROMPT, "--size", "64", "--steps", "3", "--seed", "7", "--cache-steps", "2"]
    assert cli.main([*call, "-o", "a.png"]) == 0
    assert read_settings(tmp_path / "a.png")["cache_steps"] == [2]
