"""What unCLIP has beside its U-Nets: a prior that draws the embedding of a picture, and ways to tell the decoder of it
(Ramesh et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydiff.arrays import Array, inference, namespace, placed
from pydiff.diffusion import loop
from pydiff.diffusion.config import SamplerConfig
from pydiff.diffusion.guidance import Guidance
from pydiff.diffusion.noise import Noise
from pydiff.diffusion.rows import StepTable
from pydiff.text.encoders import Encoded
from pydiff.vision import ImageEncoder

if TYPE_CHECKING:
    from pydiff.models.prior import Prior, PriorText
    from pydiff.models.unclip import TextProjection


@dataclass(frozen=True)
class UnCLIP:
    """projection: of words and a picture's embedding into what the decoder reads. A pipeline of prompts has a prior and
    its way of sampling; one of variations has vision, which embeds a picture given."""

    projection: TextProjection
    prior: Prior | None = None
    sampling: SamplerConfig | None = None
    vision: ImageEncoder | None = None


class PriorNetwork:
    """The prior as the loop sees it: x (B, D, 1, 1), t and branches in, predictions (R, B, D, 1, 1) out."""

    def __init__(self, prior: Prior, sides: tuple[Encoded, ...]) -> None:
        self.prior, self.sides = prior, sides
        self.prepared: dict[tuple[int, ...], PriorText] = {}

    def __call__(self, x: Array, t: float, branches: tuple[int, ...]) -> Array:
        if branches not in self.prepared:
            self.prepared[branches] = self._prepare(branches)
        rows = namespace(x).concat([x[..., 0, 0]] * len(branches))
        made = self.prior.predict(rows, placed(t, x), self.prepared[branches])
        return made.reshape((len(branches), *x.shape))

    def _prepare(self, branches: tuple[int, ...]) -> PriorText:
        sides = [self.sides[branch] for branch in branches]
        concat = namespace(sides[0].states).concat
        pooled = concat([side.pooled for side in sides])
        states, mask = concat([side.states for side in sides]), concat([side.mask for side in sides])
        return self.prior.prepare(pooled, states, mask)


def draw_embedding(
    unclip: UnCLIP, sides: tuple[Encoded, ...], table: StepTable, guidance: Guidance, noise: Noise
) -> Array:
    """CLIP's embedding (B, P) of pictures that show the prompts; sides are the words of each branch of guidance."""
    assert unclip.prior is not None
    assert unclip.sampling is not None
    weight = unclip.prior.proj_in.weight
    shape = (unclip.prior.config.embedding_dim, 1, 1)
    with inference():
        x = table.initial_scale * noise(shape, like=weight)
        walk = loop.sample(
            PriorNetwork(unclip.prior, sides),
            table,
            guidance,
            x=x,
            noise=noise,
            prediction_type=unclip.sampling.prediction_type,
            threshold=unclip.sampling.threshold,
        )
        for state in walk:
            x = state.x
        return unclip.prior.unnormalised(x[..., 0, 0])
