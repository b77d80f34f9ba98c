"""How a stage begins that fills a hole."""

from __future__ import annotations

from collections.abc import Sequence

from pydiff.arrays import Array, cast, expand, namespace
from pydiff.cascade import UPSCALE, Branch, Start
from pydiff.diffusion.loop import Known
from pydiff.ops.resize import resize
from pydiff.tasks.begin import Begin, Now, augmented, branches, leveled, pure_noise
from pydiff.tasks.hole import Hole
from pydiff.tasks.image_to_image import encoded


def finished(now: Now, begin: Begin, hole: Hole) -> Start:
    """The same, what it makes laid over what is kept."""
    return begin(now)._replace(finish=hole.finish)


def from_hole(now: Now, hole: Hole) -> Start:
    """[x | mask | latents of the picture without the hole] (Rombach et al. 2022)."""
    x0 = None if _is_whole(now) else encoded(now, hole.image)
    x = pure_noise(now) if x0 is None else now.plan.table.noised(x0, now.draw(tuple(x0.shape[1:])))
    outside = encoded(now, hole.image * (hole.mask < 0.5))
    mask = expand(_latent_mask(now, hole), len(x))
    return Start(x, now.noise, branches(now, namespace(x).concat([mask, outside], axis=1)))


def from_known(now: Now, hole: Hole, repaints: bool, clean: bool) -> Start:
    """RePaint or blending, of pixels or latents. clean: see `_blended`."""
    table, codec = now.plan.table, now.plan.stage.codec
    image, mask = hole.at(now.plan.size) if codec is None else (hole.image, _latent_mask(now, hole))
    mask = now.as_weights(mask)
    if repaints:
        x0 = encoded(now, image)
        return Start(pure_noise(now), now.noise, branches(now), known=Known(x0, mask))
    if codec is None:
        return _blended(now, encoded(now, image), mask, branches(now), clean)
    x0 = encoded(now, image)
    drawn = now.draw(tuple(x0.shape[1:]))
    x = table.initial_scale * drawn if _is_whole(now) else table.noised(x0, drawn)
    now.noise(now.plan.stage.shape(now.plan.size), like=codec.like)  # diffusers encodes the picture without the hole
    return Start(x, now.noise, branches(now), known=Known(x0, mask, drawn))


def _blended(now: Now, x0: Array, mask: Array, told: Sequence[Branch], clean: bool) -> Start:
    """Pixels. What is kept has the same noise all the time, or is clean."""
    table, drawn = now.plan.table, now.draw(tuple(x0.shape[1:]))
    if clean:
        x = namespace(mask).where(mask > 0, table.noised(x0, drawn), x0)
        return Start(x, now.noise, told, known=Known(x0, mask, clean=True))
    x = table.initial_scale * drawn if _is_whole(now) else table.noised(x0, drawn)
    return Start(x, now.noise, told, known=Known(x0, mask, drawn))


def later(now: Now, hole: Hole, clean: bool) -> Start:
    """A super-resolution stage: blending, beside the picture of the stage before."""
    assert now.plan.stage.kind == UPSCALE
    image, mask = (now.as_weights(part) for part in hole.at(now.plan.size))
    x0 = expand(image, len(now.noise))
    start = _blended(now, x0, mask, (), clean)
    return start._replace(branches=branches(leveled(now, len(x0)), augmented(now)))


def _is_whole(now: Now) -> bool:
    return bool(now.plan.said["strength"] in (None, 1))


def _latent_mask(now: Now, hole: Hole) -> Array:
    """The mask at the size of the latents (B or 1, 1, h, w): the pixel in the corner of each of their elements, or
    where a hole falls between those, all elements that it touches."""
    size = now.plan.stage.shape(now.plan.size)[1:]
    corners, shares = resize(hole.mask, size), resize(hole.mask, size, mode="area")
    xp = namespace(corners)
    lost = ~xp.any(corners > 0, axis=(1, 2, 3), keepdims=True)
    return now.as_weights(xp.where(lost, cast(shares > 0, corners.dtype), corners))
