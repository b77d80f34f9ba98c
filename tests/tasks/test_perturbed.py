"""Perturbed-attention guidance: the pictures are those of diffusers' own pipeline, and in joint attention those of maps
that are formed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

import pydiff
from pydiff.cascade import Branch, Start
from pydiff.diffusion.guidance import fading, make_guidance, perturbed
from pydiff.diffusion.noise import Noise
from pydiff.nn.cond import Cond
from pydiff.nn.edit import AttentionEdit, Heat, Layers, MapEdit, PixelEdit, RowsIn
from pydiff.tasks.generate import generate
from pydiff.tasks.perturbed import with_perturbed
from pydiff.tasks.plan import make_options, plan_stages
from pydiff.tasks.request import Call
from tests.checkpoints import makers

WORDS = ["the red cat on a table", "a cat"]
STEPS = 4


def as_pag(theirs: Any, layers: Any = "mid") -> Any:
    made = diffusers.StableDiffusionPAGPipeline(
        **theirs.components, requires_safety_checker=False, pag_applied_layers=layers
    )
    made.set_progress_bar_config(disable=True)
    return made


def compare(theirs: Any, ours: Any, tolerance: float, layers: Any = None, **call: Any) -> None:
    call = {"prompt": WORDS, "num_inference_steps": STEPS, **call}
    expected = theirs(**call, generator=makers.generators([3, 4]), output_type="latent").images
    how = {**call, "seed": [3, 4], "output_type": "latent", "pag_layers": layers}
    made = ours.generate(**how).images
    assert (made - expected).abs().max() < tolerance
    assert (made - ours.generate(**{**how, "pag_scale": 0}).images).abs().max() > 100 * tolerance


CALLS: list[dict[str, Any]] = [
    {"guidance_scale": 5.0, "pag_scale": 3.0},
    {"guidance_scale": 1.0, "pag_scale": 3.0},
    {"guidance_scale": 5.0, "pag_scale": 2.0, "pag_adaptive_scale": 0.003},
    {"guidance_scale": 5.0, "pag_scale": 3.0, "guidance_rescale": 0.7},
    {"guidance_scale": 0.0, "pag_scale": 4.0, "pag_adaptive_scale": 0.005, "negative_prompt": ["a table"] * 2},
]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_pictures_are_those_of_diffusers(tmp_path: Path, call: dict[str, Any]) -> None:
    theirs = as_pag(makers.stable_diffusion(tmp_path, sampler="ddim").to(torch.float64))
    makers.widened(theirs.scheduler)
    compare(theirs, pydiff.load(tmp_path, dtype=torch.float64), 1e-6, **call)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddpm"])
def test_float32_and_other_layers(tmp_path: Path, sampler: str) -> None:
    theirs = as_pag(makers.stable_diffusion(tmp_path, sampler=sampler), ["up_blocks.0.attentions.1", "down"])
    layers = ["up_blocks.0.attentions.1.*", "down_blocks.*"]
    compare(theirs, pydiff.load(tmp_path), 5e-4, layers, guidance_scale=4.0, pag_scale=2.5)


class Itself:
    """Joint attention of which, in the last of three branches, what falls on pixels falls on the pixel itself."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        x, words = attn.group_norm(hidden_states.flatten(2)).mT, attn.norm_encoder_hidden_states(encoder_hidden_states)
        k = torch.cat([attn.add_k_proj(words), attn.to_k(x)], dim=1)
        v = torch.cat([attn.add_v_proj(words), attn.to_v(x)], dim=1)
        q, k, v = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in (attn.to_q(x), k, v))
        maps, text = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1), words.shape[1]
        own = torch.diag_embed(maps[..., text:].sum(-1))
        count = len(maps) // 3 * 2
        maps = torch.cat([maps[:count], torch.cat([maps[..., :text], own], dim=-1)[count:]])
        out = attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))
        return out.mT.reshape(hidden_states.shape) + hidden_states


