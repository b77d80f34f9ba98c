"""Plug-and-play (Tumanyan et al. 2023): targets take features of the source and where its pixels look, so that they
keep its layout in other looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pydiff.cascade import Stage, Start
from pydiff.diffusion.edits import edited_levels
from pydiff.nn.edit import AttentionEdit, Layers, PixelEdit, RowsIn
from pydiff.tasks.changes import Change, first_rows, with_edit
from pydiff.tasks.checks import unusual
from pydiff.tasks.layers import attending, check_open, decoder_blocks, fitting

Names = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class PlugOptions:
    """feature_share and attention_share: the share of the run, or (start, end), in which targets take the source's
    features, and where its pixels look. feature_layers: residual blocks, names with * for any part; by default the
    second one of the decoder's coarsest level with attention (Stable Diffusion: up_blocks.1.resnets.1).
    attention_layers: by default all of the decoder from after that block on (up_blocks.1.attentions.1 and later)."""

    feature_share: float | tuple[float, float] = 0.8
    feature_layers: Names = None
    attention_share: float | tuple[float, float] = 0.5
    attention_layers: Names = None

    def said(self, target: int) -> dict[str, Any]:
        """What settings say of every target: all that is not as usual."""
        return {"method": "plug_and_play", **unusual(self)}

    def change(self, stage: Stage, levels: int) -> Change:
        """In every branch of guidance the source serves its targets: its residual branches in place of theirs, and its
        queries and keys of pixels with their values. Raises ValueError for what is no share and for names of no such
        layer."""
        feature_levels = edited_levels("feature_share", self.feature_share, levels)
        attention_levels = edited_levels("attention_share", self.attention_share, levels)
        features, attention = self.layers(stage)

        def changed(start: Start) -> Start:
            def change(edit: AttentionEdit, level: int, branches: tuple[int, ...]) -> AttentionEdit:
                rows = first_rows(start, len(branches))
                if feature_levels[0] <= level < feature_levels[1]:
                    edit = edit._replace(features=RowsIn(rows, features))
                if attention_levels[0] <= level < attention_levels[1]:
                    edit = edit._replace(pixel_edit=PixelEdit(rows, "map", attention))
                return edit

            return with_edit(start, change)

        return changed

    def layers(self, stage: Stage) -> tuple[Layers, Layers]:
        """Those whose features, and those whose attention is injected."""
        check_open(stage.unet, "method='plug_and_play'")
        pixels, features = attending(stage.unet, "pixels"), self.feature_layers
        residual = [name for name in stage.unet.residual_layers if ".resnets." in name]  # the others change the size
        if features is None:
            features = f"{decoder_blocks('feature_layers', pixels)[0]}resnets.1"
        if self.attention_layers is None:
            blocks = tuple(decoder_blocks("attention_layers", pixels))
            first = f"{blocks[0]}attentions.0"
            attention = [name for name in pixels if name.startswith(blocks) and not name.startswith(first)]
        else:
            attention = fitting("attention_layers", self.attention_layers, pixels)
        return Layers(frozenset(fitting("feature_layers", features, residual))), Layers(frozenset(attention))
