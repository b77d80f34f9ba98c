"""Token merging as an option: that it is off by default, what it goes with, and what refuses it."""

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
from pydiff.nn.cond import Prepared
from pydiff.walk import Network
from tests.checkpoints import makers

PROMPT = "a red circle left of a blue square"
OTHER = "a green circle left of a blue square"
UNET: dict[str, Any] = {  # a network of pixels that reads no words
    "sample_size": 16,
    "block_out_channels": (32, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
}
CALL: dict[str, Any] = {"size": 64, "num_inference_steps": 4, "output_type": "np", "seed": 7}


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What every network call is told to merge."""
    seen: list[float] = []
    prepare = Network._prepare

    def told(self: Network, *given: Any) -> Any:
        for rows, prepared in prepare(self, *given):
            assert isinstance(prepared, Prepared)
            seen.append(prepared.merge)
            yield rows, prepared

    monkeypatch.setattr(Network, "_prepare", told)
    return seen


def test_off_is_the_exact_picture(pipe: pydiff.Pipeline) -> None:
    plain = pipe.generate(PROMPT, **CALL)
    assert plain.settings[0]["merge_tokens"] == [None]
    assert np.array_equal(plain.images, pipe.generate(PROMPT, merge_tokens=0, **CALL).images)
    merged = pipe.generate(PROMPT, merge_tokens=0.5, **CALL)
    assert merged.settings[0]["merge_tokens"] == [0.5]
    assert not np.array_equal(plain.images, merged.images)
    assert np.abs(plain.images - merged.images).mean() < 0.1


def test_it_is_of_one_stage(pipe: pydiff.Pipeline, shares: list[float]) -> None:
    steps: dict[str, Any] = {"num_inference_steps": [2, 2], "size": 256, "seed": 7, "output_type": "np"}
    made = pipe.generate(PROMPT, merge_tokens=0.25, **steps)
    assert shares == [0.25, 0.0]
    assert made.settings[0]["merge_tokens"] == [0.25, None]
    listed = pipe.generate(PROMPT, merge_tokens=[0.25, 0], **steps)
    assert np.array_equal(made.images, listed.images)


def test_a_picture_does_not_depend_on_its_batch(pipe: pydiff.Pipeline) -> None:
    prompts = [PROMPT, "a green star", "two black crosses on pink"]
    alone = [pipe.generate(prompt, merge_tokens=0.5, **CALL).images[0] for prompt in prompts]
    together = pipe.generate(prompts, merge_tokens=0.5, **CALL | {"seed": [7] * 3}).images
    assert np.abs(np.stack(alone) - together).max() < 1e-5
    with ThreadPoolExecutor(3) as pool:
        at_once = list(pool.map(lambda prompt: pipe.generate(prompt, merge_tokens=0.5, **CALL).images[0], prompts))
    assert all(map(np.array_equal, alone, at_once))


def test_it_goes_with_the_others(pipe: pydiff.Pipeline) -> None:
    how: dict[str, Any] = {"merge_tokens": 0.4, "cache_steps": 2, "guidance_interval": (0.2, 0.9), **CALL}
    together, turns = (pipe.generate(PROMPT, low_memory=low, **how).images for low in (False, True))
    assert np.abs(together - turns).max() < 1e-5


def test_plans_and_modules_make_the_same_pictures(pipe: pydiff.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = pipe.generate(PROMPT, merge_tokens=0.5, **CALL).images
    monkeypatch.setattr("pydiff.runtime.planned.network.why_not", lambda network: "not in this test")
    unplanned = pydiff.load()
    assert type(unplanned.cascade.stages[0].unet) is UNet
    module = unplanned.generate(PROMPT, merge_tokens=0.5, **CALL).images
    assert np.abs(planned - module).mean() < 1e-3


@pytest.mark.parametrize("value", [-0.1, 0.75, 1, "a", True, float("nan")])
def test_others_are_refused(pipe: pydiff.Pipeline, value: Any) -> None:
    with pytest.raises(ValueError, match="merge_tokens is"):
        pipe.generate(PROMPT, merge_tokens=value, **CALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capture": "circle"}, "capture is given"),
        ({"pag_scale": 2.0}, "pag_scale is given"),
        ({"cross_frame": True}, "cross_frame is given"),
    ],
)
def test_what_reads_or_changes_attention_refuses_it(
    pipe: pydiff.Pipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"merge_tokens is 0\.5, but {message}"):
        pipe.generate(PROMPT, merge_tokens=0.5, **options, **CALL)
    pipe.generate(PROMPT, merge_tokens=0, **options, **CALL)


@pytest.mark.parametrize("method", ["prompt_to_prompt", "masactrl", "plug_and_play"])
def test_edits_refuse_it(pipe: pydiff.Pipeline, method: str) -> None:
    with pytest.raises(ValueError, match=r"merge_tokens is 0\.5, but an edit"):
        pipe.edit(PROMPT, OTHER, method=method, merge_tokens=0.5, **CALL)


def test_inversion_refuses_it(pipe: pydiff.Pipeline) -> None:
    with pytest.raises(ValueError, match="merge_tokens is given, but an inversion"):
        pipe.invert(np.zeros((64, 64, 3), np.uint8), PROMPT, merge_tokens=0.5, size=64)


def test_networks_that_cannot_refuse_it(pipe: pydiff.Pipeline) -> None:
    with pytest.raises(UnexportedError, match="merge_tokens is not in an exported model"):
        pydiff.load(provider="cpu").generate(PROMPT, merge_tokens=0.5, **CALL)
    with pytest.raises(ValueError, match="no layer attends to pixels"):
        pipe.generate(PROMPT, merge_tokens=[0.5, 0.5], size=256, num_inference_steps=[1, 1])


def test_networks_of_pixels_merge(tmp_path: Path) -> None:
    torch.manual_seed(0)
    makers.saved(diffusers.DDIMPipeline(diffusers.UNet2DModel(**UNET), diffusers.DDIMScheduler()), tmp_path)
    pipe = pydiff.load(tmp_path)
    call: dict[str, Any] = {"num_inference_steps": 2, "seed": 7, "output_type": "np"}
    plain, merged = (pipe.generate(merge_tokens=share, **call).images for share in (None, 0.5))
    assert 0 < np.abs(plain - merged).max() < 0.2


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = ["generate", PROMPT, "--size", "64", "--steps", "2", "--seed", "7", "--merge-tokens", "0.5"]
    assert cli.main([*call, "-o", "a.png"]) == 0
    assert read_settings(tmp_path / "a.png")["merge_tokens"] == [0.5]
    assert cli.main(["generate", "--from", "a.png", "-o", "b.png"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
