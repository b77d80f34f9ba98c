"""Single files under the original names: what diffusers takes them for, and what it makes of their tensors."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils as oracle
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from pydiff.diffusion.config import sampler_from_scheduler_config
from pydiff.models.unet import UNet, UNetConfig
from pydiff.weights import inspect_single_file
from pydiff.weights.network import check_tensors
from pydiff.weights.original import Original
from tests.weights.original_modules import checkpoint, write_hollow
from tests.weights.original_specs import CLIP, FULL, OPEN_CLIP, REFINER_OPEN_CLIP, TINY, XL_CLIP, XL_OPEN_CLIP, Spec

PUBLISHED = {  # by diffusers' name: pipeline, scheduler and prediction of the folder whose configurations it takes
    "v1": ("StableDiffusionPipeline", "PNDMScheduler", "epsilon"),
    "inpainting": ("StableDiffusionInpaintPipeline", "DDIMScheduler", "epsilon"),
    "instruct-pix2pix": ("StableDiffusionInstructPix2PixPipeline", "EulerAncestralDiscreteScheduler", "epsilon"),
    "v2": ("StableDiffusionPipeline", "DDIMScheduler", "v_prediction"),
    "inpainting_v2": ("StableDiffusionInpaintPipeline", "PNDMScheduler", "epsilon"),
    "xl_base": ("StableDiffusionXLPipeline", "EulerDiscreteScheduler", "epsilon"),
    "xl_inpaint": ("StableDiffusionXLInpaintPipeline", "EulerDiscreteScheduler", "epsilon"),
    "xl_refiner": ("StableDiffusionXLImg2ImgPipeline", "EulerDiscreteScheduler", "epsilon"),
    "upscale": ("StableDiffusionUpscalePipeline", "DDIMScheduler", "v_prediction"),
}
PARAMETERS = {  # of published networks, known apart from any code here
    "v1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "v2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "xl_base": {"unet": 2_567_463_684, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
}


@functools.cache
def published(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return checkpoint(FULL[name])


@pytest.fixture(scope="module")
def hollows(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Original]:
    folder = tmp_path_factory.mktemp("hollow")

    @functools.cache
    def opened(name: str) -> Original:
        return inspect_single_file(write_hollow(folder / f"{name}.safetensors", shapes(published(name))))

    return opened


@pytest.fixture
def hollow(name: str, hollows: Callable[[str], Original]) -> Original:
    return hollows(name)


@functools.cache
def tiny(family: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return checkpoint(TINY[family])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Original]:
    folder = tmp_path_factory.mktemp("tiny")

    @functools.cache
    def opened(family: str) -> Original:
        save_file(tiny(family), folder / f"{family}.safetensors")
        return inspect_single_file(folder / f"{family}.safetensors")

    return opened


@pytest.fixture
def opened(family: str, files: Callable[[str], Original]) -> Original:
    return files(family)


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)] == []


def yaml(spec: Spec) -> Spec:
    """The original configuration file, as far as diffusers reads it."""
    params = {"unet_config": {"params": spec["unet"]}, "scale_factor": spec["scale_factor"]}
    return {"model": {"params": params | {"first_stage_config": {"params": {"ddconfig": spec["autoencoder"]}}}}}


def shapes(tensors: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def level_depths(config: dict[str, Any]) -> list[int]:
    """How many transformer blocks a layer of each level has."""
    depths, types = config["transformer_layers_per_block"], config["down_block_types"]
    depths = [depths] * len(types) if isinstance(depths, int) else depths
    return [depth if kind.startswith("CrossAttn") else 0 for depth, kind in zip(depths, types, strict=True)]


@pytest.mark.parametrize("name", FULL)
def test_published_sizes(name: str, hollow: Original) -> None:
    """Names and shapes are those of the networks which diffusers configures for the YAML file."""
    tensors = published(name)
    assert oracle.infer_diffusers_model_type(tensors) == name
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**oracle.create_unet_diffusers_config_from_ldm(yaml(FULL[name]), tensors))
        vae = diffusers.AutoencoderKL(**oracle.create_vae_diffusers_config_from_ldm(yaml(FULL[name]), tensors))
        texts = {
            component: CLIPTextModelWithProjection(CLIPTextConfig(**config)).state_dict()
            for component, config in hollow.text_configs.items()
        }
    expected = {"unet": shapes(unet.state_dict()), "vae": shapes(vae.state_dict())}
    for component, state in texts.items():
        if hollow.text_configs[component]["architectures"] == ["CLIPTextModel"]:
            del state["text_projection.weight"]
        expected[component] = shapes(state)
    assert {component: shapes(hollow.tensors(component)) for component in hollow.rows} == expected
    for component, count in PARAMETERS.get(name, {}).items():
        assert sum(math.prod(info.shape) for info in hollow.tensors(component).values()) == count


@pytest.mark.parametrize("name", FULL)
def test_published_configs(name: str, hollow: Original) -> None:
    spec, tensors = FULL[name], published(name)
    unet = oracle.create_unet_diffusers_config_from_ldm(yaml(spec), tensors)
    assert level_depths(hollow.unet_config) == level_depths(unet)
    assert hollow.unet_config["transformer_layers_per_block"][-1] == max(level_depths(unet))  # the middle's
    del unet["transformer_layers_per_block"]
    assert {field: hollow.unet_config.get(field) for field in unet} == unet
    vae = oracle.create_vae_diffusers_config_from_ldm(yaml(spec), tensors)
    vae |= {"sample_size": 256} if name == "upscale" else {}  # in its folder
    assert {field: hollow.autoencoder_config[field] for field in vae} == vae


@pytest.mark.parametrize("name", FULL)
def test_published_pipelines(name: str, hollow: Original) -> None:
    scheduler = hollow.scheduler_config
    assert (hollow.pipeline, scheduler["_class_name"], scheduler["prediction_type"]) == PUBLISHED[name]
    assert hollow.family == FULL[name]["family"]
    assert sampler_from_scheduler_config(scheduler).prediction_type == PUBLISHED[name][2]
    made = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
    assert made.config.beta_end == (0.02 if name == "upscale" else 0.012)
    assert (hollow.low_res_scheduler_config is not None) == (name == "upscale")
    components = {field for field, value in hollow.model_index.items() if isinstance(value, list)}
    tokenizers = {component.replace("text_encoder", "tokenizer") for component in hollow.text_configs}
    others = {"scheduler", "low_res_scheduler"} if name == "upscale" else {"scheduler"}
    assert components == {"unet", "vae", *hollow.text_configs} | tokenizers | others
    parameters = inspect.signature(getattr(diffusers, hollow.pipeline)).parameters
    assert {field for field in hollow.model_index if field != "_class_name"} <= parameters.keys()


@pytest.mark.parametrize(("name", "heads", "layers"), [("v1", 12, 12), ("v2", 16, 23), ("upscale", 16, 23)])
def test_text_encoders(name: str, heads: int, layers: int, hollow: Original) -> None:
    config = hollow.text_configs["text_encoder"]
    assert (config["num_attention_heads"], config["num_hidden_layers"]) == (heads, layers)
    assert config["hidden_act"] == ("quick_gelu" if name == "v1" else "gelu")


@pytest.mark.parametrize("name", ["v2"])
def test_prediction_type_may_be_given(name: str, hollow: Original) -> None:
    base = inspect_single_file(hollow.path, prediction_type="epsilon")
    assert base.scheduler_config == hollow.scheduler_config | {"prediction_type": "epsilon"}
    assert (hollow.unet_config["sample_size"], hollow.autoencoder_config["sample_size"]) == (96, 768)
    assert (base.unet_config["sample_size"], base.autoencoder_config["sample_size"]) == (64, 512)


@pytest.mark.parametrize("family", TINY)
def test_networks_are_those_of_diffusers(family: str, opened: Original) -> None:
    """Every tensor is the one that diffusers' own conversion puts under its name."""
    stored = tiny(family)
    assert opened.family == family
    equal(opened.read("unet"), oracle.convert_ldm_unet_checkpoint(stored, opened.unet_config))
    equal(opened.read("vae"), oracle.convert_ldm_vae_checkpoint(stored, opened.autoencoder_config))
    for component in ("unet", "vae"):
        assert shapes(opened.tensors(component)) == shapes(opened.read(component))


