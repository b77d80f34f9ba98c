"""What a U-Net refuses before it computes anything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydiff.arrays import Array, is_array, is_floating
from pydiff.models.unet2d_config import UNet2DConfig
from pydiff.models.unet_config import ADDED_KEYS, UNetConfig
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.edit import AttentionEdit


def check_input(config: UNetConfig | UNet2DConfig, x: Array, t: Array, cond: Prepared, layers: int) -> None:
    """Raise ValueError unless x, t and cond fit each other and the network, in which `layers` layers read text."""
    smallest = 2 ** (config.levels - 1)
    if x.ndim != 4 or x.shape[1] != config.in_channels or not is_floating(x) or min(x.shape[2:]) < smallest:
        raise ValueError(
            f"x is {x.dtype} {tuple(x.shape)}; expected floats (B, {config.in_channels}, H, W), "
            f"H and W at least {smallest}"
        )
    batch = x.shape[0]
    if t.ndim > 1 or math.prod(t.shape) not in (1, batch):
        raise ValueError(f"t has shape {tuple(t.shape)}; expected a scalar or ({batch},), one per picture of x")
    if len(cond.text) != layers:
        raise ValueError(f"cond holds keys for {len(cond.text)} layers, not {layers}; prepare it with this network")
    for given in (cond.emb, cond.bias, *(keys for keys, _ in cond.text[:1])):
        if given is not None and given.shape[0] != batch:
            raise ValueError(f"cond is for {given.shape[0]} pictures, but x has {batch}; give one row per picture")
    if cond.edit is not None:
        _check_edit(cond.edit, batch)
        if cond.merge:
            raise ValueError(f"merge is {cond.merge}, but attention is edited or captured; leave one of them out")


def _check_edit(edit: AttentionEdit, batch: int) -> None:
    """One row per picture in every part; the operators check the rest."""
    if not isinstance(edit, AttentionEdit):
        raise ValueError(f"edit is a {type(edit).__name__}; expected an AttentionEdit")
    for name, part in edit._asdict().items():
        for tensor in _tensors(part):
            if len(tensor) != batch:
                raise ValueError(
                    f"{name} of the edit is for {len(tensor)} pictures, but x has {batch}; give one row for each"
                )


def _tensors(part: Any) -> Iterator[Array]:
    """Of a part of an edit, which may hold parts itself."""
    if is_array(part):
        yield part
    elif isinstance(part, tuple):
        for one in part:
            yield from _tensors(one)


def check_cond(config: UNetConfig | UNet2DConfig, cond: Cond, reads_text: bool) -> None:
    """Raise ValueError unless the parts of cond are those that the network takes, in its shapes, for one batch."""
    if cond.edit is not None and (not isinstance(config, UNetConfig) or not reads_text):
        raise ValueError(f"edit is a {type(cond.edit).__name__}; this network reads no text: leave it None")
    labels, added = _check_labels(config, cond.labels), dict(cond.added or {})
    batches = set() if labels is None else {labels}
    keys = ADDED_KEYS[config.addition_embed_type] if isinstance(config, UNetConfig) else ()
    if set(added) != set(keys):
        came, expected = (", ".join(map(str, names)) or "nothing" for names in (added, keys))
        raise ValueError(f"added holds {came}; this network takes {expected}")
    if isinstance(config, UNetConfig):
        if reads_text:
            batches.add(_check_text(config, cond.text, cond.mask))
        if added:
            batches.add(_check_sizes(config, added["text_embeds"], added["time_ids"]))
    if len(batches) > 1:
        raise ValueError(f"the parts of cond are for {sorted(batches)} pictures; give every part one row per picture")


def _check_text(config: UNetConfig, text: Array | None, mask: Array | None) -> int:
    if text is None or text.ndim != 3 or text.shape[1] == 0 or text.shape[2] != config.text_dim:
        came = "missing" if text is None else f"of shape {tuple(text.shape)}"
        raise ValueError(f"text is {came}; expected encoder states (B, T, {config.text_dim})")
    if mask is not None and mask.shape != text.shape[:2]:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; expected {tuple(text.shape[:2])}, one value per token")
    return text.shape[0]


def _check_labels(config: UNetConfig | UNet2DConfig, labels: Array | None) -> int | None:
    classes, width = config.num_class_embeds, config.labels_dim
    if config.class_embed_type is None and classes is None:
        if labels is not None:
            raise ValueError("labels are given, but this network takes none: leave them None")
        return None
    expected = "(B,)" if width is None else f"(B, {width})"
    if labels is None or labels.ndim != (1 if width is None else 2) or (width is not None and labels.shape[1] != width):
        came = "missing" if labels is None else f"of shape {tuple(labels.shape)}"
        raise ValueError(f"labels are {came}; expected {expected}: the noise level or class of each picture")
    if classes is not None and (
        is_floating(labels) or not bool(((labels >= 0) & (labels < classes)).all())
    ):  # fmt: skip
        raise ValueError(f"labels are {labels.dtype} {labels.tolist()}; expected ints from 0 to {classes - 1}")
    return labels.shape[0]


def _check_sizes(config: UNetConfig, pooled: Array, ids: Array) -> int:
    width, each = config.projection_class_embeddings_input_dim or 0, config.addition_time_embed_dim or 0
    if pooled.ndim != 2 or ids.ndim != 2 or pooled.shape[0] != ids.shape[0]:
        raise ValueError(
            f"text_embeds has shape {tuple(pooled.shape)} and time_ids {tuple(ids.shape)}; expected (B, P) and (B, K)"
        )
    if pooled.shape[1] + each * ids.shape[1] != width:
        raise ValueError(
            f"text_embeds of width {pooled.shape[1]} and {ids.shape[1]} time_ids of {each} make "
            f"{pooled.shape[1] + each * ids.shape[1]}; this network takes {width} in all"
        )
    return pooled.shape[0]
