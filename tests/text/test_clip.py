"""CLIP encoders against diffusers' encode_prompt: Stable Diffusion, Stable Diffusion XL, unCLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pydiff.text.encoders import TextEncoder
from pydiff.text.torch_networks import load_text_encoder
from tests.text import clip_folders as clip
from tests.text.clip_folders import PROMPTS

NEGATIVES = ["blurry", "", "a dog", "the " * 20]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(diffusers' pipeline, ours) by family and options, made once."""
    made: dict[str, tuple[Any, TextEncoder]] = {}

    def open_(family: str, **options: Any) -> tuple[Any, TextEncoder]:
        key = f"{family} {options}"
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            made[key] = clip.make_folder(folder, family, **options), load_text_encoder(folder)
        return made[key]

    return open_


def close(ours: torch.Tensor | None, theirs: torch.Tensor) -> None:
    assert ours is not None
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("clip_skip", [None, 0, 1, 2])
@pytest.mark.parametrize("negatives", [None, NEGATIVES])
def test_stable_diffusion(opened: Any, clip_skip: int | None, negatives: list[str] | None) -> None:
    peer, ours = opened("sd")
    states, null = clip.sd_states(peer, PROMPTS, negatives, clip_skip)
    made, other = ours.encode_pair(PROMPTS, negatives or [None] * len(PROMPTS), clip_skip=clip_skip)
    close(made.states, states)
    close(other.states, null)
    assert made.pooled is None
    assert made.mask is None
    assert (ours.width, ours.pooled_width) == (states.shape[-1], None)


def test_the_mask_is_read_where_the_config_says_so(opened: Any) -> None:
    peer, ours = opened("sd", use_attention_mask=True)
    close(ours.encode(PROMPTS).states, clip.sd_states(peer, PROMPTS, None, None)[0])
    assert ours.runners[0].config.use_attention_mask


@pytest.mark.parametrize("family", ["xl", "refiner"])
@pytest.mark.parametrize("clip_skip", [None, 1, 2])
@pytest.mark.parametrize("zeros", [True, False])
def test_stable_diffusion_xl(opened: Any, family: str, clip_skip: int | None, zeros: bool) -> None:
    peer, ours = opened(family, zeros=zeros)
    for negatives in (None, NEGATIVES):
        expected = clip.xl_states(peer, PROMPTS, negative_prompt=negatives, clip_skip=clip_skip)
        made, other = ours.encode_pair(PROMPTS, negatives or [None] * len(PROMPTS), clip_skip=clip_skip)
        for mine, theirs in zip((made.states, other.states, made.pooled, other.pooled), expected, strict=True):
            close(mine, theirs)
        assert bool((other.states == 0).all()) == (zeros and negatives is None)
        assert made.mask is None
    assert (ours.width, ours.pooled_width) == (expected[0].shape[-1], 24)


def test_second_prompts(opened: Any) -> None:
    peer, ours = opened("xl")
    second, other = [*PROMPTS[::-1][:3], "a"], ["b", "c", "the the", "d"]
    expected = clip.xl_states(peer, PROMPTS, prompt_2=second, negative_prompt=NEGATIVES, negative_prompt_2=other)
    made = ours.encode_pair(PROMPTS, NEGATIVES, second, other)
    for mine, theirs in zip((made[0].states, made[1].states, made[0].pooled, made[1].pooled), expected, strict=True):
        close(mine, theirs)


def test_only_a_prompt_that_is_not_there_is_zero(opened: Any) -> None:
    _, ours = opened("xl")
    made = ours.encode([None, "", None, "a cat"], second=[None, None, "a dog", None])
    assert [bool((row == 0).all()) for row in made.states] == [True, False, False, False]
    assert [bool((row == 0).all()) for row in made.pooled] == [True, False, False, False]
    close(made.states[2:3], ours.encode([""], second=["a dog"]).states)


def test_unclip(opened: Any) -> None:
    peer, ours = opened("unclip")
    pooled, states, mask = clip.unclip_states(peer, PROMPTS)
    made = ours.encode([*[""] * len(PROMPTS), *PROMPTS])
    close(made.pooled, pooled)
    close(made.states, states)
    assert made.mask is not None
    assert made.mask.dtype == torch.bool
    assert torch.equal(made.mask, mask)
    assert ours.pooled_width == pooled.shape[-1]


