"""CLIP's embeddings against transformers' CLIPModel, and the similarities against the papers' formulas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pydiff.tools.clip_scores import Least, Similarities, load_clip, similarities
from tests.tools.clip_folder import clip_folder

CAPTIONS = ["the red cat on the cat", "", "a photo, the 2nd"]


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((24, 24), (31, 57), (90, 41))]


def check(folder: Path, model: Any, processor: Any) -> None:
    inputs = processor(text=CAPTIONS, images=pictures(), return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = model(**inputs)
    clip = load_clip(folder)
    torch.testing.assert_close(clip.embed_captions(CAPTIONS), expected.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.embed_pictures(pictures()), expected.image_embeds, atol=1e-5, rtol=0)
    alone = torch.cat([clip.embed_captions([caption]) for caption in CAPTIONS])
    torch.testing.assert_close(alone, expected.text_embeds, atol=1e-5, rtol=0)


def test_embeddings(tmp_path: Path) -> None:
    model, processor = clip_folder(tmp_path)
    check(tmp_path, model, processor)
    (tmp_path / "preprocessor_config.json").unlink()
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "processor_config.json").is_file()  # as transformers 5 writes it
    check(tmp_path, model, processor)


def test_a_folder_as_published(tmp_path: Path) -> None:
    """OpenAI's: the end of a text is its largest id, the parts say other projections, and positions are stored."""
    model, processor = clip_folder(tmp_path, eos_token_id=2)
    path = tmp_path / "model.safetensors"
    stored = load_file(path) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(stored, path, metadata={"format": "pt"})
    change(tmp_path, lambda config: config["text_config"].pop("bos_token_id"))
    check(tmp_path, model, processor)


def change(folder: Path, how: Callable[[dict[str, Any]], object], name: str = "config.json") -> None:
    config = json.loads((folder / name).read_text())
    how(config)
    (folder / name).write_text(json.dumps(config))


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def test_similarities() -> None:
    """Gal et al. 2022, section 4.1: with dT = E_T(target) - E_T(source) and dI alike, dI . dT / (|dI| |dT|)."""
    rng = torch.Generator().manual_seed(0)
    shown, said = (unit(torch.randn(4, 7, dtype=torch.float64, generator=rng)) for _ in range(2))
    made = similarities(shown, said)
    assert len(made) == 3
    for index, one in enumerate(made, 1):
        d_image, d_text = shown[index] - shown[0], said[index] - said[0]
        expected = (
            shown[0] @ shown[index],
            shown[0] @ said[0],
            shown[index] @ said[index],
            d_image @ d_text / (d_image.norm() * d_text.norm()),
        )
        np.testing.assert_allclose(one, [float(value) for value in expected], atol=1e-8)


def test_pictures_that_are_the_same_have_no_direction() -> None:
    one = unit(torch.ones(1, 5))
    (found,) = similarities(one.expand(2, -1), unit(torch.eye(5))[:2])
    assert found.direction == 0
    assert not Least().met(found)


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ((0.75, 0.2, 0.2, 0.2), True),
        ((0.74, 0.9, 0.9, 0.9), False),
        ((0.9, 0.19, 0.9, 0.9), False),
        ((0.9, 0.9, 0.19, 0.9), False),
        ((0.9, 0.9, 0.9, 0.19), False),
        ((float("nan"), 0.9, 0.9, 0.9), False),
    ],
)
def test_least(found: tuple[float, ...], kept: bool) -> None:
    assert Least().met(Similarities(*found)) == kept


def test_captions_that_do_not_fit(tmp_path: Path) -> None:
    clip_folder(tmp_path)
    clip = load_clip(tmp_path)
    with pytest.raises(ValueError, match=r"'zzz.*\.\.\.' makes 82 tokens, but the text encoder takes 77"):
        clip.embed_captions(["the cat", "z" * 80])
    with pytest.raises(ValueError, match="lone surrogates"):
        clip.embed_captions(["the \ud800 cat"])


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("config.json", lambda c: c.update(model_type="siglip"), "model_type 'siglip'; expected 'clip'"),
        ("config.json", lambda c: c.pop("text_config"), "lacks text_config or vision_config"),
        ("config.json", lambda c: c["vision_config"].update(num_channels=4), "num_channels = 4"),
        ("config.json", lambda c: c.update(projection_dim=21), r"tensor '.*projection\.weight'.*expected floats"),
        ("preprocessor_config.json", lambda c: c.update(do_resize=False), "do_resize is False"),
        ("preprocessor_config.json", lambda c: c.update(crop_size=20), r"crops to \(20, 20\); the image encoder"),
    ],
)
def test_configs_that_do_not_fit(tmp_path: Path, name: str, how: Any, message: str) -> None:
    clip_folder(tmp_path)
    change(tmp_path, how, name)
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"config\.json is not a file"),
        ("preprocessor_config.json", r"preprocessor_config\.json is not a file"),
        ("tokenizer.json", r"tokenizer\.json is not a file"),
        ("model.safetensors", "safetensors"),
    ],
)
def test_files_that_are_missing(tmp_path: Path, name: str, message: str) -> None:
    clip_folder(tmp_path)
    (tmp_path / name).rename(tmp_path / "pytorch_model.bin")  # which nothing opens
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        load_clip(tmp_path / "none")
