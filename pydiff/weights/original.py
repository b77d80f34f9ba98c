"""Single-file checkpoints of Stable Diffusion under their original names, read as if they were diffusers' folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pydiff.diffusion.levels import check_prediction_type
from pydiff.weights.original_configs import (
    FAMILIES,
    LOW_RES_SCHEDULER,
    Family,
    Header,
    Variant,
    autoencoder_config,
    find_family,
    text_config,
    unet_config,
)
from pydiff.weights.original_keys import PARTS, UNET, Source, autoencoder_keys, text_keys, unet_keys
from pydiff.weights.safetensors import TensorInfo, finite, read_header

_EXTRAS = re.compile(  # beside the networks: training's averages, losses and schedules, and buffers
    r"(betas|alphas_cumprod|sqrt_|log_one_minus_|posterior_|lvlb_weights|logvar|scale_factor|global_step)\w*"
    r"|(first_stage_model\.)?model_ema\..*|first_stage_model\.loss\..*|low_scale_model\..*|denoiser\.(log_)?sigmas"
    r"|(cond_stage_model|conditioner\.embedders\.\d)\.(.*\.)?(position_ids|logit_scale|attn_mask|text_projection.*)"
    r"|cond_stage_model\.model\.transformer\.resblocks\.23\..*"
    r"|embedding_manager\..*|v_pred|ztsnr"
)
_LOOKS = {  # what another file may be, by the names in it
    r".*\blora_|.*\.lora": "a LoRA, which is laid over a checkpoint",
    r"first_stage_model\.|(en|de)coder\.": "an autoencoder alone",
    r"control_model\.|input_hint_block\.": "a ControlNet",
    r"(down_blocks|text_model|embeddings|time_embedding)\.": "one network of a folder in the diffusers layout",
    r"(.*\.)?(double|joint)_blocks\.": "a transformer, such as Flux or Stable Diffusion 3",
}


class Row(NamedTuple):
    """One tensor: where it lies in the file, and what it is once it is read."""

    source: Source
    info: TensorInfo


@dataclass(frozen=True)
class Original:
    """What a single file holds, as the folder that diffusers would make of it; its weights are not read yet.

    Configurations are the objects of JSON files: `unet_config`, `autoencoder_config` and `text_configs` (by component)
    of config.json, `scheduler_config` of scheduler_config.json, `low_res_scheduler_config` that of the x4 upscaler's
    second scheduler, `model_index` of model_index.json. The components are those of diffusers' pipeline that hold
    weights: unet, vae, text_encoder, text_encoder_2. Tensors bear the names in diffusers' folders; those of text
    encoders begin with "text_model.", but for "text_projection.weight".
    """

    path: Path
    family: str  # sd1, sd2, sdxl, sdxl_refiner or x4_upscaler
    unet_config: dict[str, Any]
    autoencoder_config: dict[str, Any]
    text_configs: dict[str, dict[str, Any]]
    scheduler_config: dict[str, Any]
    low_res_scheduler_config: dict[str, Any] | None
    model_index: dict[str, Any]
    rows: Mapping[str, Mapping[str, Row]]  # by component and by tensor

    @property
    def pipeline(self) -> str:
        """The name of diffusers' pipeline class."""
        return str(self.model_index["_class_name"])

    def tensors(self, component: str) -> dict[str, TensorInfo]:
        """Names, stored types and shapes of a component's tensors, for `check_tensors`.

        Raises ValueError for a component that the file does not have.
        """
        return {name: row.info for name, row in self._rows(component).items()}

    def read(self, component: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """A component's weights on the CPU, in dtype; beyond them, memory is spent on one stored tensor at a time.

        Raises ValueError for a component that the file does not have, a dtype that is no float, a file that has
        changed, and NaN or infinite weights, by their original name.
        """
        if not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}; expected a floating-point type")
        tensors: dict[str, Tensor] = {}
        try:
            with safe_open(self.path, framework="pt") as opened:
                for name, (source, _) in self._rows(component).items():
                    stored = PARTS[source.part](opened.get_tensor(source.key))
                    tensors[name] = finite(self.path, source.key, stored, dtype).contiguous()
        except SafetensorError as error:
            raise ValueError(f"{self.path} cannot be read as safetensors: {error}") from error
        return tensors

    def _rows(self, component: str) -> Mapping[str, Row]:
        if component not in self.rows:
            raise ValueError(f"{self.path} has no {component!r}; it has {', '.join(self.rows)}")
        return self.rows[component]