def test_a_prompt_does_not_depend_on_its_batch_and_equal_ones_are_run_once(opened: Any) -> None:
    _, ours = opened("xl")
    together = ours.encode([*PROMPTS, *PROMPTS])
    for row, prompt in enumerate([*PROMPTS, *PROMPTS]):
        close(together.states[row : row + 1], ours.encode([prompt]).states)
    seen: list[int] = []
    handle = ours.runners[0].network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    ours.encode(["a cat"] * 5 + ["a dog"])
    handle.remove()
    assert seen == [2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    peer = clip.make_folder(tmp_path, "xl")
    peer.text_encoder.to(dtype), peer.text_encoder_2.to(dtype)
    expected = clip.xl_states(peer, PROMPTS)
    for ours in (load_text_encoder(tmp_path, dtype=dtype), load_text_encoder(tmp_path).to("cpu", dtype)):
        made = ours.encode(PROMPTS)
        assert made.states.dtype == dtype
        torch.testing.assert_close(made.states, expected[0])
        torch.testing.assert_close(made.pooled, expected[2])


def test_published_names_of_tensors(tmp_path: Path) -> None:
    """Before transformers 5, every key had a prefix, and the positions were stored."""
    clip.make_folder(tmp_path, "xl")
    expected = load_text_encoder(tmp_path).encode(PROMPTS)
    for part in ("text_encoder", "text_encoder_2"):
        path = tmp_path / part / "model.safetensors"
        state = {name.removeprefix("text_model."): tensor for name, tensor in load_file(path).items()}
        old = {name if "text_projection" in name else f"text_model.{name}": tensor for name, tensor in state.items()}
        save_file({**old, "text_model.embeddings.position_ids": torch.arange(77)[None]}, path, {"format": "pt"})
    again = load_text_encoder(tmp_path).encode(PROMPTS)
    assert torch.equal(again.states, expected.states)
    assert torch.equal(again.pooled, expected.pooled)


def test_a_whole_tokenizer_reads_as_its_parts_do(tmp_path: Path) -> None:
    peer = clip.make_folder(tmp_path, "sd")
    expected = load_text_encoder(tmp_path).encode(PROMPTS).states
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    peer.tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()
    assert torch.equal(load_text_encoder(tmp_path).encode(PROMPTS).states, expected)


def test_a_variant_is_opened(tmp_path: Path) -> None:
    clip.make_folder(tmp_path, "sd")
    (tmp_path / "text_encoder" / "model.safetensors").rename(tmp_path / "text_encoder" / "model.fp16.safetensors")
    assert load_text_encoder(tmp_path, variant="fp16").encode(["a"]).states.shape == (1, 77, 32)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("sd", {"clip_skip": 5}, "clip_skip is 5; expected an int from 0 to 4, or null"),
        ("xl", {"clip_skip": 4}, "clip_skip is 4; expected an int from 0 to 3"),
        ("sd", {"clip_skip": True}, "clip_skip is True"),
        ("sd", {"clip_skip": -1}, "clip_skip is -1"),
        ("sd", {"weighting": 1}, "weighting is 1; expected true or false"),
        ("sd", {"clean_caption": True}, "no such option; it has weighting, chunks, clip_skip"),
        ("unclip", {"chunks": True}, "chunks is True, but this model's text encoder has no such option"),
        ("unclip", {"clip_skip": 1}, "no such option"),
        ("sd", {"second": ["a"]}, "one text encoder; leave prompt_2 out"),
    ],
)
def test_options_that_do_not_fit(opened: Any, family: str, options: dict[str, Any], message: str) -> None:
    _, ours = opened(family)
    for call in (ours.check, ours.encode):
        with pytest.raises(ValueError, match=message):
            call(["a cat"], **options)


def test_prompts_that_cannot_be_read(opened: Any) -> None:
    _, ours = opened("xl")
    ours.check(["a " * 75])
    with pytest.raises(
        ValueError, match="makes 78 tokens, but the text encoder takes 77; shorten it or say chunks=True"
    ):
        ours.check(["a cat", "a " * 76])
    with pytest.raises(ValueError, match="makes 78 tokens"):
        ours.check(["a cat"], second=["a " * 76])
    with pytest.raises(ValueError, match="is not Unicode"):
        ours.check(["a \ud800"])
    with pytest.raises(ValueError, match=r"takes 77; shorten it$"):
        opened("unclip")[1].check(["a " * 76])


def test_other_combinations_are_refused(tmp_path: Path) -> None:
    index = {"text_encoder": ["transformers", "CLIPTextModel"], "text_encoder_3": ["transformers", "T5EncoderModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match="text_encoder a CLIPTextModel, text_encoder_3 a T5EncoderModel; expected a T5"
    ):
        load_text_encoder(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="has no text encoder"):
        load_text_encoder(tmp_path)