@pytest.mark.parametrize(
    ("family", "component", "prefix"),
    [
        ("sd1", "text_encoder", CLIP),
        ("sd2", "text_encoder", OPEN_CLIP),
        ("x4_upscaler", "text_encoder", OPEN_CLIP),
        ("sdxl", "text_encoder", XL_CLIP),
        ("sdxl", "text_encoder_2", XL_OPEN_CLIP),
        ("sdxl_refiner", "text_encoder_2", REFINER_OPEN_CLIP),
    ],
)
def test_text_encoders_are_those_of_diffusers(family: str, component: str, prefix: str, opened: Original) -> None:
    read = opened.read(component)
    if prefix.endswith("transformer."):
        converted = oracle.convert_ldm_clip_checkpoint(tiny(family))
    else:
        converted = oracle.convert_open_clip_checkpoint(None, tiny(family), prefix=prefix)
    equal(read, converted)
    assert shapes(opened.tensors(component)) == shapes(read)
    assert all(
        tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in read.values()
    )


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_networks_load(family: str, dtype: torch.dtype, opened: Original) -> None:
    with torch.device("meta"):
        unet = UNet(UNetConfig.from_dict(opened.unet_config))
        reference = diffusers.UNet2DConditionModel(**opened.unet_config)
    check_tensors(opened.path, opened.tensors("unet"), unet)
    read = opened.read("unet", dtype)
    assert {tensor.dtype for tensor in read.values()} == {dtype}
    unet.load_state_dict(read, assign=True)
    reference.load_state_dict(read, assign=True)
    equal(read, {name: tensor.to(dtype) for name, tensor in opened.read("unet").items()})
