"""CLIP's embeddings of pictures against transformers' image processor and network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pydiff.folders.torch_networks import torch_networks
from pydiff.images import from_user
from pydiff.vision import ImageEncoder

PUBLISHED = {  # as Karlo's folder has it
    "crop_size": 24, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 28,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
WRITTEN = {  # as transformers writes it
    "size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}, "resample": 2, "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25], "image_processor_type": "CLIPImageProcessor",
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=40, projection_dim=20, num_hidden_layers=3, num_attention_heads=4,
        image_size=24, patch_size=6,
    )  # fmt: skip
    network = CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "q_proj.weight" in name or "k_proj.weight" in name:
                parameter.mul_(8)
            elif parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.fixture
def folder(tmp_path: Path, network: Any) -> Path:
    network.save_pretrained(tmp_path / "image_encoder")
    write(tmp_path, PUBLISHED)
    return tmp_path


def write(folder: Path, config: Any) -> None:
    (folder / "feature_extractor").mkdir(exist_ok=True)
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(config))


def load(folder: Path, **options: Any) -> ImageEncoder:
    return torch_networks(**options).vision(folder / "image_encoder", folder / "feature_extractor")


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("config", [PUBLISHED, WRITTEN], ids=["published", "written"])
@pytest.mark.parametrize("size", [(24, 24), (31, 57), (90, 41), (13, 29)])
def test_embeddings(folder: Path, network: Any, config: dict[str, Any], size: tuple[int, int]) -> None:
    write(folder, config)
    given = [picture(*size), picture(*size).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    peer = CLIPImageProcessorPil.from_pretrained(folder / "feature_extractor")
    pixels = peer(images=given, return_tensors="pt").pixel_values
    ours = load(folder)
    seen = torch.stack([torch.from_numpy(ours.preprocessing(one)) for one in given])
    torch.testing.assert_close(seen, pixels, atol=1e-5, rtol=0)
    with torch.no_grad():
        expected = network(pixels).image_embeds
    made = ours.encode(np.concatenate([from_user(one) for one in given]))
    assert made.shape == (2, ours.width)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


def test_dtype(folder: Path) -> None:
    wide = load(folder).encode(from_user(picture(30, 40)))
    for ours in (load(folder, dtype=torch.bfloat16), load(folder).to(dtype=torch.bfloat16)):
        made = ours.encode(from_user(picture(30, 40)))
        assert made.dtype == torch.bfloat16
        torch.testing.assert_close(made.float(), wide, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("do_resize", False, "do_resize is False"),
        ("size", {"height": 4, "width": 4}, "size is .*; expected an int, or one for shortest_edge"),
        ("size", 23, "crop_size is 24; expected at most the size, 23"),
        ("crop_size", {"height": 24, "width": 20}, r"crops to \(24, 20\); the image encoder sees 24 pixels"),
        ("crop_size", -1, "crop_size is -1"),
        ("resample", 9, "resample is 9"),
        ("image_mean", [0.5, 0.5], r"image_mean is \[0.5, 0.5\]; expected three of a positive number"),
        ("image_std", [0, 1, 1], "image_std is"),
        ("rescale_factor", "1", "rescale_factor is '1'"),
    ],
)
def test_preprocessing_that_is_not_followed(folder: Path, field: str, value: Any, message: str) -> None:
    write(folder, {**PUBLISHED, field: value})
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json .*{message}"):
        load(folder)


def test_files_that_do_not_fit(folder: Path) -> None:
    (folder / "feature_extractor" / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is not a file"):
        load(folder)
    write(folder, PUBLISHED)
    config = folder / "image_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_channels": 4}))
    with pytest.raises(ValueError, match="num_channels = 4"):
        load(folder)
