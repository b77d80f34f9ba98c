"""Single files that are something else, broken, or not quite what was published."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pydiff.diffusion.config import sampler_from_scheduler_config
from pydiff.weights import inspect_single_file, is_single_file
from pydiff.weights.original_keys import unet_keys
from tests.weights.original_modules import checkpoint, write_hollow
from tests.weights.original_specs import CLIP, OPEN_CLIP, TINY, TINY_TEXT, XL_OPEN_CLIP, Spec, channels

UNET, VAE = "model.diffusion_model.", "first_stage_model."
Shapes = dict[str, tuple[int, ...]]
EXTRAS = [
    *("model_ema.decay", "model_ema.diffusion_modelout2weight", "first_stage_model.model_ema.decay", "global_step"),
    *("betas", "alphas_cumprod_prev", "sqrt_recipm1_alphas_cumprod", "log_one_minus_alphas_cumprod", "logvar"),
    *("posterior_mean_coef1", "lvlb_weights", "scale_factor", "denoiser.sigmas", "low_scale_model.betas"),
    *("first_stage_model.loss.discriminator.main.0.weight", "embedding_manager.strings"),
]
SD1_EXTRAS = ["cond_stage_model.transformer.text_model.embeddings.position_ids", "cond_stage_model.logit_scale"]
SD1_EXTRAS += ["cond_stage_model.transformer.text_projection.weight"]


def names(spec: Spec) -> Shapes:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in checkpoint(spec).items()}


@pytest.fixture(scope="module")
def sd1() -> Shapes:
    return names(TINY["sd1"])


@pytest.fixture(scope="module")
def sdxl() -> Shapes:
    return names(TINY["sdxl"])


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return checkpoint(TINY["sd1"])


def without(shapes: Shapes, *starts: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.startswith(starts)}


def refused(path: Path, shapes: Shapes, *words: str) -> None:
    with pytest.raises(ValueError, match=".*".join(map(re.escape, (str(path), *words)))):
        inspect_single_file(write_hollow(path, shapes))


def test_what_is_a_single_file(tmp_path: Path, sd1: Shapes) -> None:
    write_hollow(tmp_path / "whole.safetensors", sd1)
    (tmp_path / "readme.txt").touch()
    assert is_single_file(tmp_path / "whole.safetensors")
    assert is_single_file(str(tmp_path / "readme.txt"))  # refused for what it holds
    assert is_single_file(tmp_path / "missing.safetensors")
    assert is_single_file(tmp_path / "missing.ckpt")
    assert not is_single_file(tmp_path)
    assert not is_single_file("someone/some-model")


def test_files_that_cannot_be_read(tmp_path: Path, sd1: Shapes) -> None:
    with pytest.raises(ValueError, match=r"model\.ckpt is a pickle"):
        inspect_single_file(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"none\.safetensors is missing"):
        inspect_single_file(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="is a folder; expected one safetensors file"):
        inspect_single_file(tmp_path)
    path = write_hollow(tmp_path / "half.safetensors", sd1)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"half\.safetensors holds .* download it again"):
        inspect_single_file(path)


@pytest.mark.parametrize(
    ("key", "likely"),
    [
        ("lora_unet_input_blocks_1_1_proj_in.lora_down.weight", "a LoRA"),
        ("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight", "a LoRA"),
        (f"{VAE}decoder.conv_in.weight", "an autoencoder alone"),
        ("decoder.conv_in.weight", "an autoencoder alone"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("down_blocks.0.resnets.0.norm1.weight", "one network of a folder in the diffusers layout"),
        ("text_model.embeddings.token_embedding.weight", "one network of a folder in the diffusers layout"),
        ("double_blocks.0.img_attn.qkv.weight", "a transformer, such as Flux"),
        ("something", ""),
    ],
)
def test_other_files(key: str, likely: str, tmp_path: Path) -> None:
    expected = ["it has no U-Net; looked for model.diffusion_model.*", *([f"; it may be {likely}"] if likely else [])]
    refused(tmp_path / "other.safetensors", {key: (2, 2)}, *expected)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("cond_stage_model.", "it has no text encoder; looked for conditioner.embedders.0.transformer.text_model"),
        (VAE, "it has no autoencoder; looked for first_stage_model.encoder.down.*"),
        (f"{UNET}input_blocks.0.", f"it lacks the tensor {UNET}input_blocks.0.0.weight"),
        (f"{UNET}input_blocks.2.0.", f"it lacks 10 tensors: {UNET}input_blocks.2.0.emb_layers.1.bias, "),
        (f"{UNET}input_blocks.3.0.op.weight", f"it lacks 1 tensors: {UNET}input_blocks.3.0.op.weight"),
        (f"{UNET}input_blocks.3.", f"it lacks all tensors of {UNET}input_blocks.3.*"),
        (f"{UNET}output_blocks.8.1.proj_out.bias", f"it lacks 1 tensors: {UNET}output_blocks.8.1.proj_out.bias"),
        (f"{UNET}middle_block.1", f"it lacks the tensor {UNET}middle_block.1"),
        (f"{VAE}quant_conv.bias", f"it lacks 1 tensors: {VAE}quant_conv.bias"),
        (f"{CLIP}text_model.final_layer_norm.bias", f"it lacks 1 tensors: {CLIP}text_model.final_layer_norm.bias"),
        (
            f"{CLIP}text_model.embeddings.position",
            f"it lacks the tensor {CLIP}text_model.embeddings.position_embedding",
        ),
    ],
)
def test_missing_parts(start: str, said: str, tmp_path: Path, sd1: Shapes) -> None:
    refused(tmp_path / "part.safetensors", without(sd1, start), said)


def test_every_name_is_needed(tmp_path: Path, sd1: Shapes) -> None:
    for name in list(sd1)[::23]:
        refused(tmp_path / "part.safetensors", {n: shape for n, shape in sd1.items() if n != name}, name)


def test_any_shape_is_refused_or_read(tmp_path: Path, sdxl: Shapes) -> None:
    """Whatever shape a tensor has, the answer is a ValueError or an inspection, for `check_tensors` to compare."""
    for name in list(sdxl)[::43]:
        for shape in ((), (0,), (5,), (2, 3, 1)):
            path = write_hollow(tmp_path / "odd.safetensors", sdxl | {name: shape})
            with contextlib.suppress(ValueError):
                inspect_single_file(path)
    fused = f"{XL_OPEN_CLIP}transformer.resblocks.0.attn.in_proj_weight"
    refused(
        tmp_path / "odd.safetensors", sdxl | {fused: ()}, f"tensor '{fused}' has the shape (), which has no such part"
    )
    key = f"{UNET}input_blocks.0.0.weight"
    refused(tmp_path / "odd.safetensors", sdxl | {key: (3,)}, f"tensor '{key}' has the shape (3,); expected at least 2")


@pytest.mark.parametrize(
    "key",
    [
        f"{UNET}time_embedding.cond_proj.weight",  # of a network distilled for few steps
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.bias",
        f"{VAE}decoder.mid.attn_2.q.weight",
        f"{CLIP}text_model.encoder.layers.0.extra.weight",
        "control_model.time_embed.0.weight",
        "edm_mean",  # another parameterisation
        "depth_model.model.head.weight",
        "betas.of.another",
    ],
)
def test_tensors_that_nothing_reads(key: str, tmp_path: Path, sd1: Shapes) -> None:
    refused(tmp_path / "more.safetensors", sd1 | {key: (2,)}, f"it also holds 1 tensors: {key}, which no part")


def test_published_extras_are_passed_over(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    extras = dict.fromkeys(EXTRAS + SD1_EXTRAS, torch.tensor([float("nan")]))
    save_file(weights | {name: tensor.clone() for name, tensor in extras.items()}, tmp_path / "extras.safetensors")
    save_file(weights, tmp_path / "plain.safetensors")
    more, plain = (inspect_single_file(tmp_path / f"{name}.safetensors") for name in ("extras", "plain"))
    assert more.scheduler_config == plain.scheduler_config
    for component in plain.rows:
        read = more.read(component)
        assert all(torch.equal(read[name], tensor) for name, tensor in plain.read(component).items())


def test_the_last_layer_of_open_clip_is_left_out(tmp_path: Path) -> None:
    """Published files have 24 layers, those that were converted back from diffusers 23 and no text_projection."""
    spec = TINY["sd2"] | {"texts": {OPEN_CLIP: TINY_TEXT | {"num_hidden_layers": 24}}}
    whole = names(spec)
    left = without(whole, f"{OPEN_CLIP}transformer.resblocks.23.", f"{OPEN_CLIP}text_projection", f"{OPEN_CLIP}logit")
    for shapes in (whole, left):
        found = inspect_single_file(write_hollow(tmp_path / "sd2.safetensors", shapes))
        assert found.text_configs["text_encoder"]["num_hidden_layers"] == 23
        layers = {int(name.split(".")[3]) for name in found.tensors("text_encoder") if ".layers." in name}
        assert layers == set(range(23))
    refused(
        tmp_path / "short.safetensors", without(left, f"{OPEN_CLIP}transformer.resblocks.7."), "it lacks 12 tensors"
    )


def test_networks_that_do_not_fit(tmp_path: Path, sd1: Shapes) -> None:
    path = tmp_path / "mixed.safetensors"
    refused(
        path, names(channels(TINY["sd1"], 5)), "takes 5 channels, which pydiff does not know of sd1; it knows 4, 8, 9"
    )
    wide = TINY["sd1"] | {"texts": {CLIP: TINY_TEXT | {"hidden_size": 128}}}
    refused(path, names(wide), "its U-Net reads text of width 64, its text encoders make 128")
    odd = TINY["sd1"] | {"texts": {CLIP: TINY_TEXT | {"hidden_size": 80}}}
    refused(path, names(odd), "the size of a head of attention is 64, which does not divide 80 (hidden_size)")
    narrow = TINY["sd2"] | {"unet": TINY["sd2"]["unet"] | {"model_channels": 32}}
    refused(path, names(narrow), "the size of a head of attention is 64, which does not divide 32 (block_out_channels)")
    moved = {name.replace(f"{UNET}input_blocks.8.", f"{UNET}input_blocks.9."): shape for name, shape in sd1.items()}
    refused(path, moved, f"it lacks all tensors of {UNET}input_blocks.8.*")


@pytest.mark.parametrize("markers", [["v_pred"], ["v_pred", "ztsnr"]])
def test_markers_of_v_prediction(markers: list[str], tmp_path: Path, sdxl: Shapes) -> None:
    path = write_hollow(tmp_path / "v.safetensors", sdxl | dict.fromkeys(markers, (0,)))
    config = inspect_single_file(path).scheduler_config
    assert config["prediction_type"] == "v_prediction"
    assert config.get("rescale_betas_zero_snr", False) == ("ztsnr" in markers)
    assert config["timestep_spacing"] == ("trailing" if "ztsnr" in markers else "leading")
    sampler_from_scheduler_config(config).table(4)
    assert inspect_single_file(path, "epsilon").scheduler_config["prediction_type"] == "epsilon"
    with pytest.raises(ValueError, match="prediction_type is 'v'; expected one of"):
        inspect_single_file(path, "v")


def test_weights_that_are_not_finite(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    key = f"{VAE}encoder.mid.attn_1.q.weight"
    save_file(weights | {key: torch.full_like(weights[key], float("inf"))}, tmp_path / "bad.safetensors")
    found = inspect_single_file(tmp_path / "bad.safetensors")
    found.read("unet")
    with pytest.raises(ValueError, match=f"tensor '{key}' holds NaN or infinity"):
        found.read("vae")


def test_what_cannot_be_read_of_an_original(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, tmp_path / "sd1.safetensors")
    found = inspect_single_file(tmp_path / "sd1.safetensors")
    with pytest.raises(ValueError, match=r"has no 'text_encoder_2'; it has unet, vae, text_encoder$"):
        found.read("text_encoder_2")
    with pytest.raises(ValueError, match="floating-point"):
        found.read("unet", torch.int8)
    save_file({"a": torch.zeros(2)}, tmp_path / "sd1.safetensors")
    with pytest.raises(ValueError, match=r"sd1\.safetensors cannot be read as safetensors"):
        found.read("vae")


def test_names_of_other_networks_are_not_known(sd1: Shapes, tmp_path: Path) -> None:
    config = inspect_single_file(write_hollow(tmp_path / "sd1.safetensors", sd1)).unet_config
    assert set(unet_keys(config).values()) == {name for name in sd1 if name.startswith(UNET)}
    for field, value in (("mid_block_type", None), ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn")):
        with pytest.raises(ValueError, match="has blocks that Stable Diffusion's U-Net does not have"):
            unet_keys(config | {field: value})
