"""U-Nets of an exported folder, as `pydiff.networks.Denoiser`s over the arrays of where they are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pydiff.arrays import Array, expand, placed
from pydiff.gpu import is_on_gpu
from pydiff.models.layer_sizes import layer_size
from pydiff.models.unet2d_config import UNet2DConfig
from pydiff.models.unet_checks import check_cond, check_input
from pydiff.models.unet_config import UNetConfig
from pydiff.nn.cond import Cond, Prepared
from pydiff.nn.edit import AttentionEdit
from pydiff.runtime.edits import Sized, captured, check_edit, deliver, edit_inputs, sized, switches
from pydiff.runtime.sessions import Exported, Session

PREDICTION = "out_sample"


class Told(NamedTuple):
    """What a graph takes beside x and t, where it computes, and the edit, which a run replaces."""

    inputs: Mapping[str, Array]
    edit: AttentionEdit | None = None


class OnnxUNet:
    """A U-Net as one graph and, where attention is edited or captured, another one, which is opened when it first is.

    edited: that other graph, None where the folder has none. Float arrays are float32, whatever the weights are.
    """

    def __init__(
        self, config: UNetConfig | UNet2DConfig, exported: Exported, plain: Session, edited: Session | None = None
    ) -> None:
        self.config, self.exported, self.plain, self.edited = config, exported, plain, edited
        self.layers = (edited or plain).graph.layers
        self._switches: dict[tuple[float, ...] | float, Array] = {}

    @property
    def like(self) -> Array:
        return self.exported.place.empty((0,), "float32")

    @property
    def reads_text(self) -> bool:
        return "encoder_hidden_states" in self.plain.graph.inputs

    @property
    def attention(self) -> dict[str, str]:
        return {layer.name: layer.attends for layer in self.layers}

    @property
    def residual_layers(self) -> Sequence[str]:
        """None: what they make is not among the graph's inputs."""
        return ()

    def prepare(self, cond: Cond) -> Told:
        """What a call takes. Raises ValueError for a Cond that the network cannot use."""
        check_cond(self.config, cond, self.reads_text)
        given: dict[str, Any] = {"class_labels": cond.labels, **(cond.added or {})}
        if self.reads_text and cond.text is not None:
            given["encoder_hidden_states"] = cond.text
            given["encoder_attention_mask"] = np.ones(cond.text.shape[:2]) if cond.mask is None else cond.mask
        held = {
            name: self.exported.place.dense(given[name], value.dtype)
            for name, value in self.plain.graph.inputs.items()
            if name not in ("sample", "timestep")
        }
        return Told(held, cond.edit)

    def __call__(self, x: Array, t: Array, cond: Told | Cond, /) -> Array:
        """x (B, C_in, H, W), t () or (B,) -> (B, C_out, H, W) float32. Raises ValueError for shapes that the graph does
        not take, and for edits that only torch runs."""
        told = cond if isinstance(cond, Told) else self.prepare(cond)
        x = x if is_on_gpu(x) else np.asarray(x)  # type: ignore[assignment]
        t = placed(t, x)
        check_input(self.config, x, t, Prepared(None, (), None, told.edit), 0)
        place = self.exported.place
        times = place.dense(expand(t.reshape((-1,)), len(x)), "float32")
        inputs = {"sample": place.dense(x, "float32"), "timestep": times, **told.inputs}
        if told.edit is None:
            return self.plain(inputs, [PREDICTION])[0]
        return self._edited(inputs, told.edit)

    def _edited(self, inputs: Mapping[str, Array], edit: AttentionEdit) -> Array:
        check_edit(edit)
        if self.edited is None:
            raise ValueError(f"{self.plain.path.parent} has no graph for edits and captures; export the model again")
        x = inputs["sample"]
        layers = self._sized((x.shape[2], x.shape[3]))
        wanted = captured(edit, layers)
        tables = {**edit_inputs(edit, x), **{name: self._switch(on) for name, on in switches(edit, layers).items()}}
        tables = {name: value for name, value in tables.items() if name in self.edited.graph.inputs}
        heats = {str(layer.heat): layer.pixels for layer in wanted}
        pixels = {f"pixels_{heat.removeprefix('heat_')}": count for heat, count in heats.items()}
        made, *attended = self.edited({**inputs, **tables}, [PREDICTION, *heats], pixels)
        for layer, maps in zip(wanted, attended, strict=True):
            deliver(edit, layer, maps)
        return made

    def _switch(self, on: tuple[float, ...] | float) -> Array:
        """Numbers of the host in the place where the graph takes them; copied there once."""
        if on not in self._switches:
            self._switches[on] = self.exported.place.dense(on, "float32")
        return self._switches[on]

    def _sized(self, size: tuple[int, int]) -> list[Sized]:
        config = self.config
        assert isinstance(config, UNetConfig)  # which alone has an edit graph
        sizes = [layer_size(layer.name, config, size) for layer in self.layers]
        return sized(self.layers, [height * width for height, width in sizes])
