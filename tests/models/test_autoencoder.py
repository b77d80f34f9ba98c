"""The autoencoder against diffusers' AutoencoderKL: tiny random networks with peaked attention and random norms."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, NamedTuple

import diffusers
import pytest
import torch
from diffusers import StableDiffusion3Img2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from torch import Tensor, nn

from pydiff.models.autoencoder import Autoencoder, AutoencoderConfig


def blocks(*channels: int) -> dict[str, Any]:
    levels = len(channels)
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "norm_num_groups": 4,
    }


_STATISTICS = {"latents_mean": (-1.6, 0.4, 0.9, -2.0), "latents_std": (8.4, 5.9, 3.4, 5.2)}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": blocks(8, 16, 16) | {"layers_per_block": 2, "sample_size": 32},
    "sdxl": blocks(4, 8, 16, 16) | {"scaling_factor": 0.13025, "sample_size": 64} | _STATISTICS,
    "x4": blocks(8, 8, 16) | {"scaling_factor": 0.08333, "layers_per_block": 2, "force_upcast": False},
    "sd3": blocks(8, 16)
    | {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 6, "shift_factor": 0.0609},
    "one_quant_conv": blocks(8, 16) | {"use_post_quant_conv": False, "act_fn": "relu", "layers_per_block": 2},
    "no_attention": blocks(8, 16) | {"mid_block_add_attention": False, "act_fn": "gelu"},
    "one_level": blocks(8) | {"in_channels": 1, "out_channels": 2, "latent_channels": 3, "act_fn": "mish"},
}
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8}


class Case(NamedTuple):
    reference: diffusers.AutoencoderKL
    ours: Autoencoder
    image: Tensor
    latents: Tensor


def randomise(model: nn.Module) -> None:
    """Random norms and biases; queries and keys so large that attention is far from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "to_q" in name or "to_k" in name:
                parameter.mul_(6)


def make(name: str, dtype: torch.dtype = torch.float64, batch: int = 3, size: tuple[int, int] = (6, 4)) -> Case:
    """size: of the latents."""
    torch.manual_seed(0)
    reference = diffusers.AutoencoderKL(**CONFIGS[name]).to(dtype).eval()
    randomise(reference)
    config = AutoencoderConfig.from_dict(dict(reference.config))
    ours = Autoencoder(config).to(dtype).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    height, width = (ours.factor * edge for edge in size)
    image = torch.rand(batch, config.in_channels, height, width, dtype=dtype) * 2 - 1
    return Case(reference, ours, image, torch.randn(batch, config.latent_channels, *size, dtype=dtype))