def inspect_single_file(path: str | os.PathLike[str], prediction_type: str | None = None) -> Original:
    """Say what a single-file checkpoint of Stable Diffusion is, from its header alone.

    prediction_type: epsilon, v_prediction or sample. Weights do not tell it: None stands for v_prediction where a file
    has a tensor named v_pred, for the x4 upscaler and for Stable Diffusion 2 of 4 channels, as in diffusers, and for
    epsilon elsewhere. Stable Diffusion 2 base is the exception: give epsilon. A tensor named ztsnr says that the
    schedule ends in pure noise.

    Raises ValueError, naming the file, for what `read_header` refuses, a file of another kind, one without a U-Net,
    autoencoder or text encoder, tensors that are missing or that no part of the family has, and networks that do not
    fit each other.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected one safetensors file")
    if prediction_type is not None:
        check_prediction_type(prediction_type)
    header = read_header(path)
    try:
        return _inspect(path, header, prediction_type)
    except ValueError as error:
        expected = "a whole checkpoint of Stable Diffusion under its original names"
        raise ValueError(f"{path} is not {expected}: {error}") from error


def _inspect(path: Path, header: Header, prediction_type: str | None) -> Original:
    _check_unet(header)
    name = find_family(header)
    family = FAMILIES[name]
    unet, autoencoder = unet_config(header, family), autoencoder_config(header, family)
    texts = {component: text_config(header, place) for component, place in family.texts.items()}
    sources = {"unet": {here: Source(there) for here, there in unet_keys(unet).items()}}
    sources["vae"] = autoencoder_keys(autoencoder)
    sources |= {component: text_keys(texts[component], place) for component, place in family.texts.items()}
    _check_names(header, sources)
    rows = {
        component: {here: Row(source, _taken(header[source.key], source)) for here, source in rows.items()}
        for component, rows in sources.items()
    }
    variant = _variant(name, unet, texts)
    prediction_type = prediction_type or ("v_prediction" if "v_pred" in header else variant.prediction_type)
    if prediction_type == "v_prediction" and family.v_sizes is not None:
        unet["sample_size"], autoencoder["sample_size"] = family.v_sizes
    scheduler = {"_class_name": variant.scheduler, **family.scheduler, "prediction_type": prediction_type}
    if "ztsnr" in header:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    low_res = dict(LOW_RES_SCHEDULER) if name == "x4_upscaler" else None
    index = _model_index(family, variant, low_res)
    return Original(path, name, unet, autoencoder, texts, scheduler, low_res, index, rows)


def _check_unet(header: Header) -> None:
    if any(key.startswith(UNET) for key in header):
        return
    likely = [words for names, words in _LOOKS.items() if any(re.match(names, key) for key in header)]
    raise ValueError(f"it has no U-Net; looked for {UNET}*" + (f"; it may be {likely[0]}" if likely else ""))


def _check_names(header: Header, sources: Mapping[str, Mapping[str, Source]]) -> None:
    """That every tensor is there, and none that the networks would leave unread, but for known extras."""
    used = {source.key for rows in sources.values() for source in rows.values()}
    missing = [key for key in sorted(used) if key not in header]
    if missing:
        raise ValueError(f"it lacks {_some(missing)}")
    unknown = [key for key in sorted(header) if key not in used and not _EXTRAS.fullmatch(key)]
    if unknown:
        raise ValueError(f"it also holds {_some(unknown)}, which no part of it reads; remove them if they are idle")


def _some(names: list[str]) -> str:
    return f"{len(names)} tensors: {', '.join(names[:5])}" + (", ..." if len(names) > 5 else "")


def _taken(info: TensorInfo, source: Source) -> TensorInfo:
    """What a stored tensor is once its part is taken."""
    try:
        return info._replace(shape=tuple(PARTS[source.part](torch.empty(info.shape, device="meta")).shape))
    except (IndexError, RuntimeError) as error:
        raise ValueError(f"tensor {source.key!r} has the shape {info.shape}, which has no such part") from error


def _variant(name: str, unet: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> Variant:
    """What the family does with the U-Net's channels, once the U-Net is known to read its text."""
    width, reads = sum(text["hidden_size"] for text in texts.values()), unet["cross_attention_dim"]
    if reads != width:
        raise ValueError(f"its U-Net reads text of width {reads}, its text encoders make {width}")
    variants, channels = FAMILIES[name].variants, unet["in_channels"]
    if channels not in variants:
        known = ", ".join(map(str, variants))
        raise ValueError(f"its U-Net takes {channels} channels, which pydiff does not know of {name}; it knows {known}")
    return variants[channels]


def _model_index(family: Family, variant: Variant, low_res: Mapping[str, Any] | None) -> dict[str, Any]:
    """The object of model_index.json: the pipeline, its settings, and the class of every component."""
    index = {"_class_name": variant.pipeline, **family.model_index}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index["scheduler"] = ["diffusers", variant.scheduler]
    if low_res is not None:
        index["low_res_scheduler"] = ["diffusers", low_res["_class_name"]]
    for component, place in family.texts.items():
        index[component] = ["transformers", "CLIPTextModelWithProjection" if place.projects else "CLIPTextModel"]
        index[component.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
    return index