def test_joint_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = makers.deepfloyd(tmp_path).to(torch.float64)
    ours = pydiff.load(tmp_path, dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # diffusers pools the text in float32
    scale, pag = 4.0, 2.0
    plan = generate(ours.cascade, Call(WORDS, seed=3, options={"guidance_scale": scale, "pag_scale": pag})).plans[0]
    assert plan.guidance.weights[0] == (scale + pag, 1 - scale, -pag)
    assert plan.perturbed is not None
    assert plan.perturbed.names == {"mid_block.attentions.0"}
    prompt, null = ours.cascade.stages[0].text.encode_pair(WORDS, [None] * 2)
    states = torch.cat([prompt.states, null.states, prompt.states])
    plain = theirs.unet.mid_block.attentions[0].processor
    seen: list[Tensor] = []

    def step(state: Any) -> None:
        seen.append(state.x)

    options = {"num_inference_steps": 2, "guidance_scale": scale, "pag_scale": pag, "sampler": "ddim"}
    options |= {"thresholding": "none", "seed": [3, 4], "output_type": "latent", "watch": step}
    ours.generate(WORDS, **options)
    x = torch.stack([torch.randn(3, 16, 16, generator=one, dtype=torch.float64) for one in makers.generators([3, 4])])
    for level, t in enumerate((500, 0)):
        theirs.unet.mid_block.attentions[0].set_processor(Itself())
        made = theirs.unet(torch.cat([x] * 3), t, states).sample[:, :3].unflatten(0, (3, 2))
        theirs.unet.mid_block.attentions[0].set_processor(plain)
        guided = (scale + pag) * made[0] + (1 - scale) * made[1] - pag * made[2]
        now = theirs.scheduler.alphas_cumprod[t].double()
        then = theirs.scheduler.alphas_cumprod[0].double() if level == 0 else torch.ones(())
        denoised = (x - (1 - now).sqrt() * guided) / now.sqrt()
        x = then.sqrt() * denoised + (1 - then).sqrt() * guided
        torch.testing.assert_close(seen[level], x, atol=2e-6, rtol=0)


def test_weights_are_per_level_and_a_branch_of_none_is_not_evaluated(pipe: pydiff.Pipeline) -> None:
    stage = pipe.cascade.stages[:1]
    options = {"num_inference_steps": 3, "guidance_scale": 1.0, "pag_scale": [[0.0, 2.0, 0.5]]}
    plan = plan_stages(stage, make_options(options))[0]
    assert plan.guidance.weights == ((1.0, 0.0), (3.0, -2.0), (1.5, -0.5))
    assert [plan.guidance.active(level) for level in range(3)] == [(0,), (0, 1), (0, 1)]
    assert not plan.guided
    both = plan_stages(stage, make_options({**options, "guidance_scale": 3.0, "pag_scale": lambda at, of: at}))[0]
    assert both.guidance.weights == ((3.0, -2.0, 0.0), (4.0, -2.0, -1.0), (5.0, -2.0, -2.0))
    assert [both.guidance.active(level) for level in range(3)] == [(0, 1), (0, 1, 2), (0, 1, 2)]
    assert both.guided
    off = plan_stages(stage, make_options({"pag_scale": 0.0, "pag_layers": "up_blocks.*"}))[0]
    assert (off.perturbed, len(off.guidance.weights[0])) == (None, 2)
    assert off.said["pag_layers"]
    assert fading([3.0, 3.0, 3.0], 0.01, [999, 800, 3]) == [pytest.approx(2.99), pytest.approx(1.0), 0.0]
    assert perturbed(make_guidance([[2.0, -1.0]], 0.5), [1.0]) == make_guidance([[3.0, -1.0, -1.0]], 0.5)


def test_levels_without_it_are_as_they_would_be(pipe: pydiff.Pipeline) -> None:
    how: dict[str, Any] = {"size": 64, "num_inference_steps": 3, "seed": 5, "output_type": "np"}
    plain = pipe.generate("a red circle", **how).images
    seen: list[Tensor] = []
    other = pipe.generate("a red circle", pag_scale=[[0.0, 0.0, 3.0]], watch=lambda s: seen.append(s.x), **how).images
    states = [state.x for state in pipe.stream("a red circle", size=64, num_inference_steps=3, seed=5)]
    torch.testing.assert_close(seen[1], states[1], atol=1e-5, rtol=0)
    assert np.abs(plain - other).max() > 1e-3


def test_a_batch_equals_its_pictures_alone_and_settings_repeat_them(pipe: pydiff.Pipeline) -> None:
    layers = ["mid*", "up_blocks.0*"]
    how: dict[str, Any] = {"size": 256, "num_inference_steps": [2, 1], "pag_scale": 2.0, "pag_layers": layers}
    both = pipe.generate(["a red circle", "a blue ring left of a green star"], seed=5, output_type="np", **how)
    for index, settings in enumerate(both.settings):
        kept = {name: value for name, value in settings.items() if name not in ("task", "model", "version")}
        again = pipe.generate(**kept, output_type="np").images
        assert np.abs(again[0] - both.images[index]).max() < 1e-4
        assert settings["pag_scale"] == [2.0, 0.0]


def test_an_edit_is_the_same_in_the_perturbed_branch(pipe: pydiff.Pipeline) -> None:
    how: dict[str, Any] = {"seed": 5, "size": 64, "num_inference_steps": 4, "pag_scale": 2.0, "output_type": "np"}
    own = {"self_replace": 0.4, "pooled_replace": 0.0, "spatial_replace": 0.0, "local_blend": "circle"}
    made = pipe.edit("a red circle", "a blue circle", **own, **how)
    same = pipe.edit("a red circle", ["a red circle", "a blue circle"], **own, **how)
    alone = pipe.generate("a red circle", **how)
    assert np.abs(made.images[0] - alone.images[0]).max() < 1e-4
    assert np.abs(same.images[1] - alone.images[0]).max() < 1e-4  # the identity edit changes nothing
    assert np.abs(same.images[2] - made.images[1]).max() < 1e-4
    assert np.abs(made.images[1] - alone.images[0]).max() > 0.1


def test_the_perturbed_branch_borrows_as_branch_0_does_from_its_own_rows() -> None:
    """Whatever an edit holds of rows, of two branches of three."""
    rows, probe = torch.tensor([0, 0, 1, 3, 3, 5]), torch.rand(6, 4, 2)
    tables = {"source": rows, "transfer": torch.rand(6, 4, 4), "keep": torch.rand(6, 4), "pooled": rows}
    own = MapEdit(lambda source, target, at: target, rows, 0.5)
    edit = AttentionEdit(4, **tables, pixel_edit=PixelEdit(rows, "map"), features=RowsIn(rows), map_edit=own)
    edit = edit.capturing(probe, Heat())
    cond = Branch(Cond(torch.zeros(3, 4, 8)))
    start = Start(torch.zeros(3, 4, 8, 8), Noise([1, 2, 3]), [cond, cond], edit=lambda level, branches: edit)
    made = with_perturbed(start, Layers(frozenset(["mid"])))
    assert len(made.branches) == 3
    assert made.edit is not None
    assert made.edit(0, (0, 1)) is edit
    repeated = made.edit(0, (0, 1, 2))
    assert repeated is not None
    assert repeated.pixel_edit is not None
    assert repeated.features is not None
    assert repeated.map_edit is not None
    assert repeated.perturbed is not None
    for part in (repeated.source, repeated.pooled, repeated.pixel_edit[0], repeated.features[0], repeated.map_edit[1]):
        assert part.tolist() == [*rows.tolist(), 6, 6, 7]
    assert torch.equal(repeated.transfer[6:], edit.transfer[:3])  # type: ignore[index]
    assert torch.equal(repeated.keep[6:], edit.keep[:3])  # type: ignore[index]
    assert torch.equal(repeated.probe, torch.cat([probe, torch.zeros(3, 4, 2)]))
    assert repeated.perturbed.rows.tolist() == [False] * 6 + [True] * 3
    assert repeated.perturbed.layers.names == {"mid"}


def test_a_network_that_reads_no_words(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=2, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    diffusers.DDIMPipeline(makers.lively(unet), makers.scheduler("ddim", clip_sample=False)).save_pretrained(tmp_path)
    ours = pydiff.load(tmp_path)
    assert ours.cascade.stages[0].unet.layers["mid_block.attentions.0"]
    how: dict[str, Any] = {"seed": 3, "num_inference_steps": 3, "output_type": "latent"}
    plain = ours.generate(**how).images
    assert (ours.generate(**how, pag_scale=3.0).images - plain).abs().max() > 1e-3


BAD: list[tuple[dict[str, Any], str]] = [
    ({"pag_scale": -1.0}, "pag_scale is -1.0; expected a number from 0"),
    ({"pag_scale": float("nan")}, "pag_scale is nan; expected a finite number"),
    ({"pag_scale": "much"}, "pag_scale is 'much'"),
    ({"pag_scale": [[1.0], 0.0], "num_inference_steps": 2}, "pag_scale lists 1 numbers, but the run has 2"),
    ({"pag_scale": [1.0]}, "pag_scale lists 1 values, but 2 stages run"),
    ({"pag_scale": lambda level, levels: None}, "pag_scale is None"),
    ({"pag_scale": 1.0, "pag_adaptive_scale": -0.5}, "pag_adaptive_scale is -0.5; expected a number from 0"),
    ({"pag_adaptive_scale": "x"}, "pag_adaptive_scale is 'x'"),
    ({"pag_layers": "middle"}, "pag_layers has 'middle', which fits no layer; the .* layers are "),
    ({"pag_layers": ["mid*", "*.resnets.*"], "pag_scale": 1.0}, "pag_layers has '.*resnets"),
    ({"pag_layers": []}, r"pag_layers is \[\]; expected a layer's name, or a list of names"),
    ({"pag_layers": 3}, "pag_layers is 3"),
    ({"pag_layers": [["mid*"], [4]]}, r"pag_layers is \[4\]"),
    ({"pag_layers": [["mid*"]]}, "pag_layers lists 1 values, but 2 stages run"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=str)
def test_what_does_not_fit_is_refused_before_work(
    pipe: pydiff.Pipeline, idle: None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.generate("a red circle", size=256, **options)
