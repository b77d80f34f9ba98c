"""Local blending: an edit stays where its words look (Prompt-to-Prompt, Hertz et al. 2022, section 4, "Local editing").

As Google's notebooks have it. Two of them differ: prompt-to-prompt_stable blends at every level; null_text_w_ptp begins
after a fifth of the run and may exclude words.
"""

from __future__ import annotations

from typing import NamedTuple

from pydiff.arrays import Array, namespace
from pydiff.diffusion.checks import real
from pydiff.diffusion.edits import edited_levels
from pydiff.ops.resize import max_pool, resize


class LocalBlend(NamedTuple):
    """threshold, excluded_threshold: the share of the heat's maximum, in [0, 1), above which a pixel belongs to the
    words, and to the excluded words. start, stop: the shares of the run, in [0, 1], after which blending begins and
    ends."""

    threshold: float = 0.3
    excluded_threshold: float = 0.3
    start: float = 0.0
    stop: float = 1.0

    def checked(self) -> LocalBlend:
        """Itself. Raises ValueError, by name, for a number outside its range."""
        for name, value in self._asdict().items():
            if not 0 <= real(name, value) <= 1 or (value == 1 and name not in ("start", "stop")):
                raise ValueError(f"{name} of the local blend is {value!r}; expected a number from 0 to below 1")
        return self

    def span(self, levels: int, *, compat: str | None = None) -> tuple[int, int]:
        """The noise levels first <= level < last, of so many, after which pictures are blended, rounded as in
        `edited_levels`. Raises ValueError where it stops before it starts."""
        return edited_levels("start and stop of the local blend", (self.start, self.stop), levels, compat=compat)


BLENDS = {"stable": LocalBlend(), "null_text": LocalBlend(start=0.2)}


def blend_mask(
    heat: Array, size: tuple[int, int], blend: LocalBlend = BLENDS["stable"], *, excluded: Array | None = None
) -> Array:
    """Where each picture of a batch [source, target_1, ...] may differ from the source: (B, 1, H, W), bool.

    heat, excluded: (B, L, h, w) attention of L layers or heads to the words, and to the excluded words, summed over
    them; its scale does not count. A pixel is inside where the words of its picture or of the source look, widened by
    one pixel of (h, w), and the excluded words of neither do. Raises ValueError for other shapes.
    """
    if heat.ndim != 4 or 0 in heat.shape or (excluded is not None and excluded.shape != heat.shape):
        shapes = [tuple(maps.shape) for maps in (heat, excluded) if maps is not None]
        raise ValueError(f"the heat has shape {' and '.join(map(str, shapes))}; expected (B, L, h, w), all equal")
    widened = max_pool(_mean(heat), 3)
    mask = _above(widened, size, blend.threshold)
    if excluded is not None:
        mask = mask & ~_above(_mean(excluded), size, blend.excluded_threshold)
    return mask


def blended(x: Array, mask: Array) -> Array:
    """x (B, C, H, W) inside the mask (B, 1, H, W), the source's x[0] outside."""
    return namespace(x).where(mask, x, x[:1])


def _mean(heat: Array) -> Array:
    """Over layers or heads, (B, L, h, w) -> (B, 1, h, w)."""
    return namespace(heat).mean(heat, axis=1, keepdims=True)


def _above(heat: Array, size: tuple[int, int], threshold: float) -> Array:
    """Heat (B, 1, h, w) above the threshold's share of its maximum, in the picture or in the source: (B, 1, H, W)."""
    heat = resize(heat, size, mode="nearest")
    xp = namespace(heat)
    most = xp.max(heat, axis=(2, 3), keepdims=True)
    mask = (heat / xp.where(most > 0, most, 1) > threshold) & (most > 0)
    return mask | mask[:1]