def same(ours: Tensor, expected: Tensor) -> None:
    assert ours.std() > 0.05
    torch.testing.assert_close(ours, expected, atol=TOLERANCES[expected.dtype], rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_diffusers(name: str, dtype: torch.dtype) -> None:
    case = make(name, dtype)
    posterior = case.reference.encode(case.image).latent_dist
    same(case.ours.encode(case.image), posterior.mode())
    noise = torch.randn(posterior.mean.shape, dtype=dtype, generator=torch.Generator().manual_seed(5))
    same(case.ours.encode(case.image, noise), posterior.sample(torch.Generator().manual_seed(5)))
    same(case.ours.decode(case.latents), case.reference.decode(case.latents).sample)


@torch.no_grad()
def test_the_variance_is_clamped() -> None:
    case = make("sd1")
    for shift in (-100.0, 200.0):
        for network in (case.reference, case.ours):
            network.quant_conv.bias[4:] += shift
        sample = case.reference.encode(case.image).latent_dist.sample(torch.Generator().manual_seed(5))
        noise = torch.randn(sample.shape, dtype=sample.dtype, generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(case.ours.encode(case.image, noise), sample, atol=1e-8, rtol=1e-12)


@torch.no_grad()
def test_attention_is_peaked_and_heard() -> None:
    case = make("sd1")
    expected = case.ours.decode(case.latents)
    for name in ("to_q", "to_v"):
        changed = copy.deepcopy(case.ours)
        getattr(changed.decoder.mid_block.attentions[0], name).weight.mul_(0.5)
        assert (changed.decode(case.latents) - expected).abs().max() > 1e-3


TILED = [
    ("sd1", (16, 9)),
    ("sd1", (8, 8)),
    ("sd1", (7, 13)),
    ("sd1", (8, 20)),
    ("sdxl", (15, 21)),
    ("one_level", (57, 40)),
    ("sd3", (6, 17)),
]


@pytest.mark.parametrize(("name", "size"), TILED)
@torch.no_grad()
def test_tiles_equal_diffusers(name: str, size: tuple[int, int]) -> None:
    case = make(name, batch=2, size=size)
    case.reference.enable_tiling()
    posterior = case.reference.encode(case.image).latent_dist
    noise = torch.randn(posterior.mean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for slicing in (False, True):
        case.reference.use_slicing = slicing
        same(case.ours.encode(case.image, tiling=True, slicing=slicing), posterior.mode())
        sample = case.ours.encode(case.image, noise, tiling=True, slicing=slicing)
        same(sample, posterior.sample(torch.Generator().manual_seed(5)))
        decoded = case.ours.decode(case.latents, tiling=True, slicing=slicing)
        same(decoded, case.reference.decode(case.latents).sample)
    tile = case.ours.config.tile_size
    if max(case.image.shape[2:]) > tile:
        assert (decoded - case.ours.decode(case.latents)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["sd1", "sd3"])
@torch.no_grad()
def test_slicing_changes_nothing(name: str) -> None:
    case = make(name)
    noise = torch.randn_like(case.latents)
    sliced = case.ours.encode(case.image, noise, slicing=True)
    torch.testing.assert_close(sliced, case.ours.encode(case.image, noise), atol=1e-12, rtol=0)
    sliced = case.ours.decode(case.latents, slicing=True)
    torch.testing.assert_close(sliced, case.ours.decode(case.latents), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("name", "pipeline"),
    [
        ("sd1", StableDiffusionXLImg2ImgPipeline),
        ("sdxl", StableDiffusionXLImg2ImgPipeline),
        ("x4", StableDiffusionXLImg2ImgPipeline),
        ("sd3", StableDiffusion3Img2ImgPipeline),
    ],
)
@torch.no_grad()
def test_scaling_equals_that_of_diffusers_pipelines(name: str, pipeline: type[Any]) -> None:
    case = make(name)
    case.reference.register_to_config(force_upcast=False)  # it would make float32 of everything
    held = SimpleNamespace(vae=case.reference, scheduler=SimpleNamespace(scale_noise=lambda latents, *_: latents))
    begin = {"image": case.image, "timestep": None, "batch_size": 3, "num_images_per_prompt": 1, "device": "cpu"}
    if pipeline is StableDiffusionXLImg2ImgPipeline:
        begin["add_noise"] = False
    expected = pipeline.prepare_latents(held, **begin, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    noise = torch.randn(case.latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    latents = case.ours.encode(case.image, noise)
    # statistics pass through float32 in diffusers
    torch.testing.assert_close(case.ours.scaled(latents), expected, atol=1e-6 if name == "sdxl" else 1e-12, rtol=0)
    torch.testing.assert_close(case.ours.unscaled(case.ours.scaled(latents)), latents, atol=1e-12, rtol=0)
    assert case.ours.scaled(latents.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_memory_format_and_dtype() -> None:
    case = make("sd1", torch.float32)
    noise = torch.randn_like(case.latents)
    latents, picture = case.ours.encode(case.image, noise), case.ours.decode(case.latents)
    last = copy.deepcopy(case.ours).to(memory_format=torch.channels_last)
    image = case.image.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last.encode(image, noise), latents, atol=1e-4, rtol=0)
    torch.testing.assert_close(last.decode(case.latents, tiling=True), picture, atol=1e-4, rtol=0)
    half = copy.deepcopy(case.ours).bfloat16()
    out = half.encode(case.image, noise), half.decode(case.latents)
    assert [tensor.dtype for tensor in out] == [torch.float32] * 2
    torch.testing.assert_close(out[0], latents, atol=0.2, rtol=0.1)
    torch.testing.assert_close(out[1], picture, atol=0.2, rtol=0.1)


def test_says_when_float16_may_overflow() -> None:
    for name, upcast in (("sd1", True), ("x4", False)):
        network = Autoencoder(AutoencoderConfig.from_dict(CONFIGS[name]))
        assert not network.needs_upcast
        assert not network.bfloat16().needs_upcast
        assert network.half().needs_upcast is upcast
        assert network.dtype == torch.float16


def test_gradients_equal_diffusers() -> None:
    case = make("sd1")
    for network in (case.reference, case.ours):
        network.train()
    (case.ours.decode(case.ours.encode(case.image)) * case.image).mean().backward()
    (case.reference(case.image).sample * case.image).mean().backward()
    expected = {key: parameter.grad for key, parameter in case.reference.named_parameters()}
    for key, parameter in case.ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], atol=1e-8, rtol=1e-6, msg=key)


def test_stable_diffusion_in_full_size() -> None:
    config = {**blocks(128, 256, 512, 512), "norm_num_groups": 32, "layers_per_block": 2, "sample_size": 512}
    with torch.device("meta"):
        ours, reference = Autoencoder(AutoencoderConfig.from_dict(config)), diffusers.AutoencoderKL(**config)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 83_653_863
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert ours.factor == 8


IMAGES = [
    (torch.zeros(3, 16, 16), r"image is torch.float32 \(3, 16, 16\); expected floats \(B, 3, H, W\)"),
    (torch.zeros(1, 4, 16, 16), r"image is .* \(1, 4, 16, 16\)"),
    (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), r"image is torch.uint8"),
    (torch.zeros(0, 3, 16, 16), r"image is .* \(0, 3, 16, 16\)"),
    (torch.zeros(1, 3, 0, 16), r"image is .* \(1, 3, 0, 16\)"),
    (torch.zeros(1, 3, 16, 18), "image has 16x18 pixels; expected a height and width that 4 divides"),
    (torch.zeros(1, 3, 2, 16), "image has 2x16 pixels"),
]
LATENTS = [
    (torch.zeros(4, 4, 4), r"latents is .* \(4, 4, 4\); expected floats \(B, 4, H, W\)"),
    (torch.zeros(1, 3, 4, 4), r"latents is .* \(1, 3, 4, 4\)"),
    (torch.zeros(1, 4, 4, 4, dtype=torch.int64), r"latents is torch.int64"),
    (torch.zeros(1, 4, 4, 0), r"latents is .* \(1, 4, 4, 0\)"),
]
NOISES = [torch.zeros(4, 4, 4), torch.zeros(2, 4, 4, 4), torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 4, 4).int()]


def network() -> Autoencoder:
    with torch.device("meta"):  # nothing may be computed before it is refused
        return Autoencoder(AutoencoderConfig.from_dict(CONFIGS["sd1"]))


@pytest.mark.parametrize(("image", "message"), IMAGES)
def test_refuses_other_images(image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network().encode(image)


@pytest.mark.parametrize("noise", NOISES)
def test_refuses_other_noise(noise: Tensor) -> None:
    with pytest.raises(ValueError, match=r"noise is .*; expected floats \(1, 4, 4, 4\), one per latent"):
        network().encode(torch.zeros(1, 3, 16, 16), noise)


@pytest.mark.parametrize(("latents", "message"), LATENTS)
@pytest.mark.parametrize("method", ["decode", "scaled", "unscaled"])
def test_refuses_other_latents(method: str, latents: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(network(), method)(latents)


@pytest.mark.parametrize("sample_size", [24, (24, 64), 8])
def test_refuses_tiles_that_do_not_divide_into_quarters(sample_size: Any) -> None:
    ours = Autoencoder(AutoencoderConfig.from_dict(CONFIGS["sd1"] | {"sample_size": sample_size}))
    for call, size in ((ours.encode, (1, 3, 32, 48)), (ours.decode, (1, 4, 8, 12))):
        with pytest.raises(ValueError, match="tiling needs a sample_size that 16 divides"):
            call(torch.zeros(size), tiling=True)
