"""MasaCtrl (Cao et al. 2023, mutual self-attention): the pixels of a target attend to those of the source, so that it
shows the source's things in another layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pydiff.cascade import Stage, Start
from pydiff.diffusion.edits import edited_levels
from pydiff.nn.edit import AttentionEdit, Layers, PixelEdit
from pydiff.tasks.changes import Change, first_rows, with_edit
from pydiff.tasks.checks import number, unusual
from pydiff.tasks.layers import attending, check_open, decoder_blocks, fitting


@dataclasses.dataclass(frozen=True)
class MutualOptions:
    """mutual_start: the share of the run after which targets attend to the source's pixels (the paper's: step 4 of 50).
    mutual_layers: where, names with * for any part; by default in the decoder but for its coarsest level with
    attention, which in Stable Diffusion are the paper's layers 10 to 15 of 16."""

    mutual_start: float = 0.08
    mutual_layers: str | Sequence[str] | None = None

    def said(self, target: int) -> dict[str, Any]:
        """What settings say of every target: all that is not as usual."""
        return {"method": "masactrl", **unusual(self)}

    def change(self, stage: Stage, levels: int) -> Change:
        """In every branch of guidance the source's keys and values of pixels serve its targets, which keep their own
        queries and their own words. Raises ValueError for what is no share and for names of no such layer."""
        first, _ = edited_levels("mutual_start", (number("mutual_start", self.mutual_start, 0, 1), 1.0), levels)
        layers = self.layers(stage)

        def changed(start: Start) -> Start:
            def change(edit: AttentionEdit, level: int, branches: tuple[int, ...]) -> AttentionEdit:
                if level < first:
                    return edit
                return edit._replace(pixel_edit=PixelEdit(first_rows(start, len(branches)), "content", layers))

            return with_edit(start, change)

        return changed

    def layers(self, stage: Stage) -> Layers:
        """Those in which targets attend to the source."""
        check_open(stage.unet, "method='masactrl'")
        known, names = attending(stage.unet, "pixels"), self.mutual_layers
        if names is None:
            blocks = decoder_blocks("mutual_layers", known)
            names = [f"{block}*" for block in blocks[1:] or blocks]
        return Layers(frozenset(fitting("mutual_layers", names, known)))
